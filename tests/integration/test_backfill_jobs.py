"""Dry runs and shadows as stored jobs: what they count, and that it counts once, however often they are interrupted."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backfill_parts import BEGAN, DAY, STEPS, desk_of, report_of, run_shop, write_shop
from journal_parts import BEGAN as EVENT_BEGAN
from journal_parts import write, writer

import penstock
from backfill import job as jobs
from backfill.crew import Crew
from backfill.job import request_of, result_of
from backfill.rehearsal import Rehearsal
from backfill.request import Request
from penstock.clock import SystemClock
from penstock.config.model import DeadLetters
from penstock.config.model import Journal as Declared
from penstock.engine.pool import without_ends
from penstock.engine.upkeep import Upkeep
from penstock.errors import EnvironmentFault, Fatal, UsageError
from penstock.faults import Faults
from penstock.journal.index import segment_numbers
from penstock.journal.journal import Journal
from penstock.observe.status import RunStatus
from penstock.state.job_records import Job
from penstock.testing.clock import FakeClock

RANGE: dict[str, Any] = {"start": BEGAN, "end": BEGAN + 10 * DAY}

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, each of them kept."""
    monkeypatch.setattr(jobs, "LINES", 30)
    monkeypatch.setattr(jobs, "BEAT", 0.0)


