"""What is in flight, how commits are grouped, and the rate: bounded as declared."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_parts import (
    Feed,
    Gate,
    Shelf,
    Table,
    dedup,
    delivered,
    finish,
    make_pipeline,
    numbers,
    run_once,
    sink,
    step,
)
from engine_parts import parts as parts
from waiting import until_async

from penstock.config.model import Batching, Limits
from penstock.engine.run import Run, RunOptions
from penstock.testing.clock import FakeClock


@pytest.mark.parametrize(
    "limits",
    [Limits(in_flight_events=6), Limits(in_flight_bytes=6 * len(b'{"n":0}'))],
    ids=["events", "bytes"],
)
async def test_what_is_in_flight_is_bounded(tmp_path: Path, limits: Limits) -> None:
    feed, shelf, gate = Feed.of(*[{"n": 0}] * 40), Shelf(), Gate()
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[step("gate", gate, batched=True)], limits=limits)
    run = Run(pipeline, RunOptions(once=True))
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.in_flight_events == 6, task)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (run.status.in_flight_events, run.status.in_flight_bytes, shelf.ids) == (6, 42, [])
    assert feed.read <= 8  # one batch more has been read, and waits for its credits
    gate.open.set()
    summary = await finish(task)
    assert (summary.counts, run.status.in_flight_events, run.status.in_flight_bytes) == (delivered(40), 0, 0)


async def test_a_batch_larger_than_the_limits_goes_alone(tmp_path: Path) -> None:
    feed, shelf = Feed.of(*numbers(9), batch=3), Shelf()
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), limits=Limits(in_flight_events=2, in_flight_bytes=1))
    assert (await run_once(pipeline)).counts == delivered(9)


async def test_while_a_commit_is_slow_the_batches_that_finish_become_the_next_group(tmp_path: Path) -> None:
    feed, table, slow = Feed.of(*numbers(20)), Table(tmp_path / "t.db"), asyncio.Event()
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    table.slow = slow
    run = Run(pipeline, RunOptions(once=True))
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.in_flight_events == 20 and table.waiting, task)
    slow.set()
    await finish(task)
    assert (len(table.commits), table.ids) == (2, [f"p{n}" for n in range(20)])
    assert [int.from_bytes(commit.positions["p"].order, "big") for commit in table.commits] == [2, 20]


async def test_batching_period_waits_for_the_count(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(9)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), batching=Batching(count=4, period=600.0))
    await run_once(pipeline)
    assert [commit.counts.received for commit in table.commits] == [4, 8, 9]


async def test_batching_period_waits_for_the_bytes(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(9)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), batching=Batching(count=500, bytes=28, period=600.0))
    await run_once(pipeline)
    assert [commit.counts.received for commit in table.commits] == [4, 8, 9]


@pytest.mark.parametrize("why", ["credits", "a repetition"])
async def test_batching_period_does_not_hold_up_what_waits_for_its_commit(tmp_path: Path, why: str) -> None:
    """The period is ten minutes; the run waits for a commit to read on, or to learn what became of an event's first."""
    feed, table = Feed.of({"n": 0}, {"n": 1}, {"n": 0}, {"n": 2}), Table(tmp_path / "t.db")
    pipeline = make_pipeline(
        tmp_path, feed, sink("table", table), batching=Batching(count=500, period=600.0),
        limits=Limits(in_flight_events=2) if why == "credits" else Limits(), dedup=dedup() if why == "a repetition" else None,
    )  # fmt: skip
    await run_once(pipeline)
    assert table.ids == (["p0", "p1", "p2", "p3"] if why == "credits" else ["p0", "p1", "p3"])


async def test_a_rate_spreads_the_batches_and_costs_nothing_behind_the_last(tmp_path: Path) -> None:
    feed, shelf, clock = Feed.of(*numbers(6)), Shelf(), FakeClock()
    run = Run(make_pipeline(tmp_path, feed, sink("shelf", shelf), limits=Limits(rate=1.0)), RunOptions(once=True, clock=clock))
    task = asyncio.create_task(run.execute())
    for count in (2, 4):
        await until_async(lambda count=count: run.status.counts.received == count, task)  # type: ignore[misc]  # bound at once
        await clock.advance(2)
    summary = await finish(task)
    assert (summary.counts, summary.seconds) == (delivered(6), 4.0)
