"""The journal of whole runs: a disk that is full, retention, secrets, rights, and what people are told of it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input_parts import Project
from disk_parts import IMPATIENT, make_larger, reason_to_wait, small_disk
from waiting import until_async

from penstock.engine import retry
from penstock.journal.reader import JournalReader
from penstock.observe.log import Incident
from penstock.testing.journal_check import journal_lines

RECORDS = [b'{"n":%d,"text":"%b"}' % (n, os.urandom(500).hex().encode()) for n in range(600)]
PIPELINE = "source: {file: in.jsonl}\nsink: {file: out.jsonl}\nbatching: {count: 20}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retry, "PATIENT", IMPATIENT)
    project = Project(tmp_path)
    project.write("in.jsonl", *RECORDS)
    return project


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "256k", "tests/fault/test_journal_disk.py tries every failing call") as path:
        yield path


def journalled(directory: Path) -> list[int]:
    return [line["event"]["data"]["n"] for line in journal_lines(directory)]


async def test_a_full_journal_is_waited_for_and_told_of_once(
    project: Project, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.engine.upkeep.REPORT_AFTER", 0.0)
    monkeypatch.setattr("penstock.engine.upkeep.TICK", 0.01)
    project.pipeline(PIPELINE + "journal: {path: disk}\n")
    told: list[Incident] = []
    run = project.make(log=told.append)
    task = asyncio.create_task(run.execute())

    reason = await reason_to_wait(run, task)
    await until_async(lambda: told, task)
    held = run.status.counts.received, run.status.ready, len(journalled(small / "orders"))
    shown = project.pipe("status", "orders.yaml")
    text = (await asyncio.to_thread(shown.communicate, timeout=60))[0].decode()
    make_larger(small)
    summary = await asyncio.wait_for(task, 20)

    assert reason == "journal.disk: the journal cannot be written: No space left on device"
    assert 0 < held[0] < 600
    assert held[1] is False
    assert held[2] <= held[0] + 20
    assert "is full" in text, text
    assert (summary.counts.received, summary.counts.delivered, run.status.waiting) == (600, 600, None)
    assert journalled(small / "orders") == list(range(600))
    assert project.lines() == RECORDS
    assert [(each.code, "No space left" in each.message) for each in told if each.code == "run.waiting"] == [
        ("run.waiting", True)
    ]
    assert [each.code for each in told].count("run.resumed") == 1


async def test_a_run_that_cannot_begin_its_journal_waits_too(project: Project, small: Path) -> None:
    project.pipeline(PIPELINE + "journal: {path: disk/deep}\n")
    with (small / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"x" * 4096)
        except OSError:
            pass
    for number in range(10_000):  # not an inode either
        try:
            (small / f"inode{number}").touch()
        except OSError:
            break
    told: list[Incident] = []
    run = project.make(log=told.append)
    task = asyncio.create_task(run.execute())
    reason = await reason_to_wait(run, task)
    make_larger(small)
    summary = await asyncio.wait_for(task, 20)
    assert (reason.startswith("journal.disk"), summary.counts.delivered) == (True, 600)
    assert journalled(small / "deep/orders") == list(range(600))


async def test_a_small_journal_has_small_segments_of_which_the_oldest_go(project: Project) -> None:
    project.pipeline(PIPELINE + "journal: {max_size: 1MiB}\n")
    project.write("in.jsonl", *RECORDS * 6)
    await project.run()
    await project.run()  # upkeep looks at the start, and then every minute
    directory = project.root / ".penstock/journal/orders"
    size = sum(path.stat().st_size for path in directory.glob("0*"))
    assert size <= 1 << 20
    left = journalled(directory)
    assert left == (list(range(600)) * 6)[-len(left) :]
    assert len(left) > 500
    assert JournalReader(directory).extent().lines == len(left)


CANARIES = "canary-token-8812-xyz", "canary-password-4711"
SECRET = """\
source: { file: in.jsonl }
transforms:
  - name: hide
    redact: { fields: [.text], with: hash, key: "${TOKEN}" }
  - name: check
    jq: 'if .n == "${TOKEN}" or .n == 3 then error("odd") else . end'
sinks:
  - file: out.jsonl
  - postgres: { dsn: "postgresql://pipe:${PASSWORD}@127.0.0.1:1/shop", table: t, key: [n] }
"""


def test_no_secret_gets_into_a_journal(project: Project) -> None:
    """Invariant 9. A run whose sink has a DSN does not get far here; the steps' secrets pass through the whole of it."""
    secrets = dict(zip(("TOKEN", "PASSWORD"), CANARIES, strict=True))
    project.pipeline(SECRET.replace("  - postgres", "  # - postgres"))
    whole = ("run", "--once", "--log-level", "debug", "--set", "journal.outputs=full", "orders.yaml")
    status, _, said = project.call(*whole, **secrets)
    assert status == 0, said
    project.pipeline(SECRET + "retry: { max_attempts: 1 }\n")
    failed = project.pipe(
        "run", "--once", "--set", "state=sqlite:other", "--set", "retry.max_elapsed=1s", "orders.yaml", **secrets
    )
    try:
        failed.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        failed.kill()
        failed.communicate()
    texts = [path.read_bytes() for path in (project.root / ".penstock/journal/orders").iterdir()]
    texts += [json.dumps(line).encode() for line in journal_lines(project.root / ".penstock/journal/orders")]
    texts += [path.read_bytes() for path in (project.root / "other").rglob("*") if path.is_file()]
    assert len(texts) > 600
    assert [text for text in texts if any(canary.encode() in text for canary in CANARIES)] == []


def test_nobody_else_may_read_what_came_in(project: Project) -> None:
    project.pipeline(PIPELINE)
    status, _, said = project.call("run", "--once", "orders.yaml")
    assert status == 0, said
    directory = project.root / ".penstock/journal"
    modes = {str(path.relative_to(directory.parent)): path.stat().st_mode & 0o777 for path in (directory, *directory.rglob("*"))}
    assert {name: oct(mode) for name, mode in modes.items()} == {
        "journal": "0o700",
        "journal/orders": "0o700",
        "journal/orders/journal.json": "0o600",
        "journal/orders/0000000001.jsonl.zst": "0o600",
        "journal/orders/0000000001.index": "0o600",
        "journal/orders/0000000001.ids": "0o600",
    }
