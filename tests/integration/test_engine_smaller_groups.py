"""A sink that can hold no more before a commit makes the group smaller: nothing is written twice by that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from engine_parts import Feed, Shelf, Table, bad, kept, make_pipeline, numbers, run_once, sink
from engine_parts import parts as parts

from penstock.config.model import Batching
from penstock.errors import BatchError
from penstock.event import Event
from penstock.ledger import Counts
from penstock.state.records import Delivered


class Narrow:
    """Takes so many events between two commits."""

    def __init__(self, room: int) -> None:
        self.room, self.left = room, room

    def __call__(self, events: Sequence[Event]) -> None:
        taken = min(self.left, len(events))
        self.left -= taken
        if taken < len(events):
            self.left = self.room  # a commit follows
            raise BatchError({}, not_attempted=range(taken, len(events)))


ALL = Batching(count=500, period=600.0)
"""Everything that is read before the source ends is one group."""


@pytest.mark.parametrize("narrow", ["first", "last"])
async def test_a_smaller_group_offers_nothing_again_to_a_sink_that_cannot_take_back(tmp_path: Path, narrow: str) -> None:
    full, out, tape = Shelf(plan=Narrow(5)), Shelf(), Shelf()
    sinks = [sink("out", out), sink("tape", tape, "tape")]
    sinks.insert(0 if narrow == "first" else 2, sink("full", full))
    pipeline = make_pipeline(tmp_path, Feed.of(*numbers(16)), *sinks, batching=ALL)
    summary = await run_once(pipeline)
    expected = [f"p{n}" for n in range(16)]
    assert out.ids == tape.ids == expected
    assert full.ids == expected
    assert (summary.counts, summary.sinks) == (Counts(16, 16), {"full": 16, "out": 16, "tape": 16})


async def test_a_dead_letter_of_a_smaller_group_lists_what_was_delivered_before(tmp_path: Path) -> None:
    out, tape, table = Shelf(), Shelf(plan=Narrow(5)), Table(tmp_path / "t.db")
    strict = Shelf(plan=lambda events: refuse(events, "p3"))
    sinks = [sink("out", out), sink("tape", tape, "tape"), sink("strict", strict), sink("table", table)]
    pipeline = make_pipeline(tmp_path, Feed.of(*numbers(8)), *sinks, batching=ALL)
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert out.ids == tape.ids == table.ids == [f"p{n}" for n in range(8)]
    assert (letter.event_id, letter.delivered) == ("p3", [Delivered("out", 0), Delivered("tape", 0)])


def refuse(events: Sequence[Event], identity: str) -> None:
    failed = {n: bad(event.id) for n, event in enumerate(events) if event.id == identity}
    if failed:
        raise BatchError(failed)
