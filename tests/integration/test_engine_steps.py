"""What steps and routes make of events: filtered, several, failed, passed by; in order, each received event with one outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Kept, Shelf, Table, bad, dedup, kept, make_pipeline, run_once, sink, step
from engine_parts import parts as parts

from penstock.config.model import EventFields, Retry
from penstock.errors import BatchError, Fatal, Oversized, Permanent, Transient, Violation
from penstock.event import Event
from penstock.ledger import Counts
from penstock.observe.status import RunSummary
from penstock.state.records import Delivered
from penstock.testing.clock import FakeClock

NOW = Retry(max_attempts=3, initial_delay=0.0)


def numbers(count: int) -> list[dict[str, int]]:
    return [{"n": n} for n in range(count)]


def failing(*ids: str, error: Any = None) -> Any:
    return lambda event: (error or Permanent("step.bad", f"{event.id} is bad")) if event.id in ids else event


async def through(directory: Path, feed: Feed, *steps: Any, **changes: Any) -> tuple[RunSummary, Shelf, Kept]:
    shelf = Shelf()
    pipeline = make_pipeline(directory, feed, sink("shelf", shelf), steps=steps, **changes)
    return await run_once(pipeline), shelf, await kept(pipeline)


# ---- outcomes


async def test_every_event_ends_in_one_outcome_and_order_is_kept(tmp_path: Path) -> None:
    def grade(event: Event) -> Any:
        n = event.data["n"]
        if n == 1:
            return None
        if n == 2:
            return Permanent("step.bad", "bad")
        return [event.replace(decoded={"n": n, "part": part}) for part in range(n)] if n == 3 else event

    summary, shelf, found = await through(tmp_path, Feed.of(*numbers(5)), step("grade", grade))
    assert shelf.ids == ["p0", "p3-0", "p3-1", "p3-2", "p4"]
    assert summary.counts == found.totals == Counts(5, delivered=3, filtered=1, dead_lettered=1, derived=3)
    assert summary.sinks == {"shelf": 5}


async def test_counts_agree_at_every_commit(tmp_path: Path) -> None:
    """Invariant 3: received = delivered + filtered + deduplicated + dead-lettered."""
    feed, table = Feed.of(*[{"n": n % 7} for n in range(40)], batch=3), Table(tmp_path / "t.db", refused={"p5", "p30"})
    step_ = step("grade", lambda event: None if event.data["n"] == 1 else failing("p9", "p10")(event))
    await run_once(make_pipeline(tmp_path, feed, sink("table", table), steps=[step_]))
    assert len(table.commits) > 1
    for commit in table.commits:
        c = commit.counts
        assert c.received == c.delivered + c.filtered + c.deduplicated + c.dead_lettered
        assert c.received == int.from_bytes(commit.positions["p"].order, "big")


async def test_one_output_of_a_list_is_no_derived_event(tmp_path: Path) -> None:
    summary, shelf, _ = await through(tmp_path, Feed.of(*numbers(1)), step("wrap", lambda event: [event]))
    assert (shelf.ids, summary.counts) == (["p0"], Counts(1, 1))


async def test_splits_of_splits_are_numbered_on(tmp_path: Path) -> None:
    double = lambda event: [event, event.replace()]  # noqa: E731
    summary, shelf, _ = await through(tmp_path, Feed.of(*numbers(1)), step("a", double), step("b", double))
    assert (shelf.ids, summary.counts) == (["p0-0-0", "p0-0-1", "p0-1-0", "p0-1-1"], Counts(1, 1, derived=6))


async def test_an_event_fails_whole(tmp_path: Path) -> None:
    """One of its parts fails: no other part is delivered."""
    split = step("split", lambda event: [event.replace(decoded={"part": n}) for n in range(3)])
    check = step("check", lambda event: Permanent("part.bad", "bad") if event.id == "p1-2" else event)
    summary, shelf, found = await through(tmp_path, Feed.of(*numbers(2)), split, check)
    assert shelf.ids == ["p0-0", "p0-1", "p0-2"]
    assert (summary.counts.delivered, summary.counts.dead_lettered) == (1, 1)
    (letter,) = found.letters
    assert (letter.event_id, letter.step, b'"p1-2"' in letter.event) == ("p1", "check", True)


# ---- what every step may have


async def test_a_step_passes_by_what_its_condition_excludes(tmp_path: Path) -> None:
    def mark(event: Event) -> Any:
        n = event.data["n"]
        return [event.replace(decoded={"n": n, "half": half}) for half in (1, 2)] if n == 2 else event.replace(decoded={"n": -n})

    summary, shelf, _ = await through(tmp_path, Feed.of(*numbers(4), batch=4), step("mark", mark, when=".n > 1"))
    assert shelf.taken == [
        ("p0", {"n": 0}), ("p1", {"n": 1}), ("p2-0", {"n": 2, "half": 1}), ("p2-1", {"n": 2, "half": 2}), ("p3", {"n": -3}),
    ]  # fmt: skip
    assert summary.counts == Counts(4, 4, derived=2)


async def test_a_condition_that_fails_costs_its_event(tmp_path: Path) -> None:
    feed = Feed.of({"n": 1}, {"n": "x"}, {"n": 3})
    summary, shelf, found = await through(tmp_path, feed, step("half", lambda event: event, when=".n / 2 > 0"))
    assert (shelf.ids, summary.counts.dead_lettered) == (["p0", "p2"], 1)
    assert [(letter.event_id, letter.step) for letter in found.letters] == [("p1", "half")]


async def test_failures_behind_a_condition_are_those_of_the_right_event(tmp_path: Path) -> None:
    feed = Feed.of(*numbers(4), batch=4)
    _, shelf, found = await through(tmp_path, feed, step("odd", failing("p3"), when=".n % 2 == 1"))
    assert (shelf.ids, [letter.event_id for letter in found.letters]) == (["p0", "p1", "p2"], ["p3"])


@pytest.mark.parametrize("when", [None, "true"], ids=["always", "under a condition"])
async def test_on_error_skip_lets_the_event_pass_as_it_was(tmp_path: Path, when: str | None) -> None:
    check = step("check", failing("p1"), on_error="skip", when=when)
    summary, shelf, found = await through(tmp_path, Feed.of(*numbers(3)), check)
    assert (shelf.taken, found.letters) == ([(f"p{n}", {"n": n}) for n in range(3)], [])
    assert summary.counts == Counts(3, 3)


async def test_on_error_stop_ends_the_run_before_the_event(tmp_path: Path) -> None:
    feed, shelf = Feed.of(*numbers(5)), Shelf()
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[step("check", failing("p3"), on_error="stop")])
    with pytest.raises(Fatal) as caught:
        await run_once(pipeline)
    assert (caught.value.code, caught.value.where) == ("step.bad", "step check, event list:orders p3")
    assert (shelf.ids, (await kept(pipeline)).letters, feed.acked) == (["p0", "p1"], [], [("p", 2)])


async def test_only_what_is_transient_is_tried_again(tmp_path: Path) -> None:
    calls: list[list[str]] = []

    def flaky(events: Sequence[Event]) -> list[Any]:
        calls.append([event.id for event in events])
        down = Transient("step.down", "down")
        return [down if event.id == "p1" and len(calls) < 3 else event for event in events]

    summary, shelf, _ = await through(tmp_path, Feed.of(*numbers(3), batch=3), step("ask", flaky, batched=True, retry=NOW))
    assert (calls, shelf.ids) == ([["p0", "p1", "p2"], ["p1"], ["p1"]], ["p0", "p1", "p2"])
    assert summary.counts == Counts(3, 3)


async def test_a_step_that_stays_transient_makes_a_dead_letter_with_its_attempts(tmp_path: Path) -> None:
    down = failing("p1", error=Transient("step.down", "down"))
    _, shelf, found = await through(tmp_path, Feed.of(*numbers(3)), step("ask", down, retry=NOW))
    assert (shelf.ids, [(letter.code, letter.attempts) for letter in found.letters]) == (["p0", "p2"], [("step.down", 3)])


async def test_a_step_that_takes_too_long_is_transient(tmp_path: Path) -> None:
    async def slow(events: Sequence[Event]) -> list[Event]:
        if any(event.id == "p1" for event in events):
            await asyncio.Event().wait()
        return list(events)

    ask = step("ask", slow, batched=True, timeout=0.01, retry=Retry(max_attempts=1))
    _, shelf, found = await through(tmp_path, Feed.of(*numbers(3), batch=1), ask)
    assert (shelf.ids, [letter.code for letter in found.letters]) == (["p0", "p2"], ["step.timeout"])


async def test_a_timeout_that_is_the_steps_own_is_a_bug_of_the_step(tmp_path: Path) -> None:
    async def careless(events: Sequence[Event]) -> list[Event]:
        raise TimeoutError("the customers did not answer")

    with pytest.raises(Fatal, match="TimeoutError: the customers did not answer") as caught:
        await through(tmp_path, Feed.of(*numbers(1)), step("ask", careless, batched=True))
    assert caught.value.where == "step ask"


async def test_later_steps_see_the_outputs_of_earlier_ones(tmp_path: Path) -> None:
    names = step("names", lambda event: event.replace(decoded={"name": f"customer {event.data['n']}"}))
    join = step("join", lambda event: event, when='$steps.names.name == "customer 1"', set={"type": "$steps.names.name"})
    shelf = Shelf()
    seen: list[tuple[str, str]] = []
    shelf.plan = lambda events: seen.extend((event.id, event.type) for event in events)
    pipeline = make_pipeline(
        tmp_path, Feed.of(*numbers(3)), sink("shelf", shelf), steps=[names, join], content='"$steps.names.name"'
    )  # fmt: skip
    await run_once(pipeline)
    assert seen == [("p0", "order"), ("p1", "customer 1"), ("p2", "order")]


async def test_set_gives_attributes_to_the_events_that_a_step_makes(tmp_path: Path) -> None:
    seen: list[tuple[str, str | None]] = []
    shelf = Shelf(plan=lambda events: seen.extend((event.type, event.subject) for event in events))
    made = step("made", lambda event: event, set={"type": "order.enriched", "subject": ".n"})
    await run_once(make_pipeline(tmp_path, Feed.of(*numbers(2)), sink("shelf", shelf), steps=[made]))
    assert seen == [("order.enriched", "0"), ("order.enriched", "1")]


async def test_event_fills_the_envelope_and_refuses_what_is_none(tmp_path: Path) -> None:
    feed = Feed.of({"n": 1, "at": "2026-11-01T12:00:00Z"}, {"n": 2, "at": "yesterday"}, {"n": None, "at": "2026-11-01T12:00:00Z"})
    summary, shelf, found = await through(tmp_path, feed, event=EventFields(id=".n", time=".at", type="order.made"))
    assert (shelf.ids, summary.counts) == (["1"], Counts(3, 1, dead_lettered=2))
    assert sorted((letter.event_id, letter.step, letter.code) for letter in found.letters) == [
        ("p1", "event", "event.invalid_time"),
        ("p2", "event", "event.missing_attribute"),
    ]


async def test_a_leap_second_is_a_time_for_the_envelope_and_for_the_key(tmp_path: Path) -> None:
    feed = Feed.of({"at": "2016-12-31T23:59:60Z"}, {"at": "2016-12-31T23:59:60Z"}, {"at": "2016-12-31 23:59:59Z"})
    summary, shelf, found = await through(tmp_path, feed, event=EventFields(time=".at"), dedup=dedup())
    assert (shelf.ids, summary.counts) == (["p0"], Counts(3, 1, deduplicated=1, dead_lettered=1))
    assert [letter.code for letter in found.letters] == ["event.invalid_time"]


# ---- several sinks


async def test_every_sink_whose_condition_holds_takes_the_event(tmp_path: Path) -> None:
    odd, big, rest = Shelf(), Table(tmp_path / "big.db"), Shelf()
    pipeline = make_pipeline(
        tmp_path, Feed.of(*numbers(5)), sink("odd", odd, when=".n % 2 == 1"), sink("big", big, when=".n > 2"),
        sink("three", rest, when=".n == 3"),
    )  # fmt: skip
    summary = await run_once(pipeline)
    assert (odd.ids, big.ids, rest.ids) == (["p1", "p3"], ["p3", "p4"], ["p3"])
    assert (summary.counts, summary.sinks) == (Counts(5, delivered=3, filtered=2), {"odd": 2, "big": 2, "three": 1})


async def test_route_first_stops_at_the_first_sink_that_takes_the_event(tmp_path: Path) -> None:
    odd, rest = Shelf(), Shelf()
    pipeline = make_pipeline(
        tmp_path, Feed.of(*numbers(4)), sink("odd", odd, when=".n % 2 == 1"), sink("rest", rest), route="first"
    )  # fmt: skip
    assert ((await run_once(pipeline)).counts, odd.ids, rest.ids) == (Counts(4, 4), ["p1", "p3"], ["p0", "p2"])


async def test_route_first_asks_no_condition_behind_the_sink_that_took_the_event(tmp_path: Path) -> None:
    words, numbers_ = Shelf(), Shelf()
    pipeline = make_pipeline(
        tmp_path, Feed.of({"n": "x"}, {"n": 4}), sink("words", words, when='.n == "x"'),
        sink("numbers", numbers_, when=".n / 2 > 0"), route="first",
    )  # fmt: skip
    assert ((await run_once(pipeline)).counts, words.ids, numbers_.ids) == (Counts(2, 2), ["p0"], ["p1"])


async def test_a_failing_condition_of_a_sink_is_the_events_failure(tmp_path: Path) -> None:
    all_, half = Shelf(), Shelf()
    pipeline = make_pipeline(tmp_path, Feed.of({"n": 2}, {"n": "x"}), sink("all", all_), sink("half", half, when=".n / 2 > 0"))
    assert (await run_once(pipeline)).counts == Counts(2, 1, dead_lettered=1)
    (letter,) = (await kept(pipeline)).letters
    assert (all_.ids, half.ids, letter.event_id, letter.step) == (["p0"], ["p0"], "p1", "half.when")


async def test_a_sink_that_refuses_an_event_does_not_keep_it_from_the_others(tmp_path: Path) -> None:
    strict, other, shelf = Table(tmp_path / "s.db", refused={"p1"}), Table(tmp_path / "o.db"), Shelf()
    pipeline = make_pipeline(tmp_path, Feed.of(*numbers(3)), sink("strict", strict), sink("other", other), sink("shelf", shelf))
    summary = await run_once(pipeline)
    assert (strict.ids, other.ids, shelf.ids) == (["p0", "p2"], ["p0", "p1", "p2"], ["p0", "p1", "p2"])
    (letter,) = (await kept(pipeline)).letters
    assert (letter.event_id, letter.step, letter.code, letter.owed) == ("p1", "strict", "row.refused", ["strict"])
    assert summary.counts == Counts(3, 2, dead_lettered=1)


async def test_a_ledger_sink_takes_all_parts_of_an_event_or_none(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.db", refused={"p1-1"})
    split = step("split", lambda event: [event.replace(decoded={"part": n}) for n in range(2)])
    summary = await run_once(make_pipeline(tmp_path, Feed.of(*numbers(3)), sink("table", table), steps=[split]))
    assert (table.ids, summary.counts.dead_lettered) == (["p0-0", "p0-1", "p2-0", "p2-1"], 1)


async def test_elsewhere_the_dead_letter_lists_every_output_that_was_delivered(tmp_path: Path) -> None:
    def plan(events: Sequence[Event]) -> None:
        refused = {n: bad(event.id) for n, event in enumerate(events) if event.id == "p1-1"}
        if refused:
            raise BatchError(refused)

    whole, part = Shelf(), Shelf(plan=plan)
    split = step("split", lambda event: [event.replace(decoded={"part": n}) for n in range(3)])
    pipeline = make_pipeline(tmp_path, Feed.of(*numbers(2)), sink("whole", whole), sink("part", part), steps=[split])
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert part.ids == ["p0-0", "p0-1", "p0-2", "p1-0", "p1-2"]
    assert (letter.step, letter.owed) == ("part", ["state"])
    assert letter.delivered == [
        Delivered("whole", 0), Delivered("whole", 1), Delivered("whole", 2), Delivered("part", 0), Delivered("part", 2),
    ]  # fmt: skip


# ---- dead letters


async def test_a_dead_letter_holds_all_that_is_needed(tmp_path: Path) -> None:
    wrong = Permanent(
        "validate.failed", "1 violation", why="the schema", help="mend it", violations=[Violation(".n", "type", "no text")]
    )
    clock = FakeClock(1_800_000_000.0)
    steps = [step("grow", lambda event: event.replace(decoded={"grown": True})), step("check", failing("p1", error=wrong))]
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=steps, event=EventFields(type="order.made"))
    await run_once(pipeline, clock=clock)
    (letter,) = (await kept(pipeline)).letters
    assert (letter.step, letter.code, letter.message, letter.why, letter.help) == (
        "check", "validate.failed", "1 violation", "the schema", "mend it",
    )  # fmt: skip
    assert letter.violations == [Violation(".n", "type", "no text")]
    assert (letter.partition, letter.position, letter.source, letter.event_id) == (
        "p",
        (2).to_bytes(8, "big"),
        "list:orders",
        "p1",
    )
    assert (letter.original, letter.original_length, letter.reread) == (b'{"n":1}', 7, False)
    assert (b'"data":{"n":1}' in letter.record, b'"type":"order"' in letter.record) == (True, True)
    assert (letter.type, b'"type":"order.made"' in letter.event, b"grown" in letter.event) == ("order.made", True, False)
    assert (letter.version, letter.status, letter.attempts, letter.repeats, letter.owed) == ("v1", "open", 1, 0, ["table"])
    assert letter.first_at == letter.last_at == clock.now()


async def test_the_same_cause_has_the_same_fingerprint_whatever_the_event(tmp_path: Path) -> None:
    def check(event: Event) -> Any:
        n = event.data["n"]
        rule = "minimum" if n < 2 else "type"
        return Permanent("validate.failed", f"{event.id} fails", violations=[Violation(f".items[{n}]", rule, "no")])

    _, _, found = await through(tmp_path, Feed.of(*numbers(4)), step("check", check))
    prints = {letter.event_id: letter.fingerprint for letter in found.letters}
    assert prints["p2"] == prints["p3"] != prints["p0"]
    assert len(found.letters) == 4


async def test_what_is_no_json_is_kept_as_it_came(tmp_path: Path) -> None:
    summary, shelf, found = await through(tmp_path, Feed.of({"n": 0}, b'{"n": 1', b'"\xff"', b""))
    assert (shelf.ids, summary.counts) == (["p0"], Counts(4, 1, dead_lettered=3))
    assert sorted((letter.event_id, letter.step, letter.code, letter.original) for letter in found.letters) == [
        ("p1", "decode", "decode.invalid_json", b'{"n": 1'),
        ("p2", "decode", "decode.invalid_utf8", b'"\xff"'),
        ("p3", "decode", "decode.empty", b""),
    ]


async def test_what_a_source_rejects_is_a_dead_letter_among_its_neighbours(tmp_path: Path) -> None:
    long = Oversized("source.oversized", "a line of 9 GiB", length=9 << 30, digest="d" * 32)
    summary, shelf, found = await through(tmp_path, Feed.of({"n": 0}, long, {"n": 2}))
    (letter,) = found.letters
    assert (shelf.ids, summary.counts) == (["p0", "p2"], Counts(3, 2, dead_lettered=1))
    assert (letter.step, letter.code, letter.reread) == ("source", "source.oversized", True)
    assert (letter.original, letter.original_length, letter.original_digest) == (b"what came", 9 << 30, "d" * 32)
