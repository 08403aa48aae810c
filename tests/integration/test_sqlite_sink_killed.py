"""SIGKILL at every fault point of store and sink, in processes of their own: after each, a claim finds whole groups only."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.clock import SystemClock
from penstock.faults import Faults
from penstock.ledger import Claimant
from penstock.state.ledger_tables import LedgerTables
from penstock.state.open import open_store
from penstock.state.pipeline_records import Version
from penstock.state.records import LetterQuery

ROOT = Path(__file__).parents[2]

# One event a group: even ones are delivered, odd ones are dead letters owed by the warehouse. Steps 1 to 3 in their order.
RUN = """
import asyncio, pathlib, random, sys
from connectors.sinks.sqlite import SqliteConfig, SqliteSink
from penstock.clock import SystemClock
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import *
from penstock.spi import *
from penstock.state.open import open_store
from penstock.state.pipeline_records import Note, Version
from penstock.state.records import DeadLetter

async def main(directory):
    faults = Faults.from_environment()
    store = open_store(directory, "orders", SystemClock(), faults)
    await store.open(); await store.hold()
    epoch = await store.issue_epoch(Version("v", "{}", {}, {}, 0.0))
    context = Context("orders", "warehouse", directory, directory, None, SystemClock(), random.Random(1), faults)
    sink = SqliteSink(SqliteConfig(path="out.db", table="orders", create=True), context)
    await sink.open(None)
    claim = await sink.claim(Claimant(epoch, "orders/warehouse", "s", "k", 100.0))
    await store.settle(epoch, {"warehouse": claim})
    for group in range(claim.group + 1, 9):
        position, key = bytes([group]), Key(bytes([group]) * 16, b"12345678")
        letter = DeadLetter(str(group), "orders", "v", "s", "c", "m", "f", "p", position, "s", str(group), "t", None, b"{}",
                            b"{}", None, 0, "", False, owed=["warehouse"])
        letters = [letter] if group % 2 else []
        events = [] if letters else [Event(str(group), "s", "t", decoded={"id": group})]
        if letters:
            await store.put_dead_letters(epoch, group, letters, [])
        faults.hit("before_commit")
        keys = [] if letters else [key]
        commit = Commit(epoch, group - 1, group, {"p": Position(position)}, Counts(group), keys, float(group))
        await sink.write_and_commit(events, commit)
        faults.hit("before_note")
        await store.note(epoch, Note(group, {"p": Position(position)}))
        faults.hit("after_note")
    await sink.close(); await store.close()

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def run(directory: Path, fault: str = "") -> int:
    child = subprocess.run(
        [sys.executable, "-c", RUN, str(directory)],
        cwd=ROOT,
        env={"PENSTOCK_FAULT": fault},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode in (0, -signal.SIGKILL), child.stderr
    return child.returncode


@pytest.mark.parametrize(
    "fault",
    [
        "mid_migration:1", "mid_migration:2", "mid_claim:1", "before_dead_letters:2", "mid_dead_letters:2", "before_commit:3",
        "before_commit:4", "inside_sink_write:2", "inside_commit:3", "inside_commit:4", "before_note:3", "before_note:4",
        "after_note:5",
    ],
)  # fmt: skip
async def test_killed_anywhere_and_run_again_the_outcome_is_that_of_an_undisturbed_run(tmp_path: Path, fault: str) -> None:
    assert run(tmp_path, f"{fault}:kill") == -signal.SIGKILL
    if (tmp_path / "out.db").exists():
        db = sqlite3.connect(tmp_path / "out.db")
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'orders'").fetchone():
            _, group = LedgerTables("orders/warehouse").committed(db)
            assert db.execute("SELECT id FROM orders").fetchall() == [(n,) for n in range(2, group + 1, 2)]
        db.close()

    assert run(tmp_path) == 0

    db = sqlite3.connect(tmp_path / "out.db")
    assert db.execute("SELECT id FROM orders ORDER BY rowid").fetchall() == [(2,), (4,), (6,), (8,)]
    db.close()
    store = open_store(tmp_path, "orders", SystemClock(), Faults())
    await store.open(create=False)
    letters, _ = await store.letters(LetterQuery())
    assert sorted((one.id, one.attempts, one.status) for one in letters) == [(str(n), 1, "open") for n in (1, 3, 5, 7)]
    epoch = await store.issue_epoch(Version("v", "{}", {}, {}, 0.0))
    await store.settle(epoch, {})
    assert len((await store.letters(LetterQuery()))[0]) == 4  # nothing provisional was left
    assert (await store.claim(Claimant(epoch, "orders/state", "s"))).group == 0
    await store.close()
