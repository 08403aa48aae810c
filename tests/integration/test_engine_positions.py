"""Positions that would lose events after a crash: a source that gives them is stopped before anything comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_parts import Feed, Table, at, kept, make_pipeline, run_once, sink
from engine_parts import parts as parts

from penstock.errors import Fatal
from penstock.ledger import Counts
from penstock.spi import Batch, Position


def without_positions(batch: Batch) -> None:
    for event in batch.events:
        event.position = b""


def one_without(batch: Batch) -> None:
    batch.events[1].position = b""


def all_the_same(batch: Batch) -> None:
    for event in batch.events:
        event.position = at(5)


def falling(batch: Batch) -> None:
    batch.events.reverse()


def end_before_the_last_event(batch: Batch) -> None:
    batch.end = Position(at(3))


def end_before_the_last_batch(batch: Batch) -> None:
    batch.events, batch.end = [], Position(at(1))


def behind_the_last_batch(batch: Batch) -> None:
    for event in batch.events:
        event.position = at(int.from_bytes(event.position, "big") - 2)


def no_end(batch: Batch) -> None:
    batch.end = None


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (without_positions, "event p2 is at no position, what came before it at 0000000000000002"),
        (one_without, "event p3 is at no position, what came before it at 0000000000000003"),
        (all_the_same, "event p3 is at 0000000000000005, what came before it at 0000000000000005"),
        (falling, "event p2 is at 0000000000000003, what came before it at 0000000000000004"),
        (end_before_the_last_event, "it ends at 0000000000000003, its last event at 0000000000000004"),
        (end_before_the_last_batch, "it ends at 0000000000000001, the batch before it at 0000000000000002"),
        (behind_the_last_batch, "event p2 is at 0000000000000001, what came before it at 0000000000000002"),
        (no_end, "`has_positions` is True, and the batch has no end"),
    ],
)
async def test_a_batch_whose_positions_do_not_rise_stops_the_run_before_it(
    tmp_path: Path, spoil: Callable[[Batch], None], why: str
) -> None:
    feed, table = Feed.of(*[{"n": n} for n in range(6)]), Table(tmp_path / "t.db")
    feed.after = lambda batch: spoil(batch) if batch.token == ("p", 4) else None
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    with pytest.raises(Fatal) as caught:
        await run_once(pipeline)
    assert (caught.value.code, caught.value.where, caught.value.why) == ("source.positions", "source list, partition p", why)
    assert (table.ids, feed.acked, (await kept(pipeline)).totals) == (["p0", "p1"], [("p", 2)], Counts(2, 2))
    feed.after = lambda batch: None
    await run_once(pipeline)
    assert (table.ids, (await kept(pipeline)).totals) == ([f"p{n}" for n in range(6)], Counts(6, 6))


async def test_an_end_from_a_source_without_positions_stops_the_run(tmp_path: Path) -> None:
    feed, table = Feed.of({"n": 0}, positions=False), Table(tmp_path / "t.db")
    feed.after = lambda batch: setattr(batch, "end", Position(at(1)))
    with pytest.raises(Fatal) as caught:
        await run_once(make_pipeline(tmp_path, feed, sink("table", table)))
    assert (caught.value.code, caught.value.why) == ("source.positions", "`has_positions` is False, and the batch has an end")
    assert (table.ids, feed.acked) == ([], [])


async def test_partitions_rise_each_for_itself(tmp_path: Path) -> None:
    feed, table = Feed.of({"n": 0}, {"n": 1}, {"n": 2}), Table(tmp_path / "t.db")
    feed.add({"n": 0}, partition="q")
    await run_once(make_pipeline(tmp_path, feed, sink("table", table)))
    assert table.ids == ["p0", "p1", "p2", "q0"]
