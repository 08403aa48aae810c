"""A run: its stages, what is in flight, how it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from engine_parts import BEAT, Feed, Shelf, Table, at, crash_at, dedup, kept, make_pipeline, run_once, sink, step
from engine_parts import parts as parts

from penstock.config.model import Batching, Limits, Retry
from penstock.engine.run import Run, RunOptions
from penstock.errors import EnvironmentFault, Fatal, Transient, Unavailable
from penstock.event import Event
from penstock.ledger import Counts
from penstock.observe.log import Incident
from penstock.observe.status import RunSummary
from penstock.spi import Batch
from penstock.testing.clock import FakeClock


def numbers(count: int) -> list[dict[str, int]]:
    return [{"n": n} for n in range(count)]


def delivered(count: int) -> Counts:
    return Counts(received=count, delivered=count)


async def until(condition: Callable[[], bool]) -> None:
    """Let the run go on until the condition holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def pass_time(clock: FakeClock, run: asyncio.Task[RunSummary], look: Callable[[], None] = lambda: None) -> None:
    """Let the run's clock go on, a second at a time, until the run ends."""
    async with asyncio.timeout(20):
        while not run.done():
            look()
            await clock.advance(1)
            await asyncio.sleep(0.001)


async def finish(run: asyncio.Task[RunSummary]) -> RunSummary:
    return await asyncio.wait_for(run, 20)


# ---- reading, delivering, going on


async def test_a_run_delivers_everything_in_order_and_acknowledges_it(tmp_path: Path) -> None:
    feed, shelf, table = Feed.of(*numbers(5)), Shelf(), Table(tmp_path / "t.db")
    summary = await run_once(make_pipeline(tmp_path, feed, sink("shelf", shelf), sink("table", table)))
    assert shelf.taken == table.rows == [(f"p{n}", {"n": n}) for n in range(5)]
    assert (summary.counts, summary.sinks, summary.reread) == (delivered(5), {"shelf": 5, "table": 5}, 0)
    assert (feed.acked, feed.closed) == ([("p", 2), ("p", 4), ("p", 5)], 1)


async def test_the_next_run_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    feed, shelf = Feed.of(*numbers(3)), Shelf()
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf))
    await run_once(pipeline)
    nothing = await run_once(pipeline)
    feed.add({"n": 3})
    summary = await run_once(pipeline)
    assert (nothing.counts, summary.counts, shelf.ids) == (Counts(), delivered(1), ["p0", "p1", "p2", "p3"])
    assert feed.resumed == [{}, {"p": at(3)}, {"p": at(3)}]
    assert ((await kept(pipeline)).totals, summary.epoch) == (delivered(4), 3)


async def test_partitions_have_positions_of_their_own(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(3)), Table(tmp_path / "t.db")
    feed.add(*numbers(2), partition="q")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    await run_once(pipeline)
    feed.add({"n": 9}, partition="q")
    await run_once(pipeline)
    assert table.ids == ["p0", "p1", "p2", "q0", "q1", "q2"]
    assert feed.resumed[1] == {"p": at(3), "q": at(2)}


async def test_a_source_that_fails_for_a_moment_is_read_on_behind_the_last_batch(tmp_path: Path) -> None:
    feed = Feed.of(*numbers(5), unplugged={2: Transient("list.down", "down"), 4: Transient("list.down", "down")})
    shelf, clock = Shelf(), FakeClock()
    run = Run(make_pipeline(tmp_path, feed, sink("shelf", shelf)), RunOptions(once=True, clock=clock))
    task = asyncio.create_task(run.execute())
    await pass_time(clock, task)
    await finish(task)
    assert (shelf.ids, run.status.retries["source"]) == ([f"p{n}" for n in range(5)], 2)


async def test_a_source_whose_disk_is_gone_is_waited_for_without_limit_and_not_ready(tmp_path: Path) -> None:
    feed, shelf, clock, seen = Feed.of(*numbers(4)), Shelf(), FakeClock(), set()
    gone = [Unavailable("list.gone", "input/output error") for _ in range(20)]
    feed.faults, feed.ack_errors = list(gone), list(gone)
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), retry=Retry(max_attempts=2))
    run = Run(pipeline, RunOptions(once=True, clock=clock))
    task = asyncio.create_task(run.execute())
    await pass_time(clock, task, lambda: seen.add((run.status.ready, run.status.waiting)) if 0 < len(feed.faults) < 19 else None)
    assert ((await finish(task)).counts, shelf.ids, feed.acked[-1]) == (delivered(4), ["p0", "p1", "p2", "p3"], ("p", 4))
    assert (seen, run.status.waiting) == ({(False, "source: input/output error")}, None)


