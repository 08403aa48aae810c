"""A database put back from a backup, the state store's or a sink's: nothing is lost, doubled or passed over silently (rule 3)."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Shelf, Table, crash, dedup, kept, make_pipeline, open_store, run_once, sink, step
from engine_parts import parts as parts

from dlq.replay import replay
from penstock.clock import SystemClock
from penstock.config.model import Limits, Pipeline
from penstock.errors import EnvironmentFault, Permanent
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Counts
from penstock.observe.log import Incident
from penstock.state.records import LetterQuery

SMALL = Limits(in_flight_events=2)


def numbers(count: int, start: int = 0) -> list[dict[str, int]]:
    return [{"n": n} for n in range(start, start + count)]


def put_back(backup: Path, path: Path) -> None:
    for left in path.parent.glob(f"{path.name}*"):
        left.unlink()
    shutil.copy(backup, path)


async def refused(pipeline: Pipeline, code: str) -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as caught:
        await run_once(pipeline)
    assert caught.value.code == code
    return caught.value


# ---- the state store


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("failed_starts_before", [0, 2])
async def test_a_state_store_from_a_backup_is_refused_however_often_it_is_started(
    tmp_path: Path, groups: int, failed_starts_before: int
) -> None:
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), sink("tape", Shelf(), kind="tape"), limits=SMALL)
    await run_once(pipeline)
    store, backup = pipeline.state / "orders.db", tmp_path / "backup.db"
    for _ in range(failed_starts_before):
        await crash(pipeline, "mid_claim")  # its epoch stands in the table's ledger, and was never noted
    shutil.copy(store, backup)
    for group in range(groups):
        feed.add({"n": 2 + group})
        await run_once(pipeline)
    put_back(backup, store)
    for _ in range(5):
        error = await refused(pipeline, "state.restored")
        assert "pipe checkpoint adopt orders" in str(error.help)
    assert table.ids == [f"p{n}" for n in range(2 + groups)]
    await run_once(pipeline, adopt=True)
    assert table.ids == [f"p{n}" for n in range(2 + groups)]


async def test_runs_that_die_while_they_claim_are_not_taken_for_a_restored_store(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), sink("tape", Shelf(), kind="tape"), limits=SMALL)
    for _ in range(3):
        await crash(pipeline, "mid_claim")
    await run_once(pipeline)
    feed.add(*numbers(1, 2))
    for _ in range(3):
        await crash(pipeline, "mid_claim")
    await crash(pipeline, "before_note")
    for _ in range(2):
        await crash(pipeline, "mid_claim")
    await run_once(pipeline)
    assert (table.ids, (await kept(pipeline)).totals) == (["p0", "p1", "p2"], Counts(3, 3))


# ---- a sink


class Check:
    """A step that refuses what a test has not mended yet."""

    def __init__(self) -> None:
        self.refused: set[str] = set()

    def __call__(self, event: Event) -> Any:
        return Permanent("step.bad", f"{event.id} is bad") if event.id in self.refused else event


@dataclass
class World:
    """A pipeline with some sinks, and what a test does to it.

    :ivar backups: of the first table, in the order in which they were made.
    """

    pipeline: Pipeline
    feed: Feed
    check: Check
    tables: dict[str, Table]
    plain: dict[str, Shelf]
    said: list[Incident] = field(default_factory=list)
    backups: list[Path] = field(default_factory=list)

    @property
    def first(self) -> Path:
        return next(iter(self.tables.values())).path

    async def run(self, *records: Any, refuse: Sequence[str] = ()) -> None:
        self.feed.add(*records)
        self.check.refused = set(refuse)
        await run_once(self.pipeline, log=self.said.append)

    async def replay(self, *ids: str) -> None:
        self.check.refused = set()
        found = [letter.id for letter in (await kept(self.pipeline)).letters if letter.event_id in ids]
        await replay(
            self.pipeline, LetterQuery(ids=found), clock=SystemClock(), faults=Faults(), progress=lambda done, total: None
        )

    def back_up(self) -> None:
        self.backups.append(self.first.with_name(f"backup {len(self.backups)}.db"))
        shutil.copy(self.first, self.backups[-1])

    async def seen(self) -> dict[str, Any]:
        found = await kept(self.pipeline)
        return {
            "rows": {name: sorted(table.rows) for name, table in self.tables.items()}
            | {name: shelf.taken for name, shelf in self.plain.items()},
            "totals": found.totals,
            "letters": {letter.event_id: (letter.status, sorted(letter.owed)) for letter in found.letters},
        }


SINKS = {
    "alone": ["a"],
    "beside a tape": ["a", "tape"],
    "beside another table": ["a", "b"],
    "beside one for some": ["a", "b-even", "tape"],
    "for some": ["a-even", "b"],
}


def world(directory: Path, names: Sequence[str], keyed: bool) -> World:
    directory.mkdir(exist_ok=True)
    tables, plain, entries = {}, {}, []
    for name in names:
        when = ".n % 2 == 0" if name.endswith("even") else None
        if name == "tape":
            plain[name] = Shelf()
            entries.append(sink(name, plain[name], "tape"))
        else:
            tables[name] = Table(directory / f"{name}.db")
            entries.append(sink(name, tables[name], when=when))
    feed, check = Feed({}), Check()
    pipeline = make_pipeline(
        directory, feed, *entries, steps=[step("check", check)], dedup=dedup() if keyed else None, limits=SMALL
    )
    return World(pipeline, feed, check, tables, plain)


async def story(place: World, backup_after: int, schedule: Sequence[tuple[str, int]] = ()) -> None:
    """Some runs; the first table's backup is made after one of them, and put back before the last."""
    chapters: list[list[Any]] = [numbers(6), numbers(6, 6), [*numbers(3, 12), {"n": 1}, {"n": 13}], numbers(4, 15)]
    for number, records in enumerate(chapters):
        await place.run(*records, refuse=["p7", "p14"])
        if number == backup_after:
            place.back_up()
    if place.backups:
        put_back(place.backups[0], place.first)
    for point, nth in schedule:
        try:
            await crash(place.pipeline, point, nth, log=place.said.append)
        except pytest.fail.Exception:  # it did not come so far
            continue
    await place.run({"n": 30}, refuse=["p7", "p14"])


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "plain"])
@pytest.mark.parametrize("names", SINKS.values(), ids=SINKS.keys())
@pytest.mark.parametrize("backup_after", [0, 1, 2])
async def test_a_sink_from_a_backup_gets_what_it_lacks_and_nobody_else_anything(
    tmp_path: Path, names: Sequence[str], keyed: bool, backup_after: int
) -> None:
    calm, restored = world(tmp_path / "calm", names, keyed), world(tmp_path / "restored", names, keyed)
    await story(calm, -1)
    await story(restored, backup_after)
    assert await restored.seen() == await calm.seen()
    assert [(one.level, one.code) for one in restored.said] == [("warning", "ledger.restored")]
    assert f"sink {names[0]} was restored from a backup" in restored.said[0].message
    await restored.run({"n": 31})
    assert len(restored.said) == 1


