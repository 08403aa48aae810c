"""`dead_letter.lane: park`: what comes behind a failure in its lane waits, in order, until its head is settled (rule 12)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_parts import (
    Feed,
    Shelf,
    Table,
    crash_at,
    dedup,
    kept,
    make_pipeline,
    open_store,
    refusing,
    run_once,
    sink,
    step,
)
from engine_parts import parts as parts

from dlq.replay import replay
from penstock.clock import SystemClock
from penstock.config.model import DeadLetters, EventFields, Pipeline, SinkEntry
from penstock.engine import parking
from penstock.errors import Fatal, Permanent, UsageError
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Counts
from penstock.state.letter_desk import Act
from penstock.state.records import DeadLetter, LetterQuery
from penstock.testing.clock import FakeClock

PARK = DeadLetters(lane="park")
KEYED = EventFields(partition_key=".k")
ANN = Act("ann@here")


def records(*keys: str | None) -> list[dict[str, Any]]:
    """One for each key; None: without one."""
    return [{"n": n, "k": key} for n, key in enumerate(keys)]


class Check:
    """A step that refuses some events, until it is mended."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)

    def __call__(self, event: Event) -> Any:
        return Permanent("step.bad", f"{event.id} is bad") if event.id in self.refused else event


def pipeline_of(directory: Path, feed: Feed, *sinks: SinkEntry, check: Check | None = None, **changes: Any) -> Pipeline:
    steps = [step("check", check)] if check is not None else []
    return make_pipeline(directory, feed, *sinks, steps=steps, **{"dead_letter": PARK, "event": KEYED, **changes})


async def letters_of(pipeline: Pipeline) -> dict[str, str]:
    return {letter.event_id: letter.status for letter in (await kept(pipeline)).letters}


async def letter(pipeline: Pipeline, event: str) -> DeadLetter:
    return next(letter for letter in (await kept(pipeline)).letters if letter.event_id == event)


async def replay_all(pipeline: Pipeline, **query: Any) -> None:
    asked = LetterQuery(status=("open", "parked"), **query)
    await replay(pipeline, asked, clock=SystemClock(), faults=Faults())


async def test_what_comes_behind_a_failure_in_its_lane_is_parked_in_order_and_other_lanes_go_on(tmp_path: Path) -> None:
    feed = Feed.of(*records("a", "b", "a", None, "b", "a"), batch=2)
    table, check = Table(tmp_path / "t.db"), Check("p0")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check)
    summary = await run_once(pipeline)
    assert table.ids == ["p1", "p3", "p4"]
    assert summary.counts == Counts(received=6, delivered=3, dead_lettered=3)
    assert await letters_of(pipeline) == {"p0": "open", "p2": "parked", "p5": "parked"}
    parked = await letter(pipeline, "p5")
    assert (parked.code, parked.step, parked.attempts, parked.lane, parked.owed) == ("lane.parked", "lane", 0, "a", ["table"])
    async with open_store(pipeline) as store:
        number, (lane,) = await store.lanes.parked(10)
    assert (number, lane.partition, lane.lane, lane.behind) == (1, "p", "a", 2)
    assert lane.head == (await letter(pipeline, "p0")).id


async def test_a_lane_stays_held_over_restarts_and_is_free_when_its_head_and_all_behind_it_are_delivered(tmp_path: Path) -> None:
    feed = Feed.of(*records("a", "a", "b"), batch=2)
    table, check = Table(tmp_path / "t.db"), Check("p0")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check)
    await run_once(pipeline)
    feed.add({"n": 3, "k": "a"}, {"n": 4, "k": "b"})
    await run_once(pipeline)
    assert table.ids == ["p2", "p4"]
    assert await letters_of(pipeline) == {"p0": "open", "p1": "parked", "p3": "parked"}

    check.refused.clear()
    await replay_all(pipeline)
    assert table.ids == ["p2", "p4", "p0", "p1", "p3"]
    assert set((await letters_of(pipeline)).values()) == {"resolved"}
    feed.add({"n": 5, "k": "a"})
    await run_once(pipeline)
    assert table.ids[-1] == "p5"
    assert (await kept(pipeline)).totals == Counts(received=6, delivered=3, dead_lettered=3)


