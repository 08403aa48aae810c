"""How a run ends: by its number of events, stopped, drained or not, cancelled."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from engine_parts import (
    Feed,
    Gate,
    Shelf,
    Table,
    delivered,
    finish,
    kept,
    make_pipeline,
    numbers,
    run_once,
    sink,
    step,
)
from engine_parts import parts as parts
from waiting import until_async

from penstock.config.model import Limits, Retry
from penstock.engine.run import Run, RunOptions
from penstock.errors import Transient
from penstock.ledger import Counts
from penstock.observe.log import Incident
from penstock.testing.clock import FakeClock


@pytest.mark.parametrize("count", [1, 2, 5, 7])
async def test_max_events_is_exact(tmp_path: Path, count: int) -> None:
    feed, table = Feed.of(*numbers(7), batch=3), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    summary = await run_once(pipeline, max_events=count)
    assert (summary.counts, table.ids) == (delivered(count), [f"p{n}" for n in range(count)])
    await run_once(pipeline)
    assert (table.ids, (await kept(pipeline)).totals) == ([f"p{n}" for n in range(7)], delivered(7))


async def test_max_events_ends_behind_a_batch_that_cannot_be_divided(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(7), batch=3, divisible=False), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    summary = await run_once(pipeline, max_events=4)
    await run_once(pipeline)
    assert (summary.counts.received, table.ids) == (6, [f"p{n}" for n in range(7)])


async def test_stopping_drains_what_was_read(tmp_path: Path) -> None:
    feed, shelf, gate = Feed.of(*numbers(4)), Shelf(), Gate()
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[step("gate", gate, batched=True)])
    run = Run(pipeline, RunOptions())
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.in_flight_events == 4, task)
    run.stop()
    await until_async(lambda: run.status.phase == "draining", task)
    gate.open.set()
    summary = await finish(task)
    assert (summary.counts, shelf.ids, run.status.phase) == (delivered(4), ["p0", "p1", "p2", "p3"], "stopped")
    assert ((await kept(pipeline)).note.drained, feed.acked[-1]) == (False, ("p", 4))


async def test_a_source_that_never_waits_is_stopped_all_the_same(tmp_path: Path) -> None:
    feed, shelf = Feed.of({"n": 0}), Shelf()
    feed.after = lambda batch: feed.add({"n": 0}, {"n": 0})
    run = Run(make_pipeline(tmp_path, feed, sink("shelf", shelf)), RunOptions())
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.counts.received > 10, task)
    run.stop()
    summary = await finish(task)
    assert len(shelf.ids) == summary.counts.delivered == summary.counts.received


@pytest.mark.parametrize("why", ["rate", "retry"])
async def test_stopping_does_not_wait_for_a_sleep_of_the_reader(tmp_path: Path, why: str) -> None:
    feed, shelf = Feed.of(*numbers(4)), Shelf()
    if why == "retry":
        feed.unplugged[2] = Transient("list.down", "down")
    limits = Limits(rate=0.001 if why == "rate" else None)
    retry = Retry(initial_delay=1e6, max_delay=1e6, max_elapsed=1e9)
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), limits=limits, retry=retry)
    run = Run(pipeline, RunOptions(random=random.Random(1)))
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.counts.received == 2, task)
    run.stop()
    assert ((await finish(task)).counts, shelf.ids) == (delivered(2), ["p0", "p1"])


async def test_a_run_that_does_not_drain_in_time_ends_and_says_so(tmp_path: Path) -> None:
    feed, shelf, clock, said = Feed.of(*numbers(2)), Shelf(), FakeClock(), list[Incident]()
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[step("gate", Gate(), batched=True)])
    run = Run(pipeline, RunOptions(clock=clock, log=said.append))
    before = asyncio.all_tasks()
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.in_flight_events == 2, task)
    run.stop()
    await until_async(lambda: run.status.phase == "draining", task)
    await clock.advance(pipeline.shutdown_timeout)
    summary = await finish(task)
    assert (summary.counts, shelf.ids, feed.acked) == (Counts(), [], [])
    assert [(incident.level, incident.code) for incident in said] == [("warning", "shutdown.timeout")]
    assert asyncio.all_tasks() - before == set()


async def test_cancelling_a_run_ends_it_cleanly(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    run = Run(pipeline, RunOptions())
    before = asyncio.all_tasks()
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.counts.received == 2, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finish(task)
    assert (asyncio.all_tasks() - before, feed.closed, run.status.phase) == (set(), 1, "failed")
    assert (await run_once(pipeline)).counts == Counts()