POINTS = ("mid_claim", "before_commit", "between_ledgers", "before_note", "after_note", "before_ack", "inside_commit")


@pytest.mark.parametrize("names", SINKS.values(), ids=SINKS.keys())
async def test_runs_that_die_while_they_read_again_change_nothing(tmp_path: Path, names: Sequence[str]) -> None:
    rng = random.Random(f"restored {names}")
    for number in range(3):
        keyed, backup_after = rng.random() < 0.5, rng.randrange(3)
        schedule = [(rng.choice(POINTS), rng.randint(1, 3)) for _ in range(3)]
        calm, disturbed = (world(tmp_path / f"{kind} {number}", names, keyed) for kind in ("calm", "disturbed"))
        await story(calm, -1)
        await story(disturbed, backup_after, schedule)
        assert await disturbed.seen() == await calm.seen(), (schedule, keyed, backup_after)


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "plain"])
@pytest.mark.parametrize("names", SINKS.values(), ids=SINKS.keys())
async def test_what_a_replay_delivered_since_the_backup_is_open_again(tmp_path: Path, names: Sequence[str], keyed: bool) -> None:
    place = world(tmp_path, names, keyed)
    await place.run(*numbers(4), refuse=["p0", "p1"])
    place.back_up()
    await place.run(*numbers(4, 4), refuse=["p6"])
    await place.replay("p0", "p6")
    calm = await place.seen()
    put_back(place.backups[0], place.first)
    with pytest.raises(EnvironmentFault, match="restored from a backup"):
        await place.replay("p1")
    await place.run()

    now = await place.seen()
    assert now["letters"]["p0"] == ("open", [names[0]])  # its event lies before the backup: it is not read again
    assert now["letters"]["p6"][0] == "resolved"
    assert "; 1 dead letters that were replayed since are open again" in place.said[0].message
    await place.replay("p0")
    after = await place.seen()
    assert after["rows"] == calm["rows"]
    statuses = [{identity: status for identity, (status, _) in one["letters"].items()} for one in (after, calm)]
    assert statuses[0] == statuses[1]