async def test_replaying_the_head_alone_releases_what_is_behind_it_in_order(tmp_path: Path) -> None:
    feed = Feed.of(*records("a", "a", "b", "a"), batch=4)
    table, check = Table(tmp_path / "t.db"), Check("p0")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check)
    await run_once(pipeline)
    check.refused.clear()
    await replay_all(pipeline, ids=[(await letter(pipeline, "p0")).id])
    assert table.ids == ["p2", "p0", "p1", "p3"]
    async with open_store(pipeline) as store:
        assert [(job.kind, job.state) for job in await store.jobs.latest()] == [("release", "done"), ("replay", "done")]


async def test_a_parked_event_is_not_replayed_before_its_head(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*records("a", "a")), Table(tmp_path / "t.db"), Check("p0")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check)
    await run_once(pipeline)
    asked = LetterQuery(ids=[(await letter(pipeline, "p1")).id], status=("open", "parked"))
    summary = await replay(pipeline, asked, clock=SystemClock(), faults=Faults())
    assert (summary.selected, summary.behind, summary.delivered) == (1, 1, 0)
    assert table.ids == []
    assert await letters_of(pipeline) == {"p0": "open", "p1": "parked"}


async def test_discarding_the_head_frees_the_next_and_the_run_delivers_what_is_left(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*records("a", "a", "a"), batch=3), Table(tmp_path / "t.db"), Check("p0", "p1")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check)
    await run_once(pipeline)
    async with open_store(pipeline) as store:
        await store.desk.discard([(await letter(pipeline, "p0")).id], ["open"], ANN)
    await run_once(pipeline)
    assert table.ids == []
    assert await letters_of(pipeline) == {"p0": "discarded", "p1": "open", "p2": "parked"}
    async with open_store(pipeline) as store:
        await store.desk.discard([(await letter(pipeline, "p1")).id], ["open"], ANN)
    feed.add({"n": 3, "k": "a"})
    await run_once(pipeline)
    assert table.ids == ["p2", "p3"]
    assert (await letters_of(pipeline))["p2"] == "resolved"


async def test_an_event_that_fails_at_its_release_holds_the_lane_again(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*records("a", "a", "a", "a"), batch=4), Table(tmp_path / "t.db"), Check("p0", "p2")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check)
    await run_once(pipeline)
    check.refused = {"p2"}
    await replay_all(pipeline)
    assert table.ids == ["p0", "p1"]
    assert await letters_of(pipeline) == {"p0": "resolved", "p1": "resolved", "p2": "open", "p3": "parked"}
    failed = await letter(pipeline, "p2")
    assert (failed.code, failed.lane) == ("step.bad", "a")
    check.refused.clear()
    await replay_all(pipeline)
    assert table.ids == ["p0", "p1", "p2", "p3"]


async def test_a_retry_of_the_head_releases_its_lane(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*records("a", "a", "b"), batch=3), Table(tmp_path / "t.db"), Check("p0")
    letters, clock = DeadLetters(lane="park", retry=(5.0,)), FakeClock()
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check, dead_letter=letters)
    await run_once(pipeline, clock=clock)
    assert ((await letter(pipeline, "p0")).next_at, (await letter(pipeline, "p1")).next_at) == (clock.now() + 5.0, None)
    check.refused.clear()
    clock.jump(5)
    await run_once(pipeline, clock=clock)
    assert table.ids == ["p2", "p0", "p1"]


async def test_lanes_of_two_partitions_with_the_same_key_are_two(tmp_path: Path) -> None:
    feed = Feed({"p": Feed.of(*records("a", "a")).records["p"], "q": Feed.of(*records("a", "a")).records["p"]})
    table, check = Table(tmp_path / "t.db"), Check("p0")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check)
    await run_once(pipeline)
    assert table.ids == ["q0", "q1"]


@pytest.mark.parametrize("kind", ["shelf", "tape"])
async def test_nothing_of_a_lane_is_written_to_a_sink_behind_what_that_sink_refused(tmp_path: Path, kind: str) -> None:
    feed = Feed.of(*records("a", "b", "a", "c", "b", "a"), batch=6)
    shelf = Shelf(plan=refusing("p0"))
    pipeline = pipeline_of(tmp_path, feed, sink("out", shelf, kind))
    summary = await run_once(pipeline)
    assert shelf.ids == ["p1", "p3", "p4"]
    assert summary.counts == Counts(received=6, delivered=3, dead_lettered=3)
    shelf.plan = refusing()
    await replay_all(pipeline)
    assert shelf.ids == ["p1", "p3", "p4", "p0", "p2", "p5"]


