"""How a run begins: it holds the pipeline, claims every ledger, and goes on where these stand (rules 1 to 3), on real ledgers."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from engine_parts import Feed, ListSource, Shelf, Table, at, crash, dedup, kept, make_pipeline, run_once, sink
from engine_parts import parts as parts

from penstock.config.model import Limits, Pipeline
from penstock.engine.run import Run, RunOptions
from penstock.errors import EnvironmentFault, Fenced, Transient
from penstock.ledger import Counts
from penstock.observe.status import RunSummary
from penstock.testing.clock import FakeClock


def numbers(count: int, start: int = 0) -> list[dict[str, int]]:
    return [{"n": n} for n in range(start, start + count)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def start(pipeline: Pipeline, delivered: int, **options: bool) -> tuple[Run, asyncio.Task[RunSummary]]:
    """A live run that has delivered so many events, and follows its source."""
    run = Run(pipeline, RunOptions(**options))  # type: ignore[arg-type]  # flags alone
    task = asyncio.create_task(run.execute())
    await until(lambda: run.status.counts.delivered >= delivered or task.done())
    return run, task


async def refused(pipeline: Pipeline, code: str) -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as caught:
        await run_once(pipeline)
    assert caught.value.code == code
    return caught.value


# ---- one run at a time


async def test_a_second_run_is_refused_and_told_who_holds_the_pipeline(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    run, task = await start(pipeline, 2)
    error = await refused(pipeline, "state.held")
    assert (str(os.getpid()) in error.message, error.exit_status) == (True, 3)
    feed.add(*numbers(1, 2))
    await until(lambda: run.status.counts.delivered == 3)
    run.stop()
    assert (await task).counts == Counts(3, 3)


async def test_a_run_that_waits_begins_when_the_other_ends(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    run, task = await start(pipeline, 2)
    clock = FakeClock()
    waiting = asyncio.create_task(Run(pipeline, RunOptions(once=True, wait=True, clock=clock)).execute())
    await asyncio.wait_for(clock.until_sleeping(), 20)
    run.stop()
    await task
    feed.add(*numbers(1, 2))
    while not waiting.done():
        await clock.advance(1)
        await asyncio.sleep(0.001)
    assert ((await waiting).counts, table.ids) == (Counts(1, 1), ["p0", "p1", "p2"])


@pytest.mark.parametrize("kind", ["table", "tape"])
async def test_a_run_that_was_taken_over_delivers_and_acknowledges_nothing_more(tmp_path: Path, kind: str) -> None:
    """Invariant 6."""
    feed = Feed.of(*numbers(2))
    out: Table | Shelf = Table(tmp_path / "t.db") if kind == "table" else Shelf()
    pipeline = make_pipeline(tmp_path, feed, sink("out", out, kind=kind))
    _, old = await start(pipeline, 2)
    young, new = await start(make_pipeline(tmp_path, Feed(dict(feed.records)), sink("out", out, kind=kind)), 0, take_over=True)
    await until(lambda: young.status.phase == "running")
    acked = list(feed.acked)
    feed.add(*numbers(1, 2))
    with pytest.raises(Fenced):
        await asyncio.wait_for(old, 20)
    assert feed.acked == acked
    young.stop()
    await asyncio.wait_for(new, 20)
    if kind == "table":
        assert out.ids == ["p0", "p1"]
    assert (await kept(pipeline)).totals.received in (2, 3)


# ---- sinks come and go


async def test_a_new_sink_starts_at_the_pipelines_position(tmp_path: Path) -> None:
    feed, a, b = Feed.of(*numbers(2)), Table(tmp_path / "a.db"), Table(tmp_path / "b.db")
    await run_once(make_pipeline(tmp_path, feed, sink("a", a)))
    feed.add(*numbers(2, 2))
    both = make_pipeline(tmp_path, feed, sink("a", a), sink("b", b))
    summary = await run_once(both)
    assert (a.ids, b.ids, summary.counts) == (["p0", "p1", "p2", "p3"], ["p2", "p3"], Counts(2, 2))


@pytest.mark.parametrize("kind", ["table", "tape"])
async def test_a_sink_that_comes_back_stops_and_asks_and_is_adopted(tmp_path: Path, kind: str) -> None:
    feed, a = Feed.of(*numbers(2)), Table(tmp_path / "a.db")
    b: Table | Shelf = Table(tmp_path / "b.db") if kind == "table" else Shelf()
    both = make_pipeline(tmp_path, feed, sink("a", a), sink("b", b, kind=kind))
    one = make_pipeline(tmp_path, feed, sink("a", a))
    await run_once(both)
    feed.add(*numbers(1, 2))
    await run_once(one)
    feed.add(*numbers(1, 3))
    for _ in range(3):
        error = await refused(both, "ledger.came_back")
        assert "sink b" in error.message
    await run_once(both, adopt=True)
    await run_once(both)
    assert (a.ids, b.ids) == (["p0", "p1", "p2", "p3"], ["p0", "p1", "p3"])


async def test_a_sink_without_a_ledger_may_be_added_beside_a_state_ledger_of_before(tmp_path: Path) -> None:
    feed, a, old, new = Feed.of(*numbers(1)), Table(tmp_path / "a.db"), Shelf(), Shelf()
    await run_once(make_pipeline(tmp_path, feed, sink("a", a), sink("old", old, kind="tape")))
    feed.add(*numbers(1, 1))
    await run_once(make_pipeline(tmp_path, feed, sink("a", a)))
    feed.add(*numbers(1, 2))
    await run_once(make_pipeline(tmp_path, feed, sink("a", a), sink("new", new, kind="tape")))
    assert (a.ids, old.ids, new.ids) == (["p0", "p1", "p2"], ["p0"], ["p2"])


async def test_a_ledger_that_had_nothing_to_do_does_not_hold_the_others_back(tmp_path: Path) -> None:
    feed, a, b = Feed.of(*numbers(6), batch=2), Table(tmp_path / "a.db"), Table(tmp_path / "b.db")
    pipeline = make_pipeline(
        tmp_path, feed, sink("a", a), sink("b", b, when=".n == 0"), limits=Limits(in_flight_events=2)
    )  # fmt: skip
    await crash(pipeline, "before_ack", 3)
    summary = await run_once(pipeline)
    assert (feed.resumed[-1], a.ids, b.ids) == ({"p": at(6)}, [f"p{n}" for n in range(6)], ["p0"])
    assert (summary.counts, summary.reread, (await kept(pipeline)).totals) == (Counts(), 0, Counts(6, 6))


async def test_each_ledger_skips_what_it_holds(tmp_path: Path) -> None:
    feed, a, b = Feed.of(*numbers(4), batch=4), Table(tmp_path / "a.db"), Table(tmp_path / "b.db")
    pipeline = make_pipeline(tmp_path, feed, sink("a", a), sink("b", b))
    await crash(pipeline, "between_ledgers")
    assert (a.ids, b.ids) == (["p0", "p1", "p2", "p3"], [])
    feed.add(*numbers(2, 4))
    feed.batch = 3
    summary = await run_once(pipeline)
    assert a.ids == b.ids == [f"p{n}" for n in range(6)]
    assert summary.counts == (await kept(pipeline)).totals == Counts(6, 6)


async def test_a_crash_in_the_very_first_write_is_undone(tmp_path: Path) -> None:
    feed, tape = Feed.of(*numbers(4)), Shelf([("before", "somebody else's")])
    pipeline = make_pipeline(tmp_path, feed, sink("tape", tape, kind="tape"))
    await crash(pipeline, "after_sink_write")
    await run_once(pipeline)
    assert tape.ids == ["before", "p0", "p1", "p2", "p3"]


# ---- identity


async def test_another_source_under_the_same_name_is_refused_and_can_be_adopted(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.db")
    feed, other = Feed.of(*numbers(2)), Feed.of(*numbers(5), identity="list:invoices")
    await run_once(make_pipeline(tmp_path, feed, sink("table", table)))
    changed = make_pipeline(tmp_path, other, sink("table", table))
    error = await refused(changed, "ledger.mismatch")
    assert ("pipe checkpoint adopt orders" in str(error.help), other.resumed) == (True, [])
    await run_once(changed, adopt=True)
    assert table.ids == ["p0", "p1", "p2", "p3", "p4"]
    assert (await run_once(changed)).counts == Counts()


async def test_another_database_in_the_place_of_the_ledger_is_refused(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    await run_once(pipeline)
    for left in tmp_path.glob("t.db*"):
        left.unlink()
    for _ in range(2):
        await refused(pipeline, "ledger.mismatch")


async def test_a_state_store_that_was_lost_is_noticed_however_often_the_run_is_started(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(6)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), limits=Limits(in_flight_events=2))
    await run_once(pipeline)
    shutil.rmtree(pipeline.state)
    feed.add(*numbers(1, 6))
    for _ in range(4):
        await refused(pipeline, "state.restored")
    summary = await run_once(pipeline, adopt=True)
    assert (table.ids, summary.counts) == ([f"p{n}" for n in range(7)], Counts(1, 1))
    assert ((await kept(pipeline)).totals, (await run_once(pipeline)).counts) == (Counts(7, 7), Counts())


async def test_a_state_store_from_a_backup_is_noticed(tmp_path: Path) -> None:
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), limits=Limits(in_flight_events=2))
    await run_once(pipeline)
    shutil.copytree(pipeline.state, tmp_path / "backup")
    feed.add(*numbers(4, 2))
    await run_once(pipeline)
    old = replace(pipeline, state=tmp_path / "backup")
    for _ in range(4):
        await refused(old, "state.restored")
    assert (await run_once(old, adopt=True)).counts == Counts()
    assert table.ids == [f"p{n}" for n in range(6)]


async def test_a_run_without_dedup_goes_on_without_its_keys(tmp_path: Path) -> None:
    feed, table = Feed.of({"n": 0}), Table(tmp_path / "t.db")
    await run_once(make_pipeline(tmp_path, feed, sink("table", table), dedup=dedup()))
    feed.add({"n": 0})
    summary = await run_once(make_pipeline(tmp_path, feed, sink("table", table)))
    assert (table.ids, summary.counts) == (["p0", "p1"], Counts(1, 1))


async def test_a_source_that_has_to_look_is_known_by_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked before any ledger is claimed, and again when the server cannot be asked at once (rule 3)."""
    answers: list[str | Transient] = [Transient("server.gone", "refused"), "list:7301", "list:7301", "list:9"]

    async def identify(self: ListSource) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Transient):
            raise answer
        return answer

    monkeypatch.setattr(ListSource, "identify", identify, raising=False)
    feed, table = Feed.of(*numbers(2)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    await run_once(pipeline)
    await run_once(pipeline)
    with pytest.raises(EnvironmentFault) as caught:
        await run_once(pipeline)
    assert (caught.value.code, "list:9" in str(caught.value.why), table.ids) == ("ledger.mismatch", True, ["p0", "p1"])