async def test_an_open_dead_letter_behind_the_backup_is_made_again_or_superseded(tmp_path: Path) -> None:
    place = world(tmp_path, ["a", "b"], keyed=False)
    await place.run(*numbers(2))
    place.back_up()
    await place.run(*numbers(4, 2), refuse=["p3", "p4"])
    put_back(place.backups[0], place.first)
    await crash(place.pipeline, "after_read", log=place.said.append)
    assert {one.event_id: (one.status, one.owed) for one in (await kept(place.pipeline)).letters} == {
        "p3": ("open", ["b"]), "p4": ("open", ["b"]),
    }  # fmt: skip
    await place.run(refuse=["p4"])  # what failed for p3 is mended: the table that reads again takes it
    seen = await place.seen()
    assert [row[0] for row in seen["rows"]["a"]] == ["p0", "p1", "p2", "p3", "p5"]
    assert [row[0] for row in seen["rows"]["b"]] == ["p0", "p1", "p2", "p5"]
    assert seen["letters"] == {"p3": ("open", ["b"]), "p4": ("open", ["a", "b"])}
    await place.replay("p3", "p4")
    assert {name: len(table.ids) for name, table in place.tables.items()} == {"a": 6, "b": 6}


async def test_without_positions_nothing_can_be_read_again_so_the_run_stops_until_it_is_adopted(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(2), positions=False), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), limits=SMALL)
    await run_once(pipeline)
    shutil.copy(table.path, tmp_path / "backup.db")
    feed.add(*numbers(2, 2))
    await run_once(pipeline)
    put_back(tmp_path / "backup.db", table.path)
    for _ in range(3):
        error = await refused(pipeline, "ledger.restored")
        assert ("no positions" in str(error.why), "pipe checkpoint adopt orders" in str(error.help)) == (True, True)
    feed.add(*numbers(1, 4))
    await run_once(pipeline, adopt=True)
    await run_once(pipeline)
    assert table.ids == ["p0", "p1", "p4"]


async def test_a_sink_that_was_added_later_is_not_given_what_came_before_it(tmp_path: Path) -> None:
    feed, a, late = Feed.of(*numbers(3)), Table(tmp_path / "a.db"), Table(tmp_path / "late.db")
    await run_once(make_pipeline(tmp_path, feed, sink("a", a)))
    pipeline = make_pipeline(tmp_path, feed, sink("a", a), sink("late", late), limits=SMALL)
    await run_once(pipeline)
    shutil.copy(late.path, tmp_path / "backup.db")  # before anything was committed to it
    feed.add(*numbers(3, 3))
    await run_once(pipeline)
    put_back(tmp_path / "backup.db", late.path)
    await run_once(pipeline)
    assert (late.ids, a.ids) == (["p3", "p4", "p5"], [f"p{n}" for n in range(6)])
    assert (await kept(pipeline)).totals == Counts(6, 6)


async def test_an_expired_letter_takes_its_replays_with_it(tmp_path: Path) -> None:
    place = world(tmp_path, ["a"], keyed=False)
    await place.run(*numbers(2), refuse=["p0"])
    await place.replay("p0")
    async with open_store(place.pipeline) as store:
        assert await store.expire_letters(2e9) == 1
        assert await store._database.run(lambda db: db.execute("SELECT count(*) FROM replays").fetchone()) == (0,)
