"""Before and beside the events: a locked state store is waited for at the start, a fault in the upkeep ends the run."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from engine_parts import Feed, Table, make_pipeline, run_once, sink
from engine_parts import parts as parts

from penstock.engine.run import Run, RunOptions
from penstock.engine.upkeep import Upkeep
from penstock.errors import Fatal
from penstock.observe.log import Incident
from penstock.state import sqlite_database


async def test_a_run_waits_for_a_locked_state_store_before_it_claims(tmp_path: Path) -> None:
    feed, table = Feed.of({"n": 0}, {"n": 1}, {"n": 2}), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    await run_once(pipeline)
    database = next(tmp_path.rglob(f"{pipeline.name}.db"))
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    told = asyncio.Event()
    said: list[Incident] = []

    def log(incident: Incident) -> None:
        said.append(incident)
        told.set()

    run = Run(pipeline, RunOptions(once=True, log=log))
    task = asyncio.create_task(run.execute())
    await asyncio.wait_for(told.wait(), sqlite_database.BUSY_TIMEOUT + 20)
    assert (run.status.ready, run.status.epoch, [incident.code for incident in said]) == (False, 0, ["state.busy"])
    other.execute("ROLLBACK")
    other.close()
    summary = await asyncio.wait_for(task, 30)
    assert (summary.counts.received, run.status.totals.delivered) == (0, 3)


async def test_what_goes_wrong_beside_the_events_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Upkeep) -> None:
        raise LookupError("no such thing")

    monkeypatch.setattr(Upkeep, "expire", broken)
    feed, table = Feed.of({"n": 0}), Table(tmp_path / "t.db")
    with pytest.raises(Fatal, match="no such thing") as caught:
        await asyncio.wait_for(Run(make_pipeline(tmp_path, feed, sink("table", table)), RunOptions()).execute(), 30)
    assert (caught.value.code, caught.value.where) == ("internal.error", "upkeep")
