"""`pause_after`: a run pauses itself after so many failures in a row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine_parts import Feed, Shelf, Table, kept, make_pipeline, numbers, open_store, run_once, sink, step
from engine_parts import parts as parts
from engine_signal_parts import quick_looks as quick_looks
from engine_signal_parts import running

from penstock.config.model import Limits, Pipeline
from penstock.engine.failing import FailureRow
from penstock.engine.tally import Failure
from penstock.engine.work import Work
from penstock.errors import Permanent
from penstock.event import Event
from penstock.ledger import Counts
from penstock.spi import Batch
from penstock.state.signal_records import Pause

ONE_BATCH = Limits(in_flight_events=2)


def failing(*failed: int) -> Any:
    bad = {f"p{n}" for n in failed}
    return lambda event: Permanent("step.bad", "no good") if event.id in bad else event


def pipeline_of(directory: Path, feed: Feed, shelf: Shelf | Table, *failed: int, **changes: Any) -> Pipeline:
    values = {"steps": [step("check", failing(*failed))], "pause_after": 3, "limits": ONE_BATCH}
    return make_pipeline(directory, feed, sink("out", shelf), **(values | changes))


async def paused(pipeline: Pipeline) -> Pause | None:
    async with open_store(pipeline) as store:
        return await store.signals.paused()


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def resume(pipeline: Pipeline) -> None:
    async with open_store(pipeline) as store:
        await store.signals.resume("ann@here")


async def test_a_run_pauses_after_failures_in_a_row_over_batches_and_reads_nothing_behind_them(tmp_path: Path) -> None:
    feed, shelf = Feed.of(*numbers(10), batch=2), Shelf()
    pipeline = pipeline_of(tmp_path, feed, shelf, 1, 3, 4, 5)
    summary = await run_once(pipeline)
    assert summary.counts == Counts(received=6, delivered=2, dead_lettered=4)
    pause = await paused(pipeline)
    assert pause is not None
    assert (pause.by, pause.why) == ("pause_after", "3 events in a row failed, the last in check with step.bad")
    assert (await run_once(pipeline)).counts == Counts()

    await resume(pipeline)
    await run_once(pipeline)
    assert shelf.ids == ["p0", "p2", "p6", "p7", "p8", "p9"]
    assert await paused(pipeline) is None


async def test_what_is_delivered_or_filtered_in_between_ends_the_row(tmp_path: Path) -> None:
    feed, shelf = Feed.of(*numbers(9), batch=2), Shelf()
    seen = failing(0, 1, 3, 4, 6, 7)
    check = step("check", lambda event: [] if event.id == "p5" else seen(event))
    pipeline = pipeline_of(tmp_path, feed, shelf, steps=[check])
    summary = await run_once(pipeline)
    assert summary.counts == Counts(received=9, delivered=2, filtered=1, dead_lettered=6)
    assert await paused(pipeline) is None


async def test_a_live_run_stays_and_goes_on_when_it_is_resumed(tmp_path: Path) -> None:
    feed, shelf = Feed.of(*numbers(8), batch=2), Shelf()
    pipeline = pipeline_of(tmp_path, feed, shelf, 0, 1, 2, 3)
    async with running(pipeline) as run:
        await eventually(lambda: run.status.paused is not None)
        assert run.status.paused is not None
        assert "by pause_after (4 events in a row failed, the last in check with step.bad)" in run.status.paused
        await resume(pipeline)
        await eventually(lambda: len(shelf.taken) == 4)
    assert (await kept(pipeline)).totals == Counts(received=8, delivered=4, dead_lettered=4)


async def test_what_a_sink_refuses_counts_too_and_so_it_does_in_workers(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(8), batch=2), Table(tmp_path / "t.db", refused={"p1", "p2", "p3"})
    pipeline = pipeline_of(tmp_path, feed, table, steps=[], workers=1)
    await run_once(pipeline)
    assert table.ids == ["p0"]
    assert (await paused(pipeline)) is not None


def row_of(failed: dict[int, str], count: int, dropped: set[int] | None = None) -> Work:
    events = [Event(f"e{n}", "s", "t") for n in range(count)]
    work = Work(Batch("p", events), 0.0)
    work.failures = {n: Failure(n, "check", Permanent(code, "no"), events[n]) for n, code in failed.items()}
    work.verdicts.dropped = dropped or set()
    return work


def test_repetitions_and_what_is_parked_neither_end_nor_lengthen_a_row() -> None:
    row = FailureRow(3)
    assert row.after([row_of({0: "a.b", 1: "lane.parked", 3: "a.b"}, 4, {2})], [{}]) is None
    assert row.length == 2
    assert row.after([row_of({}, 2, {0, 1})], [{}]) is None
    assert row.after([row_of({0: "a.c"}, 1)], [{}]) == "3 events in a row failed, the last in check with a.c"
    assert row.length == 0


def test_a_row_that_was_long_enough_counts_though_the_group_went_on_behind_it() -> None:
    row = FailureRow(2)
    assert row.after([row_of({0: "a.b", 1: "a.b"}, 3), row_of({}, 2)], [{}, {}]) is not None


def test_without_a_limit_nothing_is_counted() -> None:
    assert FailureRow(None).after([row_of({0: "a.b"}, 1)], [{}]) is None


def test_a_refusal_by_a_sink_is_a_failure() -> None:
    failure = Failure(0, "out", Permanent("sink.bad", "no"), Event("e0", "s", "t"))
    said = FailureRow(1).after([row_of({}, 1)], [{0: failure}])
    assert said is not None
    assert said.startswith("1 events in a row failed, the last in out")
