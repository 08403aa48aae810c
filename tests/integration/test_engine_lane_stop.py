"""`dead_letter.lane: stop`: everything before the event that failed is delivered and counted, nothing from it on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_parts import (
    BEAT,
    Feed,
    Kept,
    Shelf,
    Table,
    at,
    crash_at,
    dedup,
    kept,
    make_pipeline,
    numbers,
    refusing,
    run_once,
    sink,
    step,
)
from engine_parts import parts as parts
from waiting import until_async

from penstock.config.model import Batching, DeadLetters, Pipeline, SinkEntry
from penstock.engine.run import Run, RunOptions
from penstock.errors import Fatal, Permanent
from penstock.event import Event
from penstock.ledger import Counts

LANE = DeadLetters(lane="stop")


def ids(*numbers: int) -> list[str]:
    return [f"p{n}" for n in numbers]


def failing(*failed: str) -> Callable[[Event], Any]:
    return lambda event: Permanent("step.bad", f"{event.id} is bad") if event.id in failed else event


async def stops(pipeline: Pipeline) -> Fatal:
    """Run until the lane stops. Everything is read before anything is committed, so that one group holds it all."""
    with pytest.raises(Fatal) as caught:
        await run_once(pipeline)
    return caught.value


def together(directory: Path, feed: Feed, *sinks: SinkEntry, **changes: Any) -> Pipeline:
    return make_pipeline(directory, feed, *sinks, dead_letter=LANE, **changes)


async def after_mending(pipeline: Pipeline) -> Kept:
    await run_once(pipeline)
    return await kept(pipeline)


@pytest.mark.parametrize("failed", range(7))
async def test_a_failing_step_leaves_all_before_the_event_and_nothing_of_it_or_behind_it(tmp_path: Path, failed: int) -> None:
    feed, table, shelf = Feed.of(*numbers(7), batch=3), Table(tmp_path / "t.db"), Shelf()
    bad_ids = {f"p{failed}", "p6"}
    check = step("check", lambda event: failing(*bad_ids)(event))
    pipeline = together(tmp_path, feed, sink("table", table), sink("shelf", shelf), steps=[check])
    error = await stops(pipeline)
    found = await kept(pipeline)
    assert (error.code, error.where) == ("step.bad", f"step check, event list:orders p{failed}")
    assert table.ids == shelf.ids == ids(*range(failed))
    assert (found.totals, found.letters) == (Counts(failed, failed), [])
    assert all(end <= failed for _, end in feed.acked)
    bad_ids.clear()
    assert (await after_mending(pipeline)).totals == Counts(7, 7)
    assert table.ids == shelf.ids == ids(*range(7))
    assert feed.resumed[1] == ({"p": at(failed)} if failed else {})


async def test_the_first_event_that_failed_is_named_whichever_step_it_failed_in(tmp_path: Path) -> None:
    feed, shelf = Feed.of(*numbers(6), batch=6), Shelf()
    steps = [step("first", failing("p4")), step("second", failing("p2"))]
    error = await stops(together(tmp_path, feed, sink("shelf", shelf), steps=steps))
    assert (error.where, shelf.ids) == ("step second, event list:orders p2", ids(0, 1))


async def test_a_batch_without_inner_positions_is_left_whole(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(6), batch=3, divisible=False), Table(tmp_path / "t.db")
    pipeline = together(tmp_path, feed, sink("table", table), steps=[step("check", failing("p4"))])
    await stops(pipeline)
    assert (table.ids, (await kept(pipeline)).totals) == (ids(0, 1, 2), Counts(3, 3))


async def test_a_batch_of_a_source_without_positions_is_cut_and_not_acknowledged(tmp_path: Path) -> None:
    feed, table, bad_ids = Feed.of(*numbers(6), batch=3, positions=False), Table(tmp_path / "t.db"), {"p4"}
    check = step("check", lambda event: failing(*bad_ids)(event))
    pipeline = together(tmp_path, feed, sink("table", table), steps=[check], dedup=dedup(None))
    await stops(pipeline)
    assert table.ids == ids(0, 1, 2, 3)
    assert ("p", 6) not in feed.acked
    bad_ids.clear()
    await run_once(pipeline)
    assert (table.ids, (await kept(pipeline)).totals) == (ids(*range(6)), Counts(6, 6))


async def test_outputs_that_steps_made_several_of_are_counted_as_if_nothing_had_stopped(tmp_path: Path) -> None:
    """How many of them come from the head of a batch is not known: it is left whole."""
    feed, table, bad_ids = Feed.of(*numbers(6), batch=3), Table(tmp_path / "t.db"), {"p4"}
    split = step("split", lambda event: [event.replace(), event.replace()])
    check = step("check", lambda event: failing(*bad_ids)(event))
    pipeline = together(tmp_path, feed, sink("table", table), steps=[check, split])
    await stops(pipeline)
    assert len(table.ids) == 6
    bad_ids.clear()
    assert (await after_mending(pipeline)).totals == Counts(6, 6, derived=12)
    assert len(table.ids) == 12


async def test_what_a_table_refuses_stops_the_lane_there(tmp_path: Path) -> None:
    feed, table, shelf = Feed.of(*numbers(7), batch=3), Table(tmp_path / "t.db", refused={"p4", "p6"}), Shelf()
    tape = Shelf()
    pipeline = together(tmp_path, feed, sink("shelf", shelf), sink("tape", tape, "tape"), sink("table", table))
    error = await stops(pipeline)
    found = await kept(pipeline)
    assert (error.code, error.where) == ("row.refused", "step table, event list:orders p4")
    assert (table.ids, tape.ids[:4], found.totals, found.letters) == (ids(0, 1, 2, 3), ids(0, 1, 2, 3), Counts(4, 4), [])
    table.refused.clear()
    assert (await after_mending(pipeline)).totals == Counts(7, 7)
    assert table.ids == tape.ids == ids(*range(7))


@pytest.mark.parametrize("kind", ["shelf", "tape"])
@pytest.mark.parametrize("chunk", [2, 500])
async def test_what_a_sink_without_a_ledger_refuses_stops_the_lane_there(tmp_path: Path, kind: str, chunk: int) -> None:
    refused = {"p4"}
    shelf, table = Shelf(plan=lambda events: refusing(*refused)(events)), Table(tmp_path / "t.db")
    pipeline = together(
        tmp_path, Feed.of(*numbers(7), batch=2), sink("shelf", shelf, kind), sink("table", table),
        batching=Batching(count=chunk, bytes=1 << 20, period=0.0),
    )  # fmt: skip
    error = await stops(pipeline)
    assert (error.where, table.ids) == ("step shelf, event list:orders p4", ids(0, 1, 2, 3))
    assert (await kept(pipeline)).totals == Counts(4, 4)
    refused.clear()
    assert (await after_mending(pipeline)).totals == Counts(7, 7)
    assert table.ids == ids(*range(7))
    if kind == "tape":
        assert shelf.ids == ids(*range(7))


async def test_a_second_table_that_refuses_leaves_the_first_with_what_it_has_and_nothing_twice(tmp_path: Path) -> None:
    first, second, tape = Table(tmp_path / "a.db"), Table(tmp_path / "b.db", refused={"p4"}), Shelf()
    feed = Feed.of(*numbers(7), batch=3)
    pipeline = together(tmp_path, feed, sink("first", first), sink("second", second), sink("tape", tape, "tape"))
    await stops(pipeline)
    assert (second.ids, (await kept(pipeline)).totals) == (ids(0, 1, 2, 3), Counts(4, 4))
    second.refused.clear()
    assert (await after_mending(pipeline)).totals == Counts(7, 7)
    assert first.ids == second.ids == tape.ids == ids(*range(7))


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize(
    "point", ["before_sink_write", "after_sink_write", "before_commit", "between_ledgers", "before_note", "after_note"]
)
async def test_whatever_it_dies_of_on_the_way_nothing_is_lost_or_twice(tmp_path: Path, point: str, nth: int) -> None:
    first, second, tape = Table(tmp_path / "a.db"), Table(tmp_path / "b.db", refused={"p4"}), Shelf()
    feed = Feed.of(*[{"n": n % 5} for n in range(7)], batch=3)
    pipeline = together(
        tmp_path, feed, sink("first", first), sink("second", second), sink("tape", tape, "tape"), dedup=dedup(),
        batching=Batching(count=500, period=600.0),
    )  # fmt: skip
    with pytest.raises(Fatal):
        await run_once(pipeline, faults=crash_at(point, nth))
    second.refused.clear()
    assert (await after_mending(pipeline)).totals == Counts(7, 5, deduplicated=2)
    assert first.ids == second.ids == tape.ids == ids(*range(5))


async def test_repetitions_before_the_event_are_counted_with_what_is_delivered(tmp_path: Path) -> None:
    feed = Feed.of({"n": 0}, {"n": 0}, BEAT, {"n": 1}, {"n": 2}, {"n": 1}, batch=6)
    table, bad_ids = Table(tmp_path / "t.db"), {"p4"}
    check = step("check", lambda event: failing(*bad_ids)(event))
    pipeline = together(tmp_path, feed, sink("table", table), steps=[check], dedup=dedup())
    await stops(pipeline)
    assert (table.ids, (await kept(pipeline)).totals) == (ids(0, 3), Counts(3, 2, deduplicated=1))
    bad_ids.clear()
    assert (await after_mending(pipeline)).totals == Counts(5, 3, deduplicated=2)
    assert table.ids == ids(0, 3, 4)


async def test_all_that_was_read_before_it_is_one_group_and_is_delivered(tmp_path: Path) -> None:
    """The failing batch is committed together with those before it: none of these is lost with it."""
    table, slow = Table(tmp_path / "t.db"), asyncio.Event()
    table.slow = slow
    pipeline = together(tmp_path, Feed.of(*numbers(20)), sink("table", table), steps=[step("check", failing("p17"))])
    run = Run(pipeline, RunOptions(once=True))
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.in_flight_events == 20 and table.waiting, task)
    slow.set()
    with pytest.raises(Fatal, match="p17 is bad"):
        await asyncio.wait_for(task, 20)
    assert (table.ids, (await kept(pipeline)).totals) == (ids(*range(17)), Counts(17, 17))
