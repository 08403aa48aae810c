"""Jobs beside the live work of a run (rule 10): carried out by the one writer, between the source's groups, nothing doubled."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from engine_jobs_parts import Mend, ask, ended, job_of, running, statuses
from engine_jobs_parts import looks_often as looks_often
from engine_parts import Feed, Shelf, Stopwatch, Table, crash_at, dedup, kept, make_pipeline, open_store, run_once, sink, step
from engine_parts import parts as parts
from engine_replay_parts import said

from dlq.replay import summary_of
from penstock.config.model import Batching
from penstock.errors import Fatal, Permanent
from penstock.event import Event
from penstock.ledger import Counts

pytestmark = pytest.mark.usefixtures("looks_often")


def numbers(first: int, last: int) -> list[dict[str, int]]:
    return [{"n": n} for n in range(first, last)]


def out_of(kind: str, directory: Path) -> Table | Shelf:
    return Table(directory / "t.db") if kind == "table" else Shelf()


# ---- carried out by the live run


@pytest.mark.parametrize("kind", ["table", "tape", "shelf"])
@pytest.mark.parametrize("keyed", [True, False], ids=["dedup", "no dedup"])
@pytest.mark.parametrize("positions", [True, False], ids=["positions", "no positions"])
async def test_a_live_run_replays_what_was_mended_and_goes_on(tmp_path: Path, kind: str, keyed: bool, positions: bool) -> None:
    feed, out, mend = Feed.of(*numbers(0, 4), positions=positions), out_of(kind, tmp_path), Mend("p1", "p2")
    pipeline = make_pipeline(
        tmp_path, feed, sink("out", out, kind=kind), steps=[step("mend", mend)], dedup=dedup() if keyed else None
    )  # fmt: skip
    async with running(pipeline) as live:
        await live.received(4)
        mend.refused.clear()
        job = await ended(pipeline, await ask(pipeline))
        assert (job.state, job.progress.done, job.progress.total, said(summary_of(job))) == ("done", 2, 2, (2, 2, 0, 0, 0))
        feed.add(*numbers(4, 6))
        await live.received(6)
        assert out.ids == ["p0", "p3", "p1", "p2", "p4", "p5"]
        assert (await live.end()).counts == Counts(6, 4, dead_lettered=2)  # the first outcome stays
    assert await statuses(pipeline) == {"p1": "resolved", "p2": "resolved"}
    assert (await run_once(pipeline)).counts == Counts()
    assert len(out.ids) == 6


async def test_what_fails_again_is_not_come_upon_twice_by_the_same_job(tmp_path: Path) -> None:
    feed, table, mend = Feed.of(*numbers(0, 9)), Table(tmp_path / "t.db"), Mend(*(f"p{n}" for n in range(9)))
    batching = Batching(count=2)
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("mend", mend)], batching=batching)
    async with running(pipeline) as live:
        await live.received(9)
        mend.refused = {"p0", "p3", "p8"}
        job = await ended(pipeline, await ask(pipeline))
        assert said(summary_of(job)) == (9, 6, 0, 0, 3)
        await live.end()
    assert table.ids == ["p1", "p2", "p4", "p5", "p6", "p7"]  # in the order in which they were read
    assert {letter.event_id: letter.attempts for letter in (await kept(pipeline)).open} == {"p0": 2, "p3": 2, "p8": 2}
    assert len(table.query("SELECT event FROM penstock_job_records")) == 0


async def test_letters_that_come_while_a_job_goes_on_are_not_among_its_own(tmp_path: Path) -> None:
    feed, table, mend = Feed.of(*numbers(0, 3)), Table(tmp_path / "t.db"), Mend("p0", "p1", "p2", "p3", "p4")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("mend", mend)], batching=Batching(count=1))
    async with running(pipeline) as live:
        await live.received(3)
        identity = await ask(pipeline, rate=20.0)
        feed.add(*numbers(3, 5))
        job = await ended(pipeline, identity)
        assert said(summary_of(job)) == (3, 0, 0, 0, 3)
        await live.end()
    assert {letter.event_id: letter.attempts for letter in (await kept(pipeline)).open} == {
        "p0": 2, "p1": 2, "p2": 2, "p3": 1, "p4": 1,
    }  # fmt: skip


async def test_a_ledger_keeps_the_records_of_one_portion_only(tmp_path: Path) -> None:
    feed, table, mend = Feed.of(*numbers(0, 20), batch=20), Table(tmp_path / "t.db"), Mend(*(f"p{n}" for n in range(20)))
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("mend", mend)], batching=Batching(count=3))
    kept_records: list[int] = []

    def look(event: Event) -> Event:
        kept_records.append(len(table.query("SELECT event FROM penstock_job_records")))
        return event

    async with running(pipeline) as live:
        await live.received(20)
        mend.refused.clear()
        pipeline.steps.append(step("look", look))  # type: ignore[attr-defined]  # a list
        await ended(pipeline, await ask(pipeline))
        await live.end()
    assert (len(table.ids), max(kept_records)) == (20, 3)


async def test_a_portion_beside_live_work_has_one_event_where_a_step_is_slow(tmp_path: Path) -> None:
    ids = [f"p{n}" for n in range(9)]
    feed, table, mend, clock = Feed.of(*numbers(0, 9), batch=9), Table(tmp_path / "t.db"), Mend(*ids), Stopwatch()
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("mend", mend)])
    kept_records: list[int] = []

    def work(event: Event) -> Event:
        kept_records.append(len(table.query("SELECT event FROM penstock_job_records")))
        clock.shown += 0.5
        return event

    async with running(pipeline, clock=clock) as live:
        await live.received(9)
        mend.refused.clear()
        pipeline.steps.append(step("work", work))  # type: ignore[attr-defined]  # a list
        await ended(pipeline, await ask(pipeline))
        await live.end()
    assert (table.ids, max(kept_records)) == (ids, 1)


async def test_once_finishes_open_jobs_before_it_ends(tmp_path: Path) -> None:
    feed, table, mend = Feed.of(*numbers(0, 4)), Table(tmp_path / "t.db"), Mend("p1", "p2")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("mend", mend)])
    await run_once(pipeline)
    mend.refused.clear()
    identity, paused = await ask(pipeline), await ask(pipeline)
    async with open_store(pipeline) as store:
        await store.jobs.pause(paused)
    assert (await run_once(pipeline)).counts == Counts()
    assert ((await job_of(pipeline, identity)).state, (await job_of(pipeline, paused)).state) == ("done", "paused")
    assert table.ids == ["p0", "p3", "p1", "p2"]
    assert (await kept(pipeline)).note.drained


async def test_a_paused_pipeline_reads_nothing_and_replays_all_the_same(tmp_path: Path) -> None:
    feed, table, mend = Feed.of(*numbers(0, 2)), Table(tmp_path / "t.db"), Mend("p1")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("mend", mend)])
    await run_once(pipeline)
    mend.refused.clear()
    async with open_store(pipeline) as store:
        await store.signals.pause("ann@here")
    feed.add(*numbers(2, 4))
    async with running(pipeline) as live:
        job = await ended(pipeline, await ask(pipeline))
        assert (job.state, table.ids, live.run.status.counts) == ("done", ["p0", "p1"], Counts())
        await live.end()


# ---- what people ask of a job


async def test_a_job_pauses_goes_on_and_is_cancelled_when_somebody_asks(tmp_path: Path) -> None:
    ids = [f"p{n}" for n in range(40)]
    feed, table, mend = Feed.of(*numbers(0, 40), batch=40), Table(tmp_path / "t.db"), Mend(*ids)
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("mend", mend)], batching=Batching(count=1))
    async with running(pipeline) as live, open_store(pipeline, create=True) as store:
        await live.received(40)
        mend.refused.clear()
        identity = await ask(pipeline, rate=50.0)
        await live.until(lambda: len(table.ids) >= 2)
        await store.jobs.pause(identity)
        async with asyncio.timeout(20):
            while (await store.jobs.find(identity)).state != "paused":
                await asyncio.sleep(0.005)
        before = len(table.ids)
        feed.add({"n": 40})
        await live.received(41)
        paused = await store.jobs.find(identity)
        assert (len(table.ids), paused.progress.done) == (before + 1, before)
        await store.jobs.resume(identity)
        await live.until(lambda: len(table.ids) >= before + 3)
        await store.jobs.cancel(identity)
        job = await ended(pipeline, identity)
        done = job.progress.done
        assert (job.state, said(summary_of(job))) == ("cancelled", (done, done, 0, 0, 0))
        await live.end()
    found = await statuses(pipeline)
    assert [found[name] for name in ids] == ["resolved"] * done + ["open"] * (40 - done)
    assert 0 < done < 40


async def test_a_run_that_is_stopped_leaves_its_job_for_the_next(tmp_path: Path) -> None:
    ids = [f"p{n}" for n in range(30)]
    feed, table, mend = Feed.of(*numbers(0, 30), batch=30), Table(tmp_path / "t.db"), Mend(*ids)
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("mend", mend)], batching=Batching(count=1))
    async with running(pipeline) as live:
        await live.received(30)
        mend.refused.clear()
        identity = await ask(pipeline, rate=100.0)
        await live.until(lambda: len(table.ids) >= 3)
        await live.end()
    left = await job_of(pipeline, identity)
    assert (left.state, left.progress.done) == ("waiting", len(table.ids))
    await run_once(pipeline)
    job = await job_of(pipeline, identity)
    assert (job.state, said(summary_of(job)), table.ids) == ("done", (30, 30, 0, 0, 0), ids)


# ---- what goes wrong


@pytest.mark.parametrize(
    ("kind", "options", "code"),
    [
        ("replay", "{}", "job.bad_options"),
        ("replay", "nonsense", "job.bad_options"),
        ("polish", "{}", "job.unknown_kind"),
        ("replay", '{"query":{"status":["open"]},"upto":99,"version":"abc"}', "version.unknown"),
    ],
)
async def test_a_job_that_cannot_be_carried_out_fails_with_the_reason_and_the_run_goes_on(
    tmp_path: Path, kind: str, options: str, code: str
) -> None:
    feed, table = Feed.of(*numbers(0, 2)), Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table))
    async with running(pipeline) as live, open_store(pipeline, create=True) as store:
        await live.received(2)
        job = await ended(pipeline, (await store.jobs.create(kind, options, "ann@here")).id)
        assert (job.state, job.error and job.error.code) == ("failed", code)
        feed.add(*numbers(2, 3))
        await live.received(3)
        await live.end()
    assert [incident.code for incident in live.said if incident.level == "error"] == [code]


async def test_a_step_that_stops_a_replay_stops_no_run(tmp_path: Path) -> None:
    feed, table, broken = Feed.of(*numbers(0, 2)), Table(tmp_path / "t.db"), False

    def check(event: Event) -> Any:
        if broken and event.id == "p0":
            raise ZeroDivisionError("a mistake in the step")
        return Permanent("step.bad", "bad") if event.id == "p0" else event

    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)])
    async with running(pipeline) as live:
        await live.received(2)
        broken = True
        job = await ended(pipeline, await ask(pipeline))
        assert (job.state, job.error and job.error.code) == ("failed", "internal.error")
        feed.add(*numbers(2, 3))
        await live.received(3)
        await live.end()
    assert await statuses(pipeline) == {"p0": "open"}


@pytest.mark.parametrize("kind", ["table", "tape"])
@pytest.mark.parametrize(
    "point", ["before_sink_write", "after_sink_write", "before_commit", "before_note", "after_note", "after_job_end"]
)
async def test_a_run_that_dies_in_a_jobs_group_delivers_once(tmp_path: Path, kind: str, point: str) -> None:
    ids = [f"p{n}" for n in range(6)]
    feed, out, mend = Feed.of(*numbers(0, 6), batch=6), out_of(kind, tmp_path), Mend(*ids)
    pipeline = make_pipeline(
        tmp_path, feed, sink("out", out, kind=kind), steps=[step("mend", mend)], dedup=dedup(), batching=Batching(count=2)
    )  # fmt: skip
    await run_once(pipeline)
    mend.refused = {"p5"}
    identity = await ask(pipeline)
    with pytest.raises(Fatal, match="crashed at"):
        await run_once(pipeline, faults=crash_at(point, 1 if point == "after_job_end" else 2))
    await run_once(pipeline)
    job = await job_of(pipeline, identity)
    assert (sorted(out.ids), job.state, job.progress.done) == (ids[:5], "done", 6)
    summary = summary_of(job)
    assert (summary.selected, summary.delivered + summary.settled, summary.failed_again) == (6, 5, 1)
    assert await statuses(pipeline) == dict.fromkeys(ids[:5], "resolved") | {"p5": "open"}
    assert (await kept(pipeline)).totals == Counts(6, 0, dead_lettered=6)