async def test_what_one_ledger_refused_is_parked_there_alone_and_the_others_take_it_once_and_in_order(tmp_path: Path) -> None:
    feed = Feed.of(*records("a", "a", "b"), batch=3)
    first, second, shelf = Table(tmp_path / "1.db"), Table(tmp_path / "2.db", refused={"p0"}), Shelf()
    pipeline = pipeline_of(tmp_path, feed, sink("first", first), sink("second", second), sink("shelf", shelf))
    await run_once(pipeline)
    assert (first.ids, second.ids, shelf.ids) == (["p0", "p1", "p2"], ["p2"], ["p0", "p1", "p2"])
    assert await letters_of(pipeline) == {"p0": "open", "p1": "parked"}
    assert (await letter(pipeline, "p1")).owed == ["second"]
    feed.add({"n": 3, "k": "a"})
    await run_once(pipeline)
    assert (await letter(pipeline, "p3")).owed == ["first", "second", "state"]
    second.refused.clear()
    await replay_all(pipeline)
    assert (first.ids, second.ids) == (["p0", "p1", "p2", "p3"], ["p2", "p0", "p1", "p3"])
    assert shelf.ids == ["p0", "p1", "p2", "p3"]


async def test_a_step_that_failed_behind_what_a_sink_refused_is_parked_too(tmp_path: Path) -> None:
    feed = Feed.of(*records("a", "a", "a"), batch=3)
    table, check = Table(tmp_path / "t.db", refused={"p0"}), Check("p1")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check)
    await run_once(pipeline)
    assert await letters_of(pipeline) == {"p0": "open", "p1": "parked", "p2": "parked"}


@pytest.mark.parametrize("where", ["step", "table", "shelf"])
async def test_a_failure_without_a_key_ends_the_run_as_stop_does(tmp_path: Path, where: str) -> None:
    feed = Feed.of(*records("a", None, "b"), batch=3)
    table = Table(tmp_path / "t.db", refused={"p1"} if where == "table" else set())
    shelf = Shelf(plan=refusing(*(["p1"] if where == "shelf" else [])))
    check = Check(*(["p1"] if where == "step" else []))
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), sink("shelf", shelf), check=check)
    with pytest.raises(Fatal):
        await run_once(pipeline)
    assert table.ids == ["p0"]
    assert shelf.ids[:1] == ["p0"]
    assert where == "table" or "p2" not in shelf.ids  # what cannot be taken back was written before the other sink refused
    assert (await kept(pipeline)).totals == Counts(received=1, delivered=1)


async def test_without_positions_arrivals_keep_their_order_though_the_head_fails_again(tmp_path: Path) -> None:
    feed = Feed.of(*records("a", "a", "b", "a"), batch=2, positions=False)
    table, check = Table(tmp_path / "t.db"), Check("p0")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check, dedup=dedup())
    await run_once(pipeline)
    await replay_all(pipeline, ids=[(await letter(pipeline, "p0")).id])
    assert await letters_of(pipeline) == {"p0": "open", "p1": "parked", "p3": "parked"}
    check.refused.clear()
    await replay_all(pipeline)
    assert table.ids == ["p2", "p0", "p1", "p3"]


async def test_a_repetition_of_a_parked_event_is_one(tmp_path: Path) -> None:
    feed = Feed.of({"n": 0, "k": "a"}, {"n": 1, "k": "a"}, {"n": 1, "k": "a"}, batch=1)
    table, check = Table(tmp_path / "t.db"), Check("p0")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check, dedup=dedup())
    summary = await run_once(pipeline)
    assert summary.counts == Counts(received=3, deduplicated=1, dead_lettered=2)
    check.refused.clear()
    await replay_all(pipeline)
    assert table.ids == ["p0", "p1"]
    assert (await letter(pipeline, "p1")).repeats == 1


