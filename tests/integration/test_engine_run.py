"""A run: its stages, in order, and what goes wrong in each."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_parts import (
    BEAT,
    Feed,
    Shelf,
    Table,
    at,
    crash_at,
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

from penstock.config.model import Retry
from penstock.engine.run import Run, RunOptions
from penstock.errors import EnvironmentFault, Fatal, Transient, Unavailable
from penstock.event import Event
from penstock.ledger import Counts
from penstock.spi import Batch
from penstock.testing.clock import FakeClock


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
