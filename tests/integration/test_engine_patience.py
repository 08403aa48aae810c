"""What a server's blip costs: a moment. Every question to a source, a sink or a ledger is asked again before the run gives up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, ListSource, Shelf, Table, TableSink, dedup, make_pipeline, run_once, sink
from engine_parts import parts as parts

from penstock.config.model import Retry
from penstock.engine.pool import WorkerPool
from penstock.engine.run import Run, RunOptions
from penstock.engine.worker_handle import WorkerHandle
from penstock.errors import EnvironmentFault, Transient, Unavailable
from penstock.ledger import Counts

RECORDS = [{"n": n} for n in (1, 2, 1, 3)]


def failing_first(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, *errors: Transient) -> list[Transient]:
    """The first calls of a method fail with these errors; the list holds those that are still to come."""
    left, method = list(errors), getattr(owner, name)

    async def call(self: Any, *given: Any) -> Any:
        if left:
            raise left.pop(0)
        return await method(self, *given)

    monkeypatch.setattr(owner, name, call)
    return left


@pytest.mark.parametrize("error", [Transient("server.gone", "reset by peer"), Unavailable("disk.full", "no space")])
@pytest.mark.parametrize(
    ("owner", "name"), [(ListSource, "open"), (ListSource, "ack"), (TableSink, "open"), (TableSink, "claim"), (TableSink, "seen")]
)
async def test_a_blip_costs_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Transient
) -> None:
    feed, table = Feed.of(*RECORDS, batch=1), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), dedup=dedup())
    left = failing_first(monkeypatch, owner, name, error)
    run = Run(pipeline, RunOptions(once=True))
    summary = await asyncio.wait_for(run.execute(), 30)
    assert (left, table.ids, summary.counts) == ([], ["p0", "p1", "p3"], Counts(4, 3, deduplicated=1))
    assert run.status.waiting is None


async def test_a_source_that_cannot_be_opened_ends_the_run_when_no_attempt_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline(tmp_path, Feed.of(*RECORDS), sink("shelf", Shelf()), retry=Retry(2, initial_delay=0.001))
    failing_first(monkeypatch, ListSource, "open", *[Transient("server.gone", "refused", help="start it")] * 2)
    with pytest.raises(EnvironmentFault) as caught:
        await run_once(pipeline)
    assert (caught.value.code, caught.value.where, caught.value.help) == ("server.gone", "source", "start it")


async def test_a_run_that_waits_for_its_source_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(tmp_path, Feed.of(*RECORDS), sink("shelf", Shelf()))
    failing_first(monkeypatch, ListSource, "open", *[Unavailable("disk.full", "no space")] * 1000)
    run = Run(pipeline, RunOptions())
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(20):
        while run.status.waiting is None:
            await asyncio.sleep(0.001)
        run.stop()
        summary = await task
    assert summary.counts == Counts()


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def worker_pids(monkeypatch: pytest.MonkeyPatch, started: Callable[[int], Awaitable[None]]) -> list[int]:
    """Process ids of the workers that are started; each start is told with how many there are."""
    pids: list[int] = []
    start = WorkerHandle.start

    async def watched(*given: Any) -> WorkerHandle:
        await started(len(pids))
        handle = await start(*given)
        pids.append(handle._process.pid)
        return handle

    monkeypatch.setattr(WorkerHandle, "start", watched)
    return pids


async def test_no_worker_is_left_behind_when_another_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(number: int) -> None:
        calls.append(number)
        if len(calls) == 2:
            raise BlockingIOError(os.strerror(11))

    calls: list[int] = []
    pids = worker_pids(monkeypatch, refuse)
    pipeline = make_pipeline(tmp_path, Feed.of(*RECORDS), sink("shelf", Shelf()), workers=2)
    with pytest.raises(EnvironmentFault) as caught:
        await run_once(pipeline)
    assert (caught.value.code, len(pids), alive(pids)) == ("worker.not_started", 1, [])


async def test_no_worker_is_left_behind_by_a_run_cancelled_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawning = asyncio.Event()
    spawn = WorkerPool._spawn

    async def watched(self: WorkerPool) -> WorkerHandle:
        spawning.set()
        return await spawn(self)

    async def nothing(number: int) -> None: ...

    monkeypatch.setattr(WorkerPool, "_spawn", watched)
    pids = worker_pids(monkeypatch, nothing)
    task = asyncio.create_task(run_once(make_pipeline(tmp_path, Feed.of(*RECORDS), sink("shelf", Shelf()), workers=2)))
    await spawning.wait()
    while len(pids) < 2:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert alive(pids) == []
