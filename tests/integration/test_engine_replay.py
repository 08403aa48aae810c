"""Replay while no run is alive (rules 7, 9 and 10): delivered once, to those that are owed, and its letter resolved with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Shelf, Stopwatch, Table, bad, dedup, kept, make_pipeline, open_store, run_once, sink, step
from engine_parts import parts as parts
from engine_replay_parts import Check, again, numbers, said, statuses

from dlq.replay import summary_of
from penstock.config.model import DeadLetters
from penstock.engine.run import Run, RunOptions
from penstock.errors import BatchError, EnvironmentFault, Oversized
from penstock.event import Event
from penstock.ledger import Counts
from penstock.state.records import LetterQuery
from penstock.state.sqlite_store import SqliteStateStore


@pytest.mark.parametrize("keyed", [True, False], ids=["dedup", "no dedup"])
@pytest.mark.parametrize("positions", [True, False], ids=["positions", "no positions"])
async def test_what_was_mended_is_delivered_once_and_resolved(tmp_path: Path, keyed: bool, positions: bool) -> None:
    feed, table, check = Feed.of(*numbers(4), positions=positions), Table(tmp_path / "t.db"), Check("p1", "p2")
    pipeline = make_pipeline(
        tmp_path, feed, sink("table", table), steps=[step("check", check)], dedup=dedup() if keyed else None
    )  # fmt: skip
    first = await run_once(pipeline)
    check.refused.clear()
    summary = await again(pipeline)
    assert (table.ids, said(summary)) == (["p0", "p3", "p1", "p2"], (2, 2, 0, 0, 0))
    assert await statuses(pipeline) == {"p1": ("resolved", 1, ["table"]), "p2": ("resolved", 1, ["table"])}
    assert (await kept(pipeline)).totals == first.counts == Counts(4, 2, dead_lettered=2)  # the first outcome stays
    assert said(await again(pipeline)) == (0, 0, 0, 0, 0)
    assert (await run_once(pipeline)).counts == Counts()


async def test_a_sink_outside_any_ledger_is_replayed_to_as_well(tmp_path: Path) -> None:
    feed, tape, check = Feed.of(*numbers(3)), Shelf(), Check("p1")
    pipeline = make_pipeline(tmp_path, feed, sink("tape", tape, kind="tape"), steps=[step("check", check)])
    await run_once(pipeline)
    check.refused.clear()
    assert (said(await again(pipeline)), tape.ids) == ((1, 1, 0, 0, 0), ["p0", "p2", "p1"])
    await run_once(pipeline)
    assert tape.ids == ["p0", "p2", "p1"]


async def test_what_fails_again_stays_open_with_its_new_reason(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Check("p0", "p1")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)])
    await run_once(pipeline)
    check.refused.clear()
    table.refused = {"p1"}
    assert said(await again(pipeline)) == (2, 1, 0, 0, 1)
    (letter,) = (await kept(pipeline)).open
    assert (letter.event_id, letter.step, letter.code, letter.attempts, letter.job) == ("p1", "table", "row.refused", 2, None)
    assert table.ids == ["p2", "p0"]


@pytest.mark.parametrize("positions", [True, False], ids=["positions", "no positions"])
async def test_attempts_add_up_once_a_replay(tmp_path: Path, positions: bool) -> None:
    feed, table = Feed.of(*numbers(1), positions=positions), Table(tmp_path / "t.db", refused={"p0"})
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    await run_once(pipeline)
    await again(pipeline)
    await again(pipeline)
    assert await statuses(pipeline) == {"p0": ("open", 3, ["table"])}


async def test_what_today_filters_is_resolved_too(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*numbers(2)), Table(tmp_path / "t.db"), Check("p1")
    await run_once(make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)]))
    today = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", lambda event: None)])
    assert (said(await again(today)), table.ids) == ((1, 0, 1, 0, 0), ["p0"])
    assert await statuses(today) == {"p1": ("resolved", 1, ["table"])}


async def test_beside_a_live_run_the_caller_hears_its_process_id_and_the_run_carries_the_job_out(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*numbers(2)), Table(tmp_path / "t.db"), Check("p1")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)])
    run = Run(pipeline, RunOptions())
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(20):
        while run.status.counts.received < 2:
            await asyncio.sleep(0.001)
    check.refused.clear()
    with pytest.raises(EnvironmentFault) as caught:
        await again(pipeline)
    assert (caught.value.code, str(os.getpid()) in caught.value.message) == ("state.held", True)
    async with open_store(pipeline) as store, asyncio.timeout(20):
        while (await store.jobs.latest())[0].open:
            await asyncio.sleep(0.01)
        (job,) = await store.jobs.latest()
    run.stop()
    assert (await task).counts == Counts(2, 1, dead_lettered=1)  # the first outcome stays
    assert (job.state, said(summary_of(job)), table.ids) == ("done", (1, 1, 0, 0, 0), ["p0", "p1"])


async def test_only_the_ledgers_that_owe_an_event_get_it(tmp_path: Path) -> None:
    feed, a, b = Feed.of(*numbers(2)), Table(tmp_path / "a.db"), Table(tmp_path / "b.db", refused={"p1"})
    shelf = Shelf()
    pipeline = make_pipeline(tmp_path, feed, sink("a", a), sink("b", b), sink("shelf", shelf))
    await run_once(pipeline)
    b.refused.clear()
    assert said(await again(pipeline)) == (1, 1, 0, 0, 0)
    assert (a.ids, b.ids, shelf.ids) == (["p0", "p1"], ["p0", "p1"], ["p0", "p1"])


async def test_a_sink_that_is_new_since_is_not_owed_it(tmp_path: Path) -> None:
    feed, a, new, check = Feed.of(*numbers(1)), Table(tmp_path / "a.db"), Table(tmp_path / "new.db"), Check("p0")
    await run_once(make_pipeline(tmp_path, feed, sink("a", a), steps=[step("check", check)]))
    check.refused.clear()
    await again(make_pipeline(tmp_path, feed, sink("a", a), sink("new", new), steps=[step("check", check)]))
    assert (a.ids, new.ids) == (["p0"], [])


async def test_outputs_that_a_sink_took_before_are_skipped(tmp_path: Path) -> None:
    refused = {"p0-1"}

    def plan(events: Sequence[Event]) -> None:
        failed = {n: bad(event.id) for n, event in enumerate(events) if event.id in refused}
        if failed:
            raise BatchError(failed)

    whole, part = Shelf(), Shelf(plan=plan)
    split = step("split", lambda event: [event.replace(decoded={"part": n}) for n in range(3)])
    pipeline = make_pipeline(tmp_path, Feed.of(*numbers(1)), sink("whole", whole), sink("part", part), steps=[split])
    await run_once(pipeline)
    assert said(await again(pipeline)) == (1, 0, 0, 0, 1)
    refused.clear()
    assert said(await again(pipeline)) == (1, 1, 0, 0, 0)
    assert (whole.ids, part.ids) == (["p0-0", "p0-1", "p0-2"], ["p0-0", "p0-2", "p0-1"])


# ---- keys


async def test_a_replayed_event_leaves_its_key(tmp_path: Path) -> None:
    feed, table, check = Feed.of({"n": 0}), Table(tmp_path / "t.db"), Check("p0")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)], dedup=dedup())
    await run_once(pipeline)
    check.refused.clear()
    await again(pipeline)
    feed.add({"n": 0})
    assert ((await run_once(pipeline)).counts, table.ids) == (Counts(1, deduplicated=1), ["p0"])


@pytest.mark.parametrize("other", ["p", "q"], ids=["one partition", "two partitions"])
async def test_of_two_letters_of_one_key_the_second_is_a_repetition_if_the_first_gets_through(tmp_path: Path, other: str) -> None:
    feed, table, check = Feed.of({"id": 1, "n": 0}), Table(tmp_path / "t.db"), Check("p0", "p1", "q0")
    feed.add({"id": 1, "n": 1}, partition=other)
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)], dedup=dedup(".data.id"))
    await run_once(pipeline)
    check.refused.clear()
    assert (said(await again(pipeline)), table.ids) == ((2, 1, 0, 1, 0), ["p0"])
    assert {status for status, _, _ in (await statuses(pipeline)).values()} == {"resolved"}


async def test_of_two_letters_of_one_key_the_second_gets_through_if_the_first_fails_again(tmp_path: Path) -> None:
    feed, table, check = Feed.of({"id": 1, "n": 0}, {"id": 1, "n": 1}), Table(tmp_path / "t.db"), Check("p0", "p1")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)], dedup=dedup(".data.id"))
    await run_once(pipeline)
    check.refused = {"p0"}
    assert (said(await again(pipeline)), table.ids) == ((2, 1, 0, 0, 1), ["p1"])
    assert await statuses(pipeline) == {"p0": ("open", 2, ["table"]), "p1": ("resolved", 1, ["table"])}


async def test_letters_of_one_key_are_tried_in_the_order_in_which_they_were_read(tmp_path: Path) -> None:
    records = [{"key": "a" if n in (3, 4, 8) else n, "n": n} for n in range(9)]
    feed, table, check = Feed.of(*records, batch=20), Table(tmp_path / "t.db"), Check(*(f"p{n}" for n in range(9)))
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)], dedup=dedup(".data.key"))
    await run_once(pipeline)
    check.refused = {"p3"}
    assert said(await again(pipeline)) == (9, 7, 0, 1, 1)  # in portions of one, two, four and two
    assert table.ids == ["p0", "p1", "p2", "p5", "p6", "p4", "p7"]  # p8 has other data than p4, and came later


# ---- how


async def test_letters_of_a_partition_are_replayed_in_the_order_in_which_they_were_read(tmp_path: Path) -> None:
    ids = [f"p{n}" for n in range(30)]
    feed, table, check = Feed.of(*numbers(30), batch=30), Table(tmp_path / "t.db"), Check(*ids)
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)])
    await run_once(pipeline)
    check.refused.clear()
    progress: list[tuple[int, int]] = []
    await again(pipeline, progress=lambda done, total: progress.append((done, total)))
    assert (table.ids, progress[0], progress[-1]) == (ids, (1, 30), (30, 30))


async def test_a_portion_takes_no_longer_than_who_pauses_or_stops_the_job_may_wait(tmp_path: Path) -> None:
    feed, table, check, clock = (
        Feed.of(*numbers(10), batch=10),
        Table(tmp_path / "t.db"),
        Check(*(f"p{n}" for n in range(10))),
        Stopwatch(),
    )

    def work(event: Event) -> Event:
        clock.shown += 0.25
        return event

    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check), step("work", work)])
    await run_once(pipeline)
    check.refused.clear()
    done: list[int] = []
    await again(pipeline, progress=lambda so_far, total: done.append(so_far), clock=clock)
    assert done == [1, 3, 7, 10]  # four events take a second


async def test_a_query_selects_and_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Check("p1", "p2")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)])
    await run_once(pipeline)
    check.refused = {"p2"}
    (one, two) = sorted((await kept(pipeline)).letters, key=lambda letter: letter.event_id)
    assert said(await again(pipeline, dry_run=True)) == (2, 1, 0, 0, 1)
    assert (table.ids, await statuses(pipeline)) == (["p0"], {"p1": ("open", 1, ["table"]), "p2": ("open", 1, ["table"])})
    assert said(await again(pipeline, LetterQuery(ids=[one.id]))) == (1, 1, 0, 0, 0)
    assert (table.ids, (await statuses(pipeline))["p2"]) == (["p0", "p1"], ("open", 1, ["table"]))
    assert two.event_id == "p2"


async def test_lane_stop_does_not_stop_a_replay(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Check("p1", "p2")
    await run_once(make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)]))
    strict = make_pipeline(
        tmp_path, feed, sink("table", table), steps=[step("check", check)], dead_letter=DeadLetters(lane="stop")
    )
    check.refused = {"p1"}
    assert (said(await again(strict)), table.ids) == ((2, 1, 0, 0, 1), ["p0", "p2"])


async def test_the_program_of_today_sees_the_record_as_it_came(tmp_path: Path) -> None:
    """From the start: what a step had made of the event before it failed is forgotten."""
    grow = step("grow", lambda event: event.replace(decoded={"grown": event.data["n"]}))
    feed, table, check = Feed.of(*numbers(2)), Table(tmp_path / "t.db"), Check("p1")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[grow, step("check", check)])
    await run_once(pipeline)
    check.refused.clear()
    await again(pipeline)
    assert table.rows == [("p0", {"grown": 0}), ("p1", {"grown": 1})]


async def test_what_is_no_json_fails_again_as_it_did(tmp_path: Path) -> None:
    feed, table = Feed.of(b'{"n": 1'), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    await run_once(pipeline)
    (before,) = (await kept(pipeline)).letters
    assert said(await again(pipeline)) == (1, 0, 0, 0, 1)
    (after,) = (await kept(pipeline)).letters
    assert (after.code, after.original, after.fingerprint) == (before.code, b'{"n": 1', before.fingerprint)


async def test_a_record_that_its_source_could_not_read_is_never_delivered_empty(tmp_path: Path) -> None:
    long = Oversized("source.oversized", "a line of 9 GiB", length=9 << 30, digest="d" * 32)
    feed, table = Feed.of(long), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    await run_once(pipeline)
    assert (said(await again(pipeline)), table.ids) == ((1, 0, 0, 0, 1), [])
    (letter,) = (await kept(pipeline)).letters
    assert (letter.code, letter.reread, letter.original_length) == ("source.oversized", True, 9 << 30)


async def test_what_is_discarded_while_a_replay_looks_at_it_is_not_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Check("p0", "p1", "p2")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)])
    await run_once(pipeline)
    check.refused.clear()
    letters_at = SqliteStateStore.letters_at

    async def look(store: SqliteStateStore, *query: Any) -> Any:
        found = await letters_at(store, *query)
        await store.set_status(None, [letter.id for letter in found if letter.event_id == "p1"], "discarded", among=["open"])
        return found

    monkeypatch.setattr(SqliteStateStore, "letters_at", look)
    assert said(await again(pipeline)) == (2, 2, 0, 0, 0)
    assert table.ids == ["p0", "p2"]
    assert {name: status for name, (status, _, _) in (await statuses(pipeline)).items()} == {
        "p0": "resolved", "p1": "discarded", "p2": "resolved",
    }  # fmt: skip