async def test_a_batch_without_events_moves_the_position(tmp_path: Path) -> None:
    feed, table, shelf = Feed.of({"n": 0}, BEAT, BEAT, BEAT), Table(tmp_path / "t.db"), Shelf()
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), sink("shelf", shelf))
    summary = await run_once(pipeline)
    await run_once(pipeline)
    assert (summary.counts, feed.resumed[1], feed.acked) == (delivered(1), {"p": at(4)}, [("p", 2), ("p", 4)])


async def test_a_source_that_stays_down_ends_the_run_after_all_that_was_read(tmp_path: Path) -> None:
    feed, shelf = Feed.of(*numbers(5)), Shelf()

    def stay_down(batch: Batch) -> None:
        feed.unplugged[4] = Transient("list.down", "down")

    feed.after = stay_down
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), retry=Retry(max_attempts=1))
    with pytest.raises(EnvironmentFault, match="down") as caught:
        await run_once(pipeline)
    assert (caught.value.code, caught.value.where, shelf.ids) == ("list.down", "source", ["p0", "p1", "p2", "p3"])
    assert ((await kept(pipeline)).totals, feed.acked[-1]) == (delivered(4), ("p", 4))


@pytest.mark.parametrize("error", [KeyError("lsn"), Fatal("list.gone", "the list is gone")], ids=["a bug", "a reason"])
async def test_what_ends_a_source_ends_the_run_after_everything_before_it(tmp_path: Path, error: Exception) -> None:
    feed, table = Feed.of(*numbers(5), unplugged={4: error}), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    with pytest.raises(Fatal) as caught:
        await run_once(pipeline)
    expected = ("list.gone", None) if isinstance(error, Fatal) else ("internal.error", "source")
    assert (caught.value.code, caught.value.where) == expected
    assert (table.ids, (await kept(pipeline)).totals) == (["p0", "p1", "p2", "p3"], delivered(4))


async def test_a_bug_in_a_step_ends_the_run_after_everything_before_it_and_names_the_step(tmp_path: Path) -> None:
    def enrich(event: Event) -> Event:
        if event.id == "p4":
            raise KeyError("customer")
        return event

    feed, table = Feed.of(*numbers(7)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("enrich", enrich)])
    with pytest.raises(Fatal, match="KeyError: 'customer'") as caught:
        await run_once(pipeline)
    assert (caught.value.code, caught.value.where) == ("internal.error", "step enrich")
    assert (table.ids, feed.acked[-1]) == (["p0", "p1", "p2", "p3"], ("p", 4))


@pytest.mark.parametrize("point", ["after_read", "after_process", "before_sink_write", "before_ack", "after_ack"])
async def test_a_fault_at_any_stage_ends_the_run_and_not_in_silence(tmp_path: Path, point: str) -> None:
    feed, shelf = Feed.of(*numbers(6)), Shelf()
    with pytest.raises(Fatal, match=f"crashed at {point}"):
        await run_once(
            make_pipeline(tmp_path, feed, sink("shelf", shelf)), faults=crash_at(point, 2 if point == "after_read" else 1)
        )
    assert feed.closed == 1


async def test_nothing_is_left_running_when_a_run_ends_while_its_source_waits(tmp_path: Path) -> None:
    """The sink fails while the source, which follows, waits for more."""
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db", before=[Fatal("table.gone", "dropped")])
    before = asyncio.all_tasks()
    with pytest.raises(Fatal, match="dropped"):
        await asyncio.wait_for(Run(make_pipeline(tmp_path, feed, sink("table", table)), RunOptions()).execute(), 20)
    assert (asyncio.all_tasks() - before, feed.closed, feed.acked) == (set(), 1, [])


async def test_acknowledging_is_retried_and_comes_after_the_commit(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(2), ack_errors=[Transient("list.down", "down")]), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), retry=Retry(initial_delay=0.0))
    await run_once(pipeline)
    assert (table.ids, feed.acked) == (["p0", "p1"], [("p", 2)])