def counted(report: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on time."""
    steps = [{name: step[name] for name in ("name", "in", "out", "failed", "skipped")} for step in report["steps"]]
    names = "read delivered filtered deduplicated dead_lettered outputs left_out sinks letters samples comparison".split()
    return {"steps": steps, **{name: report.get(name) for name in names}}


async def test_a_dry_run_counts_what_the_run_counted(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path)
    report = await report_of(pipeline, "dry_run")
    assert counted(report) == {
        "steps": [
            {"name": "sold", "in": 1000, "out": 900, "failed": 0, "skipped": 0},
            {"name": "total", "in": 900, "out": 900, "failed": 0, "skipped": 0},
            {"name": "check", "in": 900, "out": 896, "failed": 4, "skipped": 0},
        ],
        "read": 1000,
        "delivered": 896,
        "filtered": 100,
        "deduplicated": 0,
        "dead_lettered": 4,
        "outputs": 896,
        "left_out": 0,
        "sinks": {"all": 896, "even": 498},
        "letters": report["letters"],
        "samples": report["samples"],
        "comparison": None,
    }
    (letters,) = report["letters"]
    assert (letters["step"], letters["code"], letters["count"]) == ("check", "validate.failed", 4)
    assert [(sample["output"]["data"]["id"], sample["sinks"]) for sample in report["samples"]] == [
        (0, ["even", "all"]),
        (2, ["even", "all"]),
        (4, ["even", "all"]),
    ]


async def test_a_dry_run_touches_neither_sinks_nor_state(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path)
    before = (tmp_path / "out" / "all.jsonl").stat()
    await report_of(pipeline, "dry_run")
    after = (tmp_path / "out" / "all.jsonl").stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    summary = await penstock.run(pipeline, once=True)
    assert (summary.counts.received, summary.reread) == (0, 0)


async def test_repetitions_are_counted_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"n": 1, "at": "2026-03-01T00:00:00Z"}\n' * 3)
    pipeline = write_shop(tmp_path, more="dedup: { window: 1h, key: .data.n }\n")
    await penstock.run(pipeline, once=True)
    report = await report_of(pipeline, "shadow")
    assert (report["read"], report["delivered"], report["deduplicated"], report["verdict"]) == (3, 1, 2, "clean")


@pytest.mark.parametrize("mode", ["dry_run", "shadow"])
@pytest.mark.parametrize("concurrency", [0, 2])
async def test_interrupted_after_every_portion_it_counts_each_event_once(
    tmp_path: Path, portions: None, mode: str, concurrency: int
) -> None:
    await run_shop(tmp_path, count=300, piece=60)
    pipeline = write_shop(tmp_path, STEPS.replace("(.n * 2)", "(.n * 3)"))
    whole = await report_of(pipeline, mode)
    async with desk_of(pipeline) as desk:
        job = await desk.create(pipeline, {"mode": mode, **RANGE}, "ann@here")
        interruptions = 0
        while job.open:
            told: list[Job] = []
            working = asyncio.create_task(desk.carry_out(job, pipeline, concurrency, told.append))
            while not told and not working.done():
                await asyncio.sleep(0.001)
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            job = await desk.store.jobs.find(job.id)
            interruptions += 1
        assert interruptions > 3
        assert counted(desk.report(job, "shop")) == counted(whole)


async def test_paused_it_rests_and_resumed_it_goes_on(tmp_path: Path, portions: None) -> None:
    pipeline = await run_shop(tmp_path, count=300, piece=60)
    async with desk_of(pipeline) as desk:
        job = await desk.create(pipeline, {"mode": "dry_run", **RANGE}, "ann@here")
        asked: list[asyncio.Task[Job]] = []

        def pause(told: Job) -> None:
            asked.append(asyncio.create_task(desk.store.jobs.pause(told.id)))

        rested = await desk.carry_out(job, pipeline, 0, pause)
        assert (rested.state, 0 < result_of(rested).read < 300) == ("paused", True)
        again = await desk.carry_out(rested, pipeline, 0, lambda told: None)
        assert (again.state, result_of(again).read) == ("paused", result_of(rested).read)
        await desk.store.jobs.resume(job.id)
        done = await desk.carry_out(again, pipeline, 0, lambda told: None)
        assert (done.state, result_of(done).read) == ("done", 300)
        with pytest.raises(EnvironmentFault, match="is done"):
            await desk.carry_out(done, pipeline, 0, lambda told: None)


async def test_a_cancelled_one_ends_and_keeps_what_it_came_to(tmp_path: Path, portions: None) -> None:
    pipeline = await run_shop(tmp_path, count=300, piece=60)
    async with desk_of(pipeline) as desk:
        job = await desk.create(pipeline, {"mode": "dry_run", **RANGE}, "ann@here")
        asked: list[asyncio.Task[Job]] = []
        done = await desk.carry_out(
            job, pipeline, 0, lambda told: asked.append(asyncio.create_task(desk.store.jobs.cancel(told.id)))
        )
        assert (done.state, 0 < result_of(done).read < 300) == ("cancelled", True)


async def test_an_event_that_no_worker_survives_is_a_dead_letter_and_the_others_go_on(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=200)
    endless = "{id: (if .n == 77 then last(repeat(1)) else .n end), total: 1, who: .who}"
    changed = write_shop(tmp_path, STEPS.replace("{id: .n, total: (.n * 2), who: .who}", endless), "transform_timeout: 300ms\n")
    report = await report_of(changed, "dry_run", concurrency=1)
    assert (report["read"], report["delivered"], report["dead_lettered"]) == (200, 179, 1)
    (group,) = report["letters"]
    assert (group["step"], group["code"], group["count"], group["example"][:2]) == ("total", "worker.timeout", 1, "0-")


async def test_a_filter_that_fails_ends_it_and_names_the_event(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path)
    async with desk_of(pipeline) as desk:
        job = await desk.create(pipeline, {"mode": "dry_run", "filter": ".data.who.x > 1", **RANGE}, "ann@here")
        with pytest.raises(Fatal, match="the filter fails at event 0-0"):
            await desk.carry_out(job, pipeline, 1, lambda told: None)
        failed = await desk.store.jobs.find(job.id)
        assert failed.error is not None
        assert (failed.state, failed.error.code) == ("failed", "backfill.filter")


async def test_what_makes_no_sense_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, count=3)
    async with desk_of(pipeline) as desk:
        for asked, code in (
            ({"filter": ".data.("}, "backfill.filter"),
            ({"end": BEGAN}, "backfill.empty_range"),
        ):
            with pytest.raises(UsageError) as refused:
                await desk.create(pipeline, {"mode": "dry_run", **RANGE, **asked}, "ann@here")
            assert refused.value.code == code
        assert await desk.store.jobs.latest() == []


async def test_it_does_not_go_on_with_other_steps(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, count=3)
    async with desk_of(pipeline) as desk:
        job = await desk.create(pipeline, {"mode": "dry_run", **RANGE}, "ann@here")
        changed = write_shop(tmp_path, STEPS.replace("(.n * 2)", "(.n * 3)"))
        with pytest.raises(UsageError) as refused:
            await desk.carry_out(job, changed, 0, lambda told: None)
        assert (refused.value.code, request_of(job).version) == ("backfill.changed", pipeline.version)


async def test_a_limit_looks_at_so_many_all_over_the_range_and_says_what_the_whole_would_come_to(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, piece=50)
    report = await report_of(pipeline, "dry_run", limit=100)
    assert report["read"] == 100
    assert report["in_range"] == report["estimate"]["events"] == 1000
    assert report["estimate"]["delivered"] == round(report["delivered"] * 1000 / report["read"])


async def test_a_rate_is_kept_to(tmp_path: Path, portions: None) -> None:
    pipeline = await run_shop(tmp_path, count=300, piece=60)
    report = await report_of(pipeline, "dry_run", rate=1000.0)
    assert report["read"] == 300
    assert report["seconds"] > 0.2


async def test_what_an_open_backfill_still_reads_does_not_expire(tmp_path: Path) -> None:
    clock = FakeClock()
    segments = writer(tmp_path / "j", roll=1)
    for number in range(5):
        write(segments, number, at=clock.now() + number)
    journal = Journal(tmp_path / "j", Faults(), 1)
    await journal.open("")
    pipeline = await run_shop(tmp_path, count=3)
    async with desk_of(pipeline) as desk:
        desk = replace(desk, today=replace(pipeline, journal=Declared(tmp_path / "j", retention=10.0)))
        job = await desk.create(pipeline, {"mode": "dry_run", "start": EVENT_BEGAN + 2.5, "end": EVENT_BEGAN + 9}, "ann@here")
        upkeep = Upkeep(DeadLetters(), desk.store, RunStatus("shop", "v"), clock, lambda incident: None)
        upkeep.kept = journal, Declared(tmp_path / "j", retention=10.0)
        await clock.advance(1000)
        await upkeep.expire_journal()
        assert segment_numbers(tmp_path / "j")[0] == 3
        done = await desk.carry_out(job, pipeline, 0, lambda told: None)
        assert result_of(done).read == 2
        await upkeep.expire_journal()
        assert len(segment_numbers(tmp_path / "j")) == 1
    await journal.close()


async def test_a_crew_whose_end_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, count=3)
    assert pipeline.journal is not None
    request = Request(mode="dry_run", file="", version=pipeline.version, **RANGE)
    rehearsal = Rehearsal(pipeline.worker_memory, without_ends(pipeline), request, pipeline.journal.directory, {})
    crew = Crew(rehearsal, 2, SystemClock())
    await crew.__aenter__()
    processes = [worker._process for worker in crew._live]
    ending = asyncio.create_task(crew.__aexit__())
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    assert [await asyncio.wait_for(process.wait(), 10) for process in processes] == [-signal.SIGKILL] * 2
    await crew.__aexit__()


async def test_a_limit_of_fewer_events_than_a_frame_holds_looks_at_so_many(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path)
    assert (await report_of(pipeline, "dry_run", limit=20))["read"] == 20
