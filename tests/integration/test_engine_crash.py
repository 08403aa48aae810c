"""Whatever a run dies of and wherever: when it has run again, tables, totals and dead letters are those of an undisturbed run.

A run ends here at a fault point with nothing done beyond it, which leaves what a killed process leaves; tests/fault kills real
ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Kept, Shelf, Table, bad, crash, crash_at, dedup, kept, make_pipeline, numbers, run_once, sink, step
from engine_parts import parts as parts

from penstock.config.model import Limits, Pipeline
from penstock.errors import BatchError, Fatal, Permanent
from penstock.event import Event
from penstock.ledger import Counts

RECORDS = [
    {"n": 1}, {"n": 2}, {"n": 1}, {"poison": 1}, {"drop": 1}, {"n": 1}, {"poison": 1}, {"split": 2}, {"n": 4, "only": "b"},
    {"refuse": 1}, {"n": 5}, {"refuse": 1}, {"n": 2}, {"n": 7}, {"poison": 2},
]  # fmt: skip
REFUSED = {"p9", "p11"}
POINTS = (
    "after_read", "after_process", "before_sink_write", "inside_sink_write", "after_sink_write", "before_dead_letters",
    "mid_dead_letters", "before_commit", "inside_commit", "between_ledgers", "before_note", "after_note",
    "before_ack", "after_ack",
)  # fmt: skip
SINKS = {
    "a tape": ["tape"],
    "a tape that refuses": ["tape-refuses"],
    "a table": ["table-refuses"],
    "a table and a tape": ["table", "tape-refuses"],
    "two tables, the first refuses": ["table_a-refuses", "table_b"],
    "two tables, the last refuses": ["table_a", "table_b-refuses"],
    "two tables, one for some": ["table_a-some", "table_b-refuses", "tape"],
}


def grade(event: Event) -> Any:
    data = event.data
    if "poison" in data:
        return Permanent("step.poison", "poison")
    if "drop" in data:
        return None
    return [event.replace(decoded={"part": part}) for part in range(2)] if "split" in data else event


def refuse(events: Sequence[Event]) -> None:
    failed = {n: bad(event.id) for n, event in enumerate(events) if event.id in REFUSED}
    if failed:
        raise BatchError(failed)


@dataclass
class World:
    pipeline: Pipeline
    outs: dict[str, Table | Shelf]

    async def seen(self) -> dict[str, Any]:
        """Everything that must not depend on how often a run died."""
        found: Kept = await kept(self.pipeline)
        return {
            "rows": {name: out.rows if isinstance(out, Table) else out.taken for name, out in self.outs.items()},
            "totals": found.totals,
            "letters": sorted(
                (letter.event_id, letter.step, letter.status, letter.repeats, sorted(letter.owed), letter.delivered)
                for letter in found.letters
            ),
        }


def world(directory: Path, names: Sequence[str], keyed: bool) -> World:
    directory.mkdir()
    outs: dict[str, Table | Shelf] = {}
    entries = []
    for name in names:
        kind = "table" if name.startswith("table") else "tape"
        refuses = name.endswith("refuses")
        when = '.only != "b"' if name.endswith("some") else None
        outs[name] = (
            Table(directory / f"{name}.db", refused=set(REFUSED) if refuses else set())
            if kind == "table"
            else Shelf(plan=refuse if refuses else lambda events: None)
        )
        entries.append(sink(name, outs[name], kind, when))
    pipeline = make_pipeline(
        directory, Feed.of(*RECORDS), *entries, steps=[step("grade", grade)], dedup=dedup() if keyed else None,
        limits=Limits(in_flight_events=2),
    )  # fmt: skip
    return World(pipeline, outs)


async def after(directory: Path, names: Sequence[str], keyed: bool, schedule: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """What there is after runs that died as scheduled (or did not come so far) and one that did not."""
    place = world(directory, names, keyed)
    for point, nth in schedule:
        try:
            await run_once(place.pipeline, faults=crash_at(point, nth))
        except Fatal as error:
            if error.code != "test.crash":
                raise
    await run_once(place.pipeline)
    return await place.seen()


@pytest.mark.parametrize("names", SINKS.values(), ids=SINKS.keys())
async def test_a_run_that_died_once_changes_nothing(tmp_path: Path, names: Sequence[str]) -> None:
    expected = {keyed: await after(tmp_path / f"undisturbed {keyed}", names, keyed, []) for keyed in (True, False)}
    rng = random.Random(str(names))
    for point in rng.sample(POINTS, 8):
        nth, keyed = rng.choice([1, 2, 5, 6, 9, 10]), rng.random() < 0.5
        assert await after(tmp_path / f"{point} {nth}", names, keyed, [(point, nth)]) == expected[keyed], (point, nth, keyed)


@pytest.mark.parametrize("names", SINKS.values(), ids=SINKS.keys())
async def test_runs_that_died_again_and_again_change_nothing(tmp_path: Path, names: Sequence[str]) -> None:
    expected = {keyed: await after(tmp_path / f"undisturbed {keyed}", names, keyed, []) for keyed in (True, False)}
    rng = random.Random(f"again {names}")
    for number in range(2):
        keyed = rng.random() < 0.5
        schedule = [(rng.choice(POINTS), rng.randint(1, 4)) for _ in range(rng.randint(2, 4))]
        assert await after(tmp_path / str(number), names, keyed, schedule) == expected[keyed], (schedule, keyed)


@pytest.mark.parametrize("order", ["taker first", "refuser first"])
async def test_a_ledger_ahead_learns_what_another_refused_however_often_a_run_dies_before(tmp_path: Path, order: str) -> None:
    """It counted an event as delivered, which the other refuses only after two claims, in a group of other events."""
    feed = Feed.of(*numbers(6), batch=2)
    taker, refuser = Table(tmp_path / "a.db"), Table(tmp_path / "b.db", refused={"p1"})
    sinks = [sink("taker", taker, when=".n < 2"), sink("refuser", refuser)]
    pipeline = make_pipeline(tmp_path, feed, *(sinks if order == "taker first" else reversed(sinks)))
    await crash(pipeline, "between_ledgers", 1)
    await crash(pipeline, "after_read", 1)
    feed.batch = 4
    await crash(pipeline, "before_note", 1)
    feed.batch = 2
    await run_once(pipeline)
    found = await kept(pipeline)
    assert found.totals == Counts(received=6, delivered=5, dead_lettered=1)
    assert [(letter.event_id, letter.owed) for letter in found.letters] == [("p1", ["refuser"])]
    assert (taker.ids, refuser.ids) == (["p0", "p1"], ["p0", "p2", "p3", "p4", "p5"])


async def test_a_ledger_ahead_is_left_alone_by_groups_that_do_not_get_to_where_it_stands(tmp_path: Path) -> None:
    """Rows, positions and counts of a ledger are of one moment: so they are in a backup of it."""
    feed = Feed.of(*numbers(4), batch=3)
    ahead, behind = Table(tmp_path / "a.db"), Table(tmp_path / "b.db")
    pipeline = make_pipeline(tmp_path, feed, sink("ahead", ahead, when=".n < 2"), sink("behind", behind))
    await crash(pipeline, "between_ledgers", 1)
    feed.batch = 1
    await run_once(pipeline, max_events=2)
    assert [commit.counts.received for commit in ahead.commits] == [3]
    await run_once(pipeline)
    assert [(commit.counts.received, commit.positions["p"].order[-1]) for commit in ahead.commits] == [(3, 3), (3, 3)]
    assert ((await kept(pipeline)).totals, ahead.ids, behind.ids) == (Counts(4, 4), ["p0", "p1"], ["p0", "p1", "p2", "p3"])


async def test_a_repetition_is_counted_though_the_letter_of_its_first_is_written_twice(tmp_path: Path) -> None:
    """The letter stands for the table alone, then the tape's part of it dies a second time, with the repetition behind it."""
    records = [{"n": 0}, {"n": 1}, {"n": 2}, {"poison": 1}, {"n": 4}, {"n": 5}, {"poison": 1}, {"n": 7}]
    feed, table, tape = Feed.of(*records, batch=3), Table(tmp_path / "t.db"), Shelf()
    pipeline = make_pipeline(
        tmp_path, feed, sink("table", table), sink("tape", tape, kind="tape"), steps=[step("grade", grade)], dedup=dedup(),
        limits=Limits(in_flight_events=4),
    )  # fmt: skip
    await crash(pipeline, "before_note", 2)
    feed.batch = 4
    await crash(pipeline, "before_note", 1)
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert (letter.event_id, letter.repeats, sorted(letter.owed)) == ("p3", 1, ["state", "table"])
    assert (await kept(pipeline)).totals == Counts(received=8, delivered=6, deduplicated=1, dead_lettered=1)