@pytest.mark.parametrize("point", ["before_commit", "between_ledgers", "before_note", "after_note"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_run_that_dies_parks_the_same_and_counts_the_same(tmp_path: Path, point: str, nth: int) -> None:
    feed = Feed.of(*records("a", "a", "b", "a", "b", "a"), batch=2)
    first, second, check = Table(tmp_path / "1.db"), Table(tmp_path / "2.db", refused={"p4"}), Check("p1")
    pipeline = pipeline_of(tmp_path, feed, sink("first", first), sink("second", second), check=check)
    with pytest.raises(Fatal):
        await run_once(pipeline, faults=crash_at(point, nth))
    await run_once(pipeline)
    assert (first.ids, second.ids) == (["p0", "p2", "p4"], ["p0", "p2"])
    assert await letters_of(pipeline) == {"p1": "open", "p3": "parked", "p4": "open", "p5": "parked"}
    assert (await kept(pipeline)).totals == Counts(received=6, delivered=2, dead_lettered=4)


@pytest.mark.parametrize("point", ["before_job_commit", "between_ledgers", "before_job_note", "after_job_note", "after_job_end"])
async def test_a_release_that_dies_is_gone_on_with_once_and_in_order(tmp_path: Path, point: str) -> None:
    feed = Feed.of(*records("a", "a", "b", "a"), batch=4)
    first, second, check = Table(tmp_path / "1.db"), Table(tmp_path / "2.db"), Check("p0")
    pipeline = pipeline_of(tmp_path, feed, sink("first", first), sink("second", second), check=check)
    await run_once(pipeline)
    check.refused.clear()
    async with open_store(pipeline) as store:
        await store.desk.discard([(await letter(pipeline, "p0")).id], ["open"], ANN)
    feed.add({"n": 4, "k": "a"})
    with pytest.raises(Fatal):
        await run_once(pipeline, faults=crash_at(point, 3 if point == "between_ledgers" else 1))
    await run_once(pipeline)
    assert first.ids == second.ids == ["p2", "p1", "p3", "p4"]


async def test_a_changed_key_is_refused_while_lanes_are_parked(tmp_path: Path) -> None:
    def resolved(key: str) -> str:
        return f'{{"source": {{"event": {{"partition_key": "{key}"}}}}}}'

    feed, table, check = Feed.of(*records("a", "a")), Table(tmp_path / "t.db"), Check("p0")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check, resolved=resolved(".k"))
    await run_once(pipeline)
    changed = pipeline_of(
        tmp_path, feed, sink("table", table), event=EventFields(partition_key=".n"), resolved=resolved(".n"), version="v2"
    )
    with pytest.raises(UsageError) as caught:
        await run_once(changed)
    assert caught.value.code == "lane.key_changed"
    await replay_all(pipeline_of(tmp_path, feed, sink("table", table), resolved=resolved(".k")))
    await run_once(changed)
    assert table.ids == ["p0", "p1"]


async def test_under_another_policy_what_was_parked_is_open_and_somebody_hears_of_it(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*records("a", "a")), Table(tmp_path / "t.db"), Check("p0")
    await run_once(pipeline_of(tmp_path, feed, sink("table", table), check=check))
    feed.add({"n": 2, "k": "a"})
    said: list[str] = []
    skipping = pipeline_of(tmp_path, feed, sink("table", table), check=check, dead_letter=DeadLetters())
    await run_once(skipping, log=lambda incident: said.append(incident.code))
    assert "lane.unparked" in said
    assert table.ids == ["p2"]
    assert await letters_of(skipping) == {"p0": "open", "p1": "open"}


async def test_one_lane_too_many_ends_the_run_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking.Parking, "__init__", _few_lanes(parking.Parking.__init__))
    feed, table, check = Feed.of(*records("a", "b", "c"), batch=1), Table(tmp_path / "t.db"), Check("p0", "p1", "p2")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check)
    with pytest.raises(Fatal) as caught:
        await run_once(pipeline)
    assert caught.value.code == "lane.too_many"
    assert await letters_of(pipeline) == {"p0": "open", "p1": "open"}
    check.refused = {"p2"}
    await replay_all(pipeline)
    await run_once(pipeline)
    assert await letters_of(pipeline) == {"p0": "resolved", "p1": "resolved", "p2": "open"}


def _few_lanes(make: Callable[..., None]) -> Callable[..., None]:
    def init(self: parking.Parking, *arguments: Any) -> None:
        make(self, *arguments)
        self.most = 2

    return init


async def test_a_lane_of_letters_with_the_same_key_is_released_in_order(tmp_path: Path) -> None:
    feed = Feed.of(*({"n": n, "k": "a", "id": i} for n, i in enumerate([0, 1, 1, 2])), batch=1)
    table, check = Table(tmp_path / "t.db"), Check("p0")
    pipeline = pipeline_of(tmp_path, feed, sink("table", table), check=check, dedup=dedup(".data.id"))
    await run_once(pipeline)
    assert await letters_of(pipeline) == {"p0": "open", "p1": "parked", "p2": "parked", "p3": "parked"}
    check.refused = {"p1"}
    await replay_all(pipeline)
    assert table.ids == ["p0"]
    check.refused.clear()
    await replay_all(pipeline)
    assert table.ids == ["p0", "p1", "p3"]
    assert set((await letters_of(pipeline)).values()) == {"resolved"}
