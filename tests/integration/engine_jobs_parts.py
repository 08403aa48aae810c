"""What tests of jobs beside live work share: a run that is alive, what somebody asks of it, what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from engine_parts import finish, kept, open_store

from dlq.replay import ReplayRequest, create_replay
from penstock.config.model import Pipeline
from penstock.engine import jobs as engine_jobs
from penstock.engine.assemble import Surroundings, assemble
from penstock.engine.run import Run, RunOptions
from penstock.errors import Permanent
from penstock.event import Event
from penstock.observe.log import Incident
from penstock.observe.status import RunSummary
from penstock.state.job_records import Job
from penstock.state.records import LetterQuery

OPEN = LetterQuery(status=("open", "parked"))


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run, for jobs."""
    monkeypatch.setattr(engine_jobs, "TICK", 0.01)
    monkeypatch.setattr(engine_jobs, "FOLLOWING", 0.0)


class Mend:
    """A step that refuses what is not mended yet."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)

    def __call__(self, event: Event) -> Any:
        return Permanent("step.bad", f"{event.id} is bad") if event.id in self.refused else event


@dataclass
class Live:
    """A run that is alive."""

    run: Run
    task: asyncio.Task[RunSummary]
    said: list[Incident] = field(default_factory=list)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                assert not self.task.done(), self.task
                await asyncio.sleep(0.002)

    async def received(self, count: int) -> None:
        await self.until(lambda: self.run.status.counts.received >= count)

    async def end(self) -> RunSummary:
        self.run.stop()
        return await finish(self.task)


@asynccontextmanager
async def running(pipeline: Pipeline, **options: Any) -> AsyncIterator[Live]:
    said: list[Incident] = []
    run = Run(pipeline, RunOptions(log=said.append, **options))
    live = Live(run, asyncio.create_task(run.execute()), said)
    try:
        yield live
    finally:
        live.task.cancel()
        await asyncio.gather(live.task, return_exceptions=True)


async def ask(pipeline: Pipeline, query: LetterQuery = OPEN, **how: Any) -> str:
    """Another process makes a replay."""
    options = RunOptions()
    assembly = assemble(pipeline, Surroundings(options.clock, options.random, options.faults))
    async with open_store(pipeline) as store:
        return (await create_replay(store, assembly, ReplayRequest(query=query, **how), "ann@here")).id


async def job_of(pipeline: Pipeline, identity: str) -> Job:
    async with open_store(pipeline) as store:
        return await store.jobs.find(identity)


async def ended(pipeline: Pipeline, identity: str) -> Job:
    async with asyncio.timeout(20):
        while (job := await job_of(pipeline, identity)).open:
            await asyncio.sleep(0.005)
    return job


async def statuses(pipeline: Pipeline) -> dict[str, str]:
    return {letter.event_id: letter.status for letter in (await kept(pipeline)).letters}
