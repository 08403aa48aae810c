"""Jobs of a run whose state is kept in a PostgreSQL server: as over a file, whatever dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Shelf, Table, crash_at, dedup, finish, make_pipeline, run_once, sink, step
from engine_parts import parts as parts

from dlq.replay import ReplayRequest, create_replay, summary_of
from penstock.config.model import Batching, Pipeline
from penstock.config.secret import Secret
from penstock.engine import jobs as engine_jobs
from penstock.engine.carry_out import open_state
from penstock.engine.run import Run, RunOptions
from penstock.errors import Fatal, Permanent
from penstock.event import Event
from penstock.ledger import Counts
from penstock.state.job_records import Job
from penstock.state.records import LetterQuery
from penstock.state.store import StateStore
from penstock.testing.servers import Database

OPEN = LetterQuery(status=("open", "parked"))
IDS = [f"p{n}" for n in range(6)]


class Mend:
    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)

    def __call__(self, event: Event) -> Any:
        return Permanent("step.bad", f"{event.id} is bad") if event.id in self.refused else event


@asynccontextmanager
async def opened(pipeline: Pipeline) -> AsyncIterator[tuple[StateStore, Any]]:
    async with open_state(pipeline, RunOptions()) as found:
        yield found


async def ask(pipeline: Pipeline) -> str:
    async with opened(pipeline) as (store, assembly):
        return (await create_replay(store, assembly, ReplayRequest(query=OPEN), "ann@here")).id


async def job_of(pipeline: Pipeline, identity: str) -> Job:
    async with opened(pipeline) as (store, _):
        return await store.jobs.find(identity)


async def statuses(pipeline: Pipeline) -> dict[str, str]:
    async with opened(pipeline) as (store, _):
        letters, _ = await store.letters(LetterQuery(status=()))
        return {letter.event_id: letter.status for letter in letters}


@pytest.mark.parametrize("kind", ["table", "tape"])
async def test_a_live_run_over_a_server_replays_beside_its_events(
    tmp_path: Path, kind: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_jobs, "TICK", 0.02)
    feed, mend = Feed.of(*({"n": n} for n in range(6)), batch=6), Mend(*IDS)
    out: Any = Table(tmp_path / "t.db") if kind == "table" else Shelf()
    pipeline = make_pipeline(
        tmp_path, feed, sink("out", out, kind=kind), steps=[step("mend", mend)], batching=Batching(count=2),
        state_server=Secret(database.dsn),
    )  # fmt: skip
    run = Run(pipeline, RunOptions())
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(30):
        while run.status.counts.received < 6:
            await asyncio.sleep(0.005)
        mend.refused = {"p5"}
        identity = await ask(pipeline)
        feed.add({"n": 6})
        while (await job_of(pipeline, identity)).open:
            await asyncio.sleep(0.01)
        while run.status.counts.received < 7:
            await asyncio.sleep(0.005)
    run.stop()
    assert (await finish(task)).counts == Counts(7, 1, dead_lettered=6)
    summary = summary_of(await job_of(pipeline, identity))
    assert (sorted(out.ids), summary.delivered, summary.failed_again) == ([*IDS[:5], "p6"], 5, 1)
    assert await statuses(pipeline) == dict.fromkeys(IDS[:5], "resolved") | {"p5": "open"}


@pytest.mark.parametrize("kind", ["table", "tape"])
@pytest.mark.parametrize("point", ["before_job_commit", "before_job_note", "after_job_note", "after_job_end"])
async def test_a_run_over_a_server_that_dies_in_a_job_delivers_once(
    tmp_path: Path, kind: str, point: str, database: Database
) -> None:
    feed, mend = Feed.of(*({"n": n} for n in range(6)), batch=6), Mend(*IDS)
    out: Any = Table(tmp_path / "t.db") if kind == "table" else Shelf()
    pipeline = make_pipeline(
        tmp_path, feed, sink("out", out, kind=kind), steps=[step("mend", mend)], dedup=dedup(), batching=Batching(count=2),
        state_server=Secret(database.dsn),
    )  # fmt: skip
    await run_once(pipeline)
    mend.refused.clear()
    identity = await ask(pipeline)
    with pytest.raises(Fatal, match="crashed at"):
        await run_once(pipeline, faults=crash_at(point, 1 if point == "after_job_end" else 2))
    await run_once(pipeline)
    job = await job_of(pipeline, identity)
    summary = summary_of(job)
    assert (sorted(out.ids), job.state, job.progress.done) == (IDS, "done", 6)
    assert (summary.selected, summary.delivered + summary.settled) == (6, 6)
    assert set((await statuses(pipeline)).values()) == {"resolved"}
