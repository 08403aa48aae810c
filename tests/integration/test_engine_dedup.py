"""Repetitions (rules 5 to 8): which events count as seen, for whom, and what becomes of an event whose dead letter is open."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Kept, Shelf, Table, crash, crash_at, dedup, kept, make_pipeline, open_store, run_once, sink, step
from engine_parts import parts as parts

from penstock.config.model import EventFields, Limits, Pipeline, Retry
from penstock.errors import Fatal, Permanent, Transient
from penstock.event import Event
from penstock.ledger import Counts
from penstock.state.records import LetterQuery
from penstock.testing.clock import FakeClock

A, B = {"id": 1, "total": 1}, {"id": 2, "total": 2}
BY_ID = ".data.id"


def grade(event: Event) -> Any:
    """Refuses totals below zero, filters totals of zero."""
    total = event.data["total"]
    if total < 0:
        return Permanent("step.negative", f"{event.id} is negative")
    return event if total else None


def counts(received: int, delivered: int = 0, filtered: int = 0, deduplicated: int = 0, dead: int = 0) -> Counts:
    return Counts(received, delivered, filtered, deduplicated, dead)


def letters(found: Kept) -> list[tuple[str, str, int, Sequence[str]]]:
    return sorted((letter.event_id, letter.status, letter.repeats, list(letter.owed)) for letter in found.letters)


def build(directory: Path, feed: Feed, table: Table, key: str | None = BY_ID, **changes: Any) -> Pipeline:
    changes.setdefault("limits", Limits(in_flight_events=feed.batch))
    return make_pipeline(directory, feed, sink("table", table), steps=[step("grade", grade)], dedup=dedup(key), **changes)


BATCHES = pytest.mark.parametrize("batch", [1, 2, 9], ids=["a batch each", "two a batch", "one batch"])
READS = pytest.mark.parametrize("positions", [True, False], ids=["positions", "no positions"])


@BATCHES
@READS
async def test_a_repetition_is_delivered_once_wherever_its_first_is(tmp_path: Path, batch: int, positions: bool) -> None:
    feed, table = Feed.of(A, B, A, A, B, batch=batch, positions=positions), Table(tmp_path / "t.db")
    summary = await run_once(build(tmp_path, feed, table))
    assert (table.ids, summary.counts) == (["p0", "p1"], counts(5, 2, deduplicated=3))


@BATCHES
async def test_a_repetition_waits_for_its_first_that_is_in_flight(tmp_path: Path, batch: int) -> None:
    feed, table = Feed.of(A, B, A, A, B, batch=batch), Table(tmp_path / "t.db")
    summary = await run_once(build(tmp_path, feed, table, limits=Limits()))
    assert (table.ids, summary.counts) == (["p0", "p1"], counts(5, 2, deduplicated=3))


@BATCHES
async def test_repetitions_with_other_data_of_a_delivered_event_are_repetitions_too(tmp_path: Path, batch: int) -> None:
    feed, table = Feed.of(A, A | {"total": 5}, A | {"total": 6}, batch=batch), Table(tmp_path / "t.db")
    summary = await run_once(build(tmp_path, feed, table))
    assert (table.rows, summary.counts) == ([("p0", A)], counts(3, 1, deduplicated=2))


@BATCHES
async def test_a_filtered_event_counts_as_seen(tmp_path: Path, batch: int) -> None:
    nothing = {"id": 1, "total": 0}
    feed, table = Feed.of(nothing, A, nothing, batch=batch), Table(tmp_path / "t.db")
    summary = await run_once(build(tmp_path, feed, table))
    assert (table.ids, summary.counts) == ([], counts(3, filtered=1, deduplicated=2))


async def test_an_event_that_no_sink_asks_for_counts_as_seen(tmp_path: Path) -> None:
    feed, table = Feed.of(A, B, A, batch=1), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table, when=".id == 2"), dedup=dedup(BY_ID))
    summary = await run_once(pipeline)
    assert (table.ids, summary.counts) == (["p1"], counts(3, 1, filtered=1, deduplicated=1))


@BATCHES
@READS
async def test_a_repetition_of_a_dead_letter_is_counted_there(tmp_path: Path, batch: int, positions: bool) -> None:
    bad = {"id": 1, "total": -1}
    feed, table = Feed.of(bad, bad, B, bad, batch=batch, positions=positions), Table(tmp_path / "t.db")
    pipeline = build(tmp_path, feed, table)
    summary = await run_once(pipeline)
    found = await kept(pipeline)
    assert (table.ids, summary.counts) == (["p2"], counts(4, 1, deduplicated=2, dead=1))
    assert letters(found) == [("p0", "open", 2, ["table"])]


@BATCHES
@READS
async def test_other_data_under_the_key_of_a_dead_letter_gets_through_and_supersedes_it(
    tmp_path: Path, batch: int, positions: bool
) -> None:
    bad = {"id": 1, "total": -1}
    feed, table = Feed.of(bad, A, A, batch=batch, positions=positions), Table(tmp_path / "t.db")
    pipeline = build(tmp_path, feed, table)
    summary = await run_once(pipeline)
    assert (table.rows, summary.counts) == ([("p1", A)], counts(3, 1, deduplicated=1, dead=1))
    assert letters(await kept(pipeline)) == [("p0", "superseded", 0, ["table"])]
    assert summary.open_letters == 0


@BATCHES
async def test_every_dead_letter_of_a_key_is_superseded_and_none_hides_another(tmp_path: Path, batch: int) -> None:
    bad, worse = {"id": 1, "total": -1}, {"id": 1, "total": -2}
    feed, table = Feed.of(bad, worse, bad, worse, batch=batch), Table(tmp_path / "t.db")
    pipeline = build(tmp_path, feed, table)
    summary = await run_once(pipeline)
    assert summary.counts == counts(4, deduplicated=2, dead=2)
    assert letters(await kept(pipeline)) == [("p0", "open", 1, ["table"]), ("p1", "open", 1, ["table"])]
    feed.add(A)
    await run_once(pipeline)
    assert table.rows == [("p4", A)]
    assert letters(await kept(pipeline)) == [("p0", "superseded", 1, ["table"]), ("p1", "superseded", 1, ["table"])]


async def test_a_superseded_dead_letter_stays_so_after_a_crash_before_it_was_noted(tmp_path: Path) -> None:
    feed, table = Feed.of({"id": 1, "total": -1}, A, batch=1), Table(tmp_path / "t.db")
    pipeline = build(tmp_path, feed, table)
    await crash(pipeline, "before_note", 2)
    summary = await run_once(pipeline)
    found = await kept(pipeline)
    assert (table.ids, letters(found)) == (["p1"], [("p0", "superseded", 0, ["table"])])
    assert (found.totals, summary.counts) == (counts(2, 1, dead=1), Counts())


async def test_what_its_sink_refuses_supersedes_nothing(tmp_path: Path) -> None:
    feed, table = Feed.of({"id": 1, "total": -1}, A, batch=1), Table(tmp_path / "t.db", refused={"p1"})
    pipeline = build(tmp_path, feed, table)
    await run_once(pipeline)
    assert letters(await kept(pipeline)) == [("p0", "open", 0, ["table"]), ("p1", "open", 0, ["table"])]


async def test_discarding_a_dead_letter_keeps_its_key(tmp_path: Path) -> None:
    bad = {"id": 1, "total": -1}
    feed, table = Feed.of(bad, batch=1), Table(tmp_path / "t.db")
    pipeline = build(tmp_path, feed, table)
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    async with open_store(pipeline) as store:
        await store.set_status(None, [letter.id], "discarded")
    feed.add(bad, A)
    summary = await run_once(pipeline)
    assert (table.ids, summary.counts) == (["p2"], counts(2, 1, deduplicated=1))
    assert letters(await kept(pipeline)) == [("p0", "discarded", 1, ["table"])]


async def test_a_sink_that_refused_an_event_owes_it_alone(tmp_path: Path) -> None:
    """Two ledgers, of which one knows the key: the other is owed the event, and its repetitions are told apart by their data."""
    feed = Feed.of(A, batch=1)
    a, b = Table(tmp_path / "a.db"), Table(tmp_path / "b.db", refused={"p0"})
    pipeline = make_pipeline(tmp_path, feed, sink("a", a), sink("b", b), dedup=dedup(BY_ID))
    await run_once(pipeline)
    assert letters(await kept(pipeline)) == [("p0", "open", 0, ["b"])]
    feed.add(A)
    same = await run_once(pipeline)
    assert (same.counts, a.ids, b.ids) == (counts(1, deduplicated=1), ["p0"], [])
    feed.add(A | {"total": 9})
    other = await run_once(pipeline)
    assert (other.counts, a.ids, b.ids) == (counts(1, 1), ["p0"], ["p2"])
    assert letters(await kept(pipeline)) == [("p0", "superseded", 1, ["b"])]


async def test_what_one_ledger_delivered_is_delivered_whatever_the_other_knows_after_a_crash_too(tmp_path: Path) -> None:
    """p1 is a repetition for a, news for b, where p0 was refused; the run dies when b has taken it."""
    feed = Feed.of(A, A | {"total": 9}, batch=1)
    a, b = Table(tmp_path / "a.db"), Table(tmp_path / "b.db", refused={"p0"})
    pipeline = make_pipeline(tmp_path, feed, sink("a", a), sink("b", b), dedup=dedup(BY_ID), limits=Limits(in_flight_events=1))
    await crash(pipeline, "before_note", 2)
    await run_once(pipeline)
    found = await kept(pipeline)
    assert (a.ids, b.ids, found.totals) == (["p0"], ["p1"], counts(2, 1, dead=1))
    assert letters(found) == [("p0", "superseded", 0, ["b"])]


async def test_a_new_sink_knows_no_keys_of_before(tmp_path: Path) -> None:
    feed, a, b = Feed.of(A, batch=1), Table(tmp_path / "a.db"), Table(tmp_path / "b.db")
    await run_once(make_pipeline(tmp_path, feed, sink("a", a), dedup=dedup(BY_ID)))
    feed.add(A, B)
    summary = await run_once(make_pipeline(tmp_path, feed, sink("a", a), sink("b", b), dedup=dedup(BY_ID)))
    assert (a.ids, b.ids, summary.counts) == (["p0", "p2"], ["p1", "p2"], counts(2, 2))


# ---- read again


@READS
async def test_what_was_committed_and_not_acknowledged_is_no_repetition_of_itself(tmp_path: Path, positions: bool) -> None:
    feed, table = Feed.of(A, B, positions=positions), Table(tmp_path / "t.db")
    pipeline = build(tmp_path, feed, table, None)
    await crash(pipeline, "before_ack")
    summary = await run_once(pipeline)
    assert (table.ids, (await kept(pipeline)).totals) == (["p0", "p1"], counts(2, 2))
    assert (summary.counts, summary.reread) == (Counts(), 0 if positions else 2)


@pytest.mark.parametrize("batch", [1, 2])
async def test_an_event_that_a_queue_gives_twice_is_read_again_in_whatever_batch(tmp_path: Path, batch: int) -> None:
    feed = Feed.of(A, A, batch=batch, positions=False, ids={b'{"id":1,"total":1}': "m1"})
    table = Table(tmp_path / "t.db")
    summary = await run_once(build(tmp_path, feed, table))
    assert (table.ids, summary.counts, summary.reread) == (["m1"], counts(1, 1), 1)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("key", [None, BY_ID], ids=["source and id", "a key"])
async def test_two_records_that_are_given_one_id_are_two_events(tmp_path: Path, batch: int, key: str | None) -> None:
    """The second is a repetition, not the first read again: it was received."""
    feed, table = Feed.of(A, A, batch=batch), Table(tmp_path / "t.db")
    summary = await run_once(build(tmp_path, feed, table, key, event=EventFields(id=".id")))
    assert (table.ids, summary.counts, summary.reread) == (["1"], counts(2, 1, deduplicated=1), 0)


async def test_a_batch_without_inner_positions_is_recognised_when_its_first_part_was_committed(tmp_path: Path) -> None:
    bad = {"id": 1, "total": -1}
    feed, table = Feed.of(B, bad, A, batch=3, divisible=False), Table(tmp_path / "t.db")
    pipeline = build(tmp_path, feed, table)
    await crash(pipeline, "before_sink_write", 2)
    summary = await run_once(pipeline)
    found = await kept(pipeline)
    assert (table.ids, letters(found)) == (["p0", "p2"], [("p1", "superseded", 0, ["table"])])
    assert (found.totals, summary.reread) == (counts(3, 2, dead=1), 2)


# ---- keys


async def test_an_event_without_a_key_is_a_dead_letter(tmp_path: Path) -> None:
    feed, table = Feed.of({"total": 1}, A), Table(tmp_path / "t.db")
    pipeline = build(tmp_path, feed, table)
    summary = await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert (table.ids, summary.counts) == (["p1"], counts(2, 1, dead=1))
    assert (letter.step, letter.code, letter.key) == ("dedup", "dedup.no_key", None)


async def test_another_key_begins_another_key_space(tmp_path: Path) -> None:
    feed, table = Feed.of(A, batch=1), Table(tmp_path / "t.db")
    await run_once(build(tmp_path, feed, table))
    feed.add(A)
    summary = await run_once(build(tmp_path, feed, table, ".data"))
    assert (table.ids, summary.counts) == (["p0", "p1"], counts(1, 1))


async def test_sources_without_positions_dedup_by_default_and_others_do_not(tmp_path: Path) -> None:
    ids = {b'{"id":1,"total":1}': "m1"}
    queue, lines = Feed.of(A, A, positions=False, ids=ids, batch=1), Feed.of(A, A, ids=ids, batch=1)
    one, two = Table(tmp_path / "1.db"), Table(tmp_path / "2.db")
    await run_once(make_pipeline(tmp_path, queue, sink("one", one), name="queue"))
    await run_once(make_pipeline(tmp_path, lines, sink("two", two), name="lines"))
    assert (one.ids, two.ids) == (["m1"], ["m1", "m1"])


# ---- the window


@pytest.mark.parametrize(
    ("drained", "expected"), [(True, ["p0", "p1", "p2"]), (False, ["p0", "p1"])], ids=["a pause", "an outage"]
)
async def test_the_window_counts_running_time_and_pauses_but_no_outage(
    tmp_path: Path, drained: bool, expected: list[str]
) -> None:
    """The repetition comes 100 minutes after its first, the window is 60."""
    feed, table = Feed.of(A, batch=1), Table(tmp_path / "t.db")
    pipeline = build(tmp_path, feed, table)
    if drained:
        await run_once(pipeline, clock=FakeClock(0.0))
    else:
        await crash(pipeline, "before_ack", clock=FakeClock(0.0))
    feed.add(B, A)
    await run_once(pipeline, clock=FakeClock(6000.0))
    assert table.ids == expected


async def test_retries_of_a_commit_do_not_make_repetitions(tmp_path: Path) -> None:
    """The commit was done, its answer lost: the ledger is asked, and the group stands once (Invariant 7)."""
    feed, table = Feed.of(A, B), Table(tmp_path / "t.db", after=[Transient("table.lost", "connection lost")])
    summary = await run_once(build(tmp_path, feed, table, retry=Retry(initial_delay=0.0)))
    assert (table.ids, summary.counts, len(table.commits)) == (["p0", "p1"], counts(2, 2), 1)


async def test_an_unknown_outcome_of_a_group_that_is_redone_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    """a took the group before the crash; in the next run its commit fails before it begins, and must be tried again."""
    feed, a, b = Feed.of(A, B), Table(tmp_path / "a.db"), Table(tmp_path / "b.db")
    pipeline = make_pipeline(tmp_path, feed, sink("a", a), sink("b", b), retry=Retry(initial_delay=0.0))
    await crash(pipeline, "between_ledgers")
    feed.add({"id": 3, "total": 3})
    feed.batch = 3
    a.before = [Transient("table.lost", "connection lost")]
    await run_once(pipeline)
    assert a.ids == b.ids == ["p0", "p1", "p2"]


async def test_two_shelves_share_the_ledger_of_the_state_store(tmp_path: Path) -> None:
    feed, one, two = Feed.of(A, B, A, batch=1), Shelf(), Shelf()
    pipeline = make_pipeline(tmp_path, feed, sink("one", one), sink("two", two), dedup=dedup(BY_ID))
    summary = await run_once(pipeline)
    assert (one.ids, two.ids, summary.counts) == (["p0", "p1"], ["p0", "p1"], counts(3, 2, deduplicated=1))
    assert list((await kept(pipeline)).note.ledgers) == ["state", "state/one", "state/two"]


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("point", ["before_ack", "after_note", "before_note", "between_ledgers", "before_commit"])
async def test_without_positions_a_repetition_that_is_given_again_is_counted_once(tmp_path: Path, point: str, batch: int) -> None:
    """A queue gives again what a run that died had not acknowledged, repetitions too."""
    records = [{"n": 1}, {"n": 1}, {"n": 2}, {"poison": 1}, {"n": 1}, {"poison": 1}, {"n": 2}, {"n": 3}]

    async def after(directory: Path, *dies: int) -> dict[str, Any]:
        directory.mkdir()
        feed, a, b = Feed.of(*records, batch=batch, positions=False), Table(directory / "a.db"), Table(directory / "b.db")
        pipeline = make_pipeline(
            directory, feed, sink("a", a), sink("b", b), sink("tape", Shelf(), kind="tape"), dedup=dedup(),
            steps=[step("check", lambda event: Permanent("step.bad", "") if "poison" in event.data else event)],
        )  # fmt: skip
        for nth in dies:
            with suppress(Fatal):  # or it does not come so far
                await run_once(pipeline, faults=crash_at(point, nth))
        await run_once(pipeline)
        found = await kept(pipeline)
        return {
            "rows": (a.rows, b.rows),
            "totals": found.totals,
            "letters": [(one.event_id, one.status, one.repeats, one.owed) for one in found.letters],
        }

    calm = await after(tmp_path / "calm")
    assert calm["totals"] == Counts(8, 3, 0, 4, 1)
    for number, dies in enumerate(([1], [2], [1, 1], [2, 1, 2])):
        assert await after(tmp_path / str(number), *dies) == calm, dies


async def test_a_dead_event_without_a_position_whose_letter_is_gone_fails_again_when_it_is_given_again(tmp_path: Path) -> None:
    feed, table = Feed.of({"id": 1, "total": -1}, positions=False), Table(tmp_path / "t.db")
    pipeline = build(tmp_path, feed, table)
    await crash(pipeline, "before_ack")
    async with open_store(pipeline) as store:
        found, _ = await store.letters(LetterQuery())
        await store.set_status(None, [letter.id for letter in found], "discarded")
        assert await store.expire_letters(2e9) == 1
    await run_once(pipeline)
    assert letters(await kept(pipeline)) == [("p0", "open", 0, ["table"])]