async def test_nothing_is_acknowledged_before_its_commit(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(4)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    with pytest.raises(Fatal):
        await run_once(pipeline, faults=crash_at("before_ack"))
    assert (feed.acked, table.ids[:2]) == ([], ["p0", "p1"])


# ---- bounds


class Gate:
    """Holds a step until a test opens it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waiting = 0

    async def __call__(self, events: Sequence[Event]) -> list[Event]:
        self.waiting += 1
        await self.open.wait()
        return list(events)


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
    await until(lambda: run.status.in_flight_events == 6)
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
    await until(lambda: run.status.in_flight_events == 20 and table.waiting)
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
        await until(lambda count=count: run.status.counts.received == count)  # type: ignore[misc]  # bound at once
        await clock.advance(2)
    summary = await finish(task)
    assert (summary.counts, summary.seconds) == (delivered(6), 4.0)


# ---- ends


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
    await until(lambda: run.status.in_flight_events == 4)
    run.stop()
    await until(lambda: run.status.phase == "draining")
    gate.open.set()
    summary = await finish(task)
    assert (summary.counts, shelf.ids, run.status.phase) == (delivered(4), ["p0", "p1", "p2", "p3"], "stopped")
    assert ((await kept(pipeline)).note.drained, feed.acked[-1]) == (False, ("p", 4))


async def test_a_source_that_never_waits_is_stopped_all_the_same(tmp_path: Path) -> None:
    feed, shelf = Feed.of({"n": 0}), Shelf()
    feed.after = lambda batch: feed.add({"n": 0}, {"n": 0})
    run = Run(make_pipeline(tmp_path, feed, sink("shelf", shelf)), RunOptions())
    task = asyncio.create_task(run.execute())
    await until(lambda: run.status.counts.received > 10)
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
    await until(lambda: run.status.counts.received == 2)
    run.stop()
    assert ((await finish(task)).counts, shelf.ids) == (delivered(2), ["p0", "p1"])


async def test_a_run_that_does_not_drain_in_time_ends_and_says_so(tmp_path: Path) -> None:
    feed, shelf, clock, said = Feed.of(*numbers(2)), Shelf(), FakeClock(), list[Incident]()
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[step("gate", Gate(), batched=True)])
    run = Run(pipeline, RunOptions(clock=clock, log=said.append))
    before = asyncio.all_tasks()
    task = asyncio.create_task(run.execute())
    await until(lambda: run.status.in_flight_events == 2)
    run.stop()
    await until(lambda: run.status.phase == "draining")
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
    await until(lambda: run.status.counts.received == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finish(task)
    assert (asyncio.all_tasks() - before, feed.closed, run.status.phase) == (set(), 1, "failed")
    assert (await run_once(pipeline)).counts == Counts()


# ---- readiness


async def test_a_full_disk_makes_the_run_wait_without_limit_and_not_ready(tmp_path: Path) -> None:
    feed, table, clock = Feed.of(*numbers(2)), Table(tmp_path / "t.db"), FakeClock()
    table.before = [Unavailable("table.full", "no space left") for _ in range(30)]
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), retry=Retry(max_attempts=2))
    run = Run(pipeline, RunOptions(once=True, clock=clock))
    task = asyncio.create_task(run.execute())
    seen = set()

    def look() -> None:
        if table.before and run.status.waiting:
            seen.add((run.status.ready, run.status.waiting, tuple(feed.acked)))

    await pass_time(clock, task, look)
    summary = await finish(task)
    assert seen == {(False, "table.full: no space left", ())}
    assert (summary.counts, table.ids, run.status.waiting) == (delivered(2), ["p0", "p1"], None)


async def test_a_commit_that_fails_too_often_ends_the_run(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db", before=[Transient("table.down", "down") for _ in range(9)])
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), retry=Retry(max_attempts=3, initial_delay=0.0))
    with pytest.raises(EnvironmentFault) as caught:
        await run_once(pipeline)
    assert (caught.value.code, len(table.before), feed.acked) == ("table.down", 6, [])
    table.before.clear()
    assert (await run_once(pipeline)).counts == delivered(2)
