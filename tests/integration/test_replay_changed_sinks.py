"""A dead letter outlives the sinks that owe it: what is owed to one that is gone is never resolved unseen (rule 10)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Shelf, Table, crash_at, kept, make_pipeline, numbers, open_store, run_once, sink, step
from engine_parts import parts as parts

from dlq.replay import ReplaySummary, replay
from penstock.clock import SystemClock
from penstock.config.model import Pipeline, SinkEntry
from penstock.errors import Fatal, Permanent, UsageError
from penstock.event import Event
from penstock.faults import Faults
from penstock.state.records import LetterQuery


class Place:
    """A pipeline whose sinks change between the runs, over one feed of which `p1` fails in a step until it is mended."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.feed = Feed.of(*numbers(3))
        self.mended = False

    def check(self, event: Event) -> Event | Permanent:
        return event if self.mended or event.id != "p1" else Permanent("step.bad", "bad")

    def pipeline(self, *sinks: SinkEntry) -> Pipeline:
        return make_pipeline(self.directory, self.feed, *sinks, steps=[step("check", self.check)])

    def table(self, name: str) -> Table:
        return Table(self.directory / f"{name}.db")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def again(pipeline: Pipeline, faults: Faults | None = None, **options: Any) -> ReplaySummary:
    call = replay(
        pipeline, LetterQuery(), clock=SystemClock(), faults=faults or Faults(), progress=lambda done, total: None, **options
    )
    return await asyncio.wait_for(call, 20)


async def letter(pipeline: Pipeline) -> tuple[str, Sequence[str]]:
    (found,) = (await kept(pipeline)).letters
    return found.status, found.owed


def told(summary: ReplaySummary) -> tuple[int, int, int, dict[str, int]]:
    assert summary.selected == summary.delivered + summary.deduplicated + summary.failed_again + summary.left
    return summary.delivered, summary.failed_again, summary.left, dict(summary.unknown_ledgers)


async def test_what_only_a_renamed_sink_owes_stays_open_until_the_new_name_is_said(place: Place) -> None:
    old, new = place.table("old"), place.table("new")
    await run_once(place.pipeline(sink("db", old)))
    place.mended = True
    today = place.pipeline(sink("database", new))
    assert told(await again(today, dry_run=True)) == (0, 0, 1, {"db": 1})
    assert told(await again(today)) == (0, 0, 1, {"db": 1})
    assert (await letter(today), old.ids, new.ids) == (("open", ["db"]), ["p0", "p2"], [])
    assert told(await again(today, dry_run=True, renamed={"db": "database"})) == (1, 0, 0, {})
    assert (await letter(today), new.ids) == (("open", ["db"]), [])
    assert told(await again(today, renamed={"db": "database"})) == (1, 0, 0, {})
    assert (await letter(today), old.ids, new.ids) == (("resolved", ["database"]), ["p0", "p2"], ["p1"])


async def test_the_other_sinks_get_what_they_are_owed_and_the_rest_stays_open(place: Place) -> None:
    a, b, new = place.table("a"), place.table("b"), place.table("new")
    await run_once(place.pipeline(sink("a", a), sink("b", b)))
    place.mended = True
    today = place.pipeline(sink("a", a), sink("new", new))
    assert told(await again(today)) == (1, 0, 0, {"b": 1})
    assert (await letter(today), a.ids, new.ids) == (("open", ["b"]), ["p0", "p2", "p1"], [])
    assert told(await again(today)) == (0, 0, 1, {"b": 1})
    assert told(await again(today, renamed={"b": "new"})) == (1, 0, 0, {})
    assert (await letter(today), a.ids, new.ids) == (("resolved", ["new"]), ["p0", "p2", "p1"], ["p1"])


async def test_what_fails_again_is_owed_by_the_sink_that_is_gone_as_before(place: Place) -> None:
    a, b = place.table("a"), place.table("b")
    await run_once(place.pipeline(sink("a", a), sink("b", b)))
    today = place.pipeline(sink("a", a))
    assert told(await again(today)) == (0, 1, 0, {"b": 1})
    status, owed = await letter(today)
    assert (status, set(owed)) == ("open", {"a", "b"})


@pytest.mark.parametrize("point", ["before_sink_write", "before_note", "after_note"])
async def test_a_replay_to_a_renamed_sink_that_dies_delivers_once(place: Place, point: str) -> None:
    new = place.table("new")
    await run_once(place.pipeline(sink("db", place.table("old"))))
    place.mended = True
    today = place.pipeline(sink("database", new))
    with pytest.raises(Fatal, match="crashed at"):
        await again(today, crash_at(point), renamed={"db": "database"})
    await again(today)  # who owes it was written down before anything was delivered
    assert ((await letter(today))[0], new.ids) == ("resolved", ["p1"])


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside another"])
async def test_a_sink_that_gets_a_ledger_of_its_own_keeps_what_it_is_owed(place: Place, others: bool) -> None:
    shelf, tape, table = Shelf(), Shelf(), place.table("out")
    more = [sink("tape", tape, kind="tape")] if others else []
    await run_once(place.pipeline(sink("out", shelf), *more))
    place.mended = True
    today = place.pipeline(sink("out", table), *more)
    assert told(await again(today)) == (1, 0, 0, {})
    assert ((await letter(today))[0], shelf.ids, table.ids) == ("resolved", ["p0", "p2"], ["p1"])
    assert tape.ids == (["p0", "p2", "p1"] if others else [])


async def test_a_sink_that_comes_to_share_the_ledger_alone_keeps_what_it_is_owed(place: Place) -> None:
    table, shelf = place.table("out"), Shelf()
    await run_once(place.pipeline(sink("out", table)))
    place.mended = True
    today = place.pipeline(sink("out", shelf))
    assert told(await again(today)) == (1, 0, 0, {})
    assert ((await letter(today))[0], table.ids, shelf.ids) == ("resolved", ["p0", "p2"], ["p1"])


async def test_of_sinks_that_share_a_ledger_one_that_is_gone_is_missed(place: Place) -> None:
    stays, goes, new = Shelf(), Shelf(), place.table("new")
    await run_once(place.pipeline(sink("stays", stays), sink("goes", goes)))
    place.mended = True
    today = place.pipeline(sink("stays", stays), sink("new", new))
    assert told(await again(today)) == (1, 0, 0, {"goes": 1})
    assert (await letter(today), stays.ids, new.ids) == (("open", ["goes"]), ["p0", "p2", "p1"], [])
    assert told(await again(today, renamed={"goes": "new"})) == (1, 0, 0, {})
    assert ((await letter(today))[0], stays.ids, new.ids) == ("resolved", ["p0", "p2", "p1"], ["p1"])


@pytest.mark.parametrize(
    ("renamed", "code"),
    [
        ({"db": "nobody"}, "dlq.unknown_sink"),
        ({"table": "table"}, "dlq.not_renamed"),
        ({"db": "one"}, "dlq.shared_ledger"),
    ],
)
async def test_a_new_name_that_cannot_be_right_is_refused(place: Place, renamed: dict[str, str], code: str) -> None:
    await run_once(place.pipeline(sink("db", place.table("db"))))
    today = place.pipeline(sink("table", place.table("table")), sink("one", Shelf()), sink("two", Shelf()))
    with pytest.raises(UsageError) as caught:
        await again(today, renamed=renamed)
    assert (caught.value.code, bool(caught.value.help), await letter(today)) == (code, True, ("open", ["db"]))
    async with open_store(today) as store:
        assert await store.jobs.open_ones() == []
