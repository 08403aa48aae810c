"""A paused pipeline reads nothing, loses nothing, and goes on where it stood: in a run, through runs, and under --once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_parts import (
    Feed,
    Gate,
    Shelf,
    Table,
    at,
    dedup,
    delivered,
    finish,
    kept,
    make_pipeline,
    numbers,
    pass_time,
    run_once,
    sink,
    step,
)
from engine_parts import parts as parts
from engine_signal_parts import outcome, running, signals_of
from engine_signal_parts import quick_looks as quick_looks
from waiting import until_async

from penstock.config.model import Batching, Limits, Pipeline
from penstock.engine.flow import Flow
from penstock.engine.run import Run, RunOptions
from penstock.engine.signals import Signals
from penstock.engine.upkeep import REPORT_AFTER
from penstock.errors import Transient
from penstock.ledger import Counts
from penstock.observe.log import Incident
from penstock.state.signal_records import Inbox, Pause
from penstock.testing.clock import FakeClock


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def feed() -> Feed:
    return Feed.of(*numbers(4))


@pytest.fixture
def pipeline(tmp_path: Path, feed: Feed, shelf: Shelf) -> Pipeline:
    return make_pipeline(tmp_path, feed, sink("shelf", shelf))


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def some_looks(run: Run) -> None:
    """Long enough for a run that reads to have read."""
    await asyncio.sleep(0.1)
    assert run.status.phase == "running"


async def test_while_it_is_paused_nothing_is_delivered_and_what_was_read_is_committed(
    tmp_path: Path, feed: Feed, shelf: Shelf
) -> None:
    gate, said = Gate(), list[Incident]()
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[step("gate", gate, batched=True)])
    async with running(pipeline, log=said.append) as run, signals_of(pipeline) as box:
        await eventually(lambda: gate.waiting and run.status.in_flight_events == 4)
        pause = await box.pause("ann@here", "the sink moves")
        await eventually(lambda: run.status.paused)
        assert (run.status.ready, run.status.waiting) == (False, None)
        waiting = await box.find(pause)
        assert waiting is not None
        assert waiting.outcome is None
        gate.open.set()
        assert (await outcome(box, pause)).outcome == "accepted"
        assert (shelf.ids, run.status.in_flight_events, feed.acked) == (["p0", "p1", "p2", "p3"], 0, [("p", 2), ("p", 4)])

        feed.add(*({"n": n} for n in range(4, 10)))
        await some_looks(run)
        assert (len(shelf.ids), feed.read <= 6, run.status.in_flight_events) == (4, True, 0)
        assert (await kept(pipeline)).totals == delivered(4)

        resume = await box.resume("bob@there")
        assert (await outcome(box, resume)).outcome == "accepted"
        await eventually(lambda: len(shelf.ids) == 10)
        assert (run.status.paused, run.status.ready) == (None, True)
    assert (shelf.ids, (await kept(pipeline)).totals) == ([f"p{n}" for n in range(10)], delivered(10))
    assert [(one.code, one.help) for one in said] == [("run.paused", "pipe resume orders"), ("run.resumed", None)]
    assert "by ann@here (the sink moves)" in said[0].message


async def test_a_pause_lasts_through_runs_and_a_paused_run_that_is_stopped_leaves_all_as_it_was(
    pipeline: Pipeline, feed: Feed, shelf: Shelf
) -> None:
    async with signals_of(pipeline, create=True) as box:
        await box.pause("ann@here")
    for _ in range(2):
        said: list[Incident] = []
        async with running(pipeline, log=said.append) as run:
            await some_looks(run)
            assert "by ann@here" in (run.status.paused or "")
        assert (feed.read, shelf.ids, run.summary().counts) == (0, [], Counts())
        assert [one.code for one in said] == ["run.paused"]
    async with running(pipeline), signals_of(pipeline) as box:
        await box.resume("ann@here")
        await eventually(lambda: len(shelf.ids) == 4)
    assert [state == {} for state in feed.resumed] == [True] * 3


async def test_a_batch_that_came_as_it_was_paused_is_held_and_read_again_by_the_next_run(
    pipeline: Pipeline, feed: Feed, shelf: Shelf
) -> None:
    async with running(pipeline) as run, signals_of(pipeline) as box:
        await eventually(lambda: len(shelf.ids) == 4 and not run.status.in_flight_events)
        await outcome(box, await box.pause("ann@here"))
        feed.add({"n": 4}, {"n": 5})
        await eventually(lambda: feed.read == 6)
        await some_looks(run)
        assert len(shelf.ids) == 4
    async with signals_of(pipeline) as box:
        await box.resume("ann@here")
    await run_once(pipeline)
    assert (shelf.ids, feed.resumed[1]) == ([f"p{n}" for n in range(6)], {"p": at(4)})


async def test_run_once_while_paused_ends_by_itself_and_says_why(pipeline: Pipeline, feed: Feed, shelf: Shelf) -> None:
    async with signals_of(pipeline, create=True) as box:
        pause = await box.pause("ann@here")
        said: list[Incident] = []
        summary = await run_once(pipeline, log=said.append)
        assert (summary.counts, feed.read) == (Counts(), 0)
        assert (await outcome(box, pause)).outcome == "accepted"
        assert [one.code for one in said] == ["run.paused"]
        assert "ends here, for it was to run once" in said[0].message
        assert not (await kept(pipeline)).note.drained
        await box.resume("ann@here")
    assert (await run_once(pipeline)).counts == delivered(4)


async def test_run_once_that_is_paused_on_its_way_commits_what_it_read_and_ends(tmp_path: Path, feed: Feed, shelf: Shelf) -> None:
    gate = Gate()
    feed.add(*({"n": n} for n in range(4, 5000)))
    bounds = Limits(in_flight_events=1000)  # not all of it is read before the pause is seen
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[step("gate", gate, batched=True)], limits=bounds)
    run = Run(pipeline, RunOptions(once=True))
    task = asyncio.create_task(run.execute())
    await until_async(lambda: gate.waiting, task)
    async with signals_of(pipeline) as box:
        pause = await box.pause("ann@here")
        await until_async(lambda: run.status.paused, task)
        gate.open.set()
        summary = await finish(task)
        assert (await outcome(box, pause)).outcome == "accepted"
        assert 0 < summary.counts.delivered < 5000
        assert shelf.ids == [f"p{n}" for n in range(summary.counts.delivered)]
        await box.resume("ann@here")
    await run_once(pipeline)
    assert shelf.ids == [f"p{n}" for n in range(5000)]


async def test_a_pause_does_not_wait_for_a_batching_period(tmp_path: Path, feed: Feed, shelf: Shelf) -> None:
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), batching=Batching(period=3600.0))
    async with running(pipeline) as run, signals_of(pipeline) as box:
        await eventually(lambda: run.status.in_flight_events == 4)
        await outcome(box, await box.pause("ann@here"))
        assert len(shelf.ids) == 4


async def test_paused_and_resumed_between_two_looks_both_are_answered(pipeline: Pipeline, shelf: Shelf) -> None:
    async with signals_of(pipeline, create=True) as box:
        ids = [await box.pause("ann@here"), await box.resume("ann@here"), await box.pause("bob@there"), await box.resume("b")]
        assert (await run_once(pipeline)).counts == delivered(4)
        found = [await outcome(box, identity) for identity in ids]
        ended = "it was resumed meanwhile"
        assert [(one.outcome, one.why) for one in found] == [("accepted", ended), ("accepted", None)] * 2


async def test_a_pause_that_is_resumed_before_it_is_answered_says_so(tmp_path: Path, feed: Feed, shelf: Shelf) -> None:
    gate = Gate()
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[step("gate", gate, batched=True)])
    async with running(pipeline) as run, signals_of(pipeline) as box:
        await eventually(lambda: gate.waiting and run.status.in_flight_events == 4)
        pause = await box.pause("ann@here")
        await eventually(lambda: run.status.paused)
        await outcome(box, await box.resume("bob@there"))
        answer = await outcome(box, pause)
        assert (answer.outcome, answer.why) == ("accepted", "it was resumed meanwhile")
        gate.open.set()
        await eventually(lambda: len(shelf.ids) == 4)


class LostBox:
    """Signals in a state store that is lost, once a pause was taken; or that stored the answer to it, and lost the reply."""

    def __init__(self, error: Transient | None) -> None:
        self.error = error
        self.looks = 0

    async def inbox(self) -> Inbox:
        await asyncio.sleep(0)
        self.looks += 1
        if self.error is not None:
            raise self.error
        return Inbox(Pause(0.0, "ann@here", None), [])


@pytest.mark.parametrize("error", [Transient("postgres.unreachable", "refused"), None])
async def test_a_pause_whose_answer_is_lost_is_looked_after_no_more_than_once_a_tick(
    pipeline: Pipeline, error: Transient | None
) -> None:
    run, box = Run(pipeline, RunOptions(clock=FakeClock())), LostBox(error)
    flow = Flow(pipeline.limits, run.status)
    flow.pause()
    lost: Any = box  # what a look asks of one
    source: Any = None  # nothing is asked of it
    signals = Signals(source, lost, 1, flow, run.options, lambda: None, _pauses={7})
    task = asyncio.create_task(signals.run())
    for _ in range(200):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert box.looks == 1


async def test_a_source_that_fails_as_it_is_paused_is_not_waited_for(pipeline: Pipeline, feed: Feed, shelf: Shelf) -> None:
    said, clock = list[Incident](), FakeClock()
    run = Run(pipeline, RunOptions(clock=clock, log=said.append))
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(20):
        while not run.status.committed_at:
            await clock.advance(0.01)
        async with signals_of(pipeline) as box:
            await box.pause("ann@here")
            while not run.status.paused:
                await clock.advance(0.01)
            feed.faults.append(Transient("server.gone", "reset by peer"))
            feed.more.set()
            while feed.faults or run.status.waiting:
                await clock.advance(0.1)
            await clock.advance(3 * REPORT_AFTER)
            assert (run.status.waiting, [one.code for one in said]) == (None, ["run.paused"])
            feed.add({"n": 4})
            await box.resume("ann@here")
            while len(shelf.ids) < 5:
                await clock.advance(0.01)
        run.stop()
        await pass_time(clock, task)
    await task


async def test_time_in_a_pause_expires_no_dedup_key(tmp_path: Path) -> None:
    clock, table, window = FakeClock(), Table(tmp_path / "t.db"), 60.0
    feed = Feed.of({"n": 1}, batch=1)
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), dedup=dedup(window=window))
    run = Run(pipeline, RunOptions(clock=clock))
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(20):
        while not run.status.counts.delivered:
            await clock.advance(0.01)
        async with signals_of(pipeline) as box:
            await box.pause("ann@here")
            while not run.status.paused:
                await clock.advance(0.01)
            await clock.advance(10 * window)
            await box.resume("ann@here")
            while run.status.paused:
                await clock.advance(0.01)
        feed.add({"n": 2}, {"n": 3}, {"n": 1})
        while run.status.counts.received < 4:
            await clock.advance(0.01)
        run.stop()
        await pass_time(clock, task)
    assert (await task).counts == Counts(4, 3, deduplicated=1)
