"""`dead_letter.retry`: open dead letters are replayed by themselves, each delay counted from the last failure (rule 10)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Table, crash_at, kept, make_pipeline, numbers, open_store, run_once, sink, step
from engine_parts import parts as parts

from penstock.config.model import DeadLetters, Pipeline
from penstock.engine.carry_out import carry_out
from penstock.engine.due_jobs import make_hurried
from penstock.engine.run import RunOptions
from penstock.errors import Fatal, Permanent
from penstock.event import Event
from penstock.state.job_records import Job
from penstock.state.records import DeadLetter
from penstock.state.sqlite_store import SqliteStateStore
from penstock.testing.clock import FakeClock

RETRY = DeadLetters(retry=(5.0, 300.0))


class Fails:
    """A step that refuses some events, until it is mended."""

    def __init__(self, *refused: str) -> None:
        self.refused, self.seen = set(refused), list[str]()

    def __call__(self, event: Event) -> Any:
        self.seen.append(event.id)
        return Permanent("step.bad", f"{event.id} is bad") if event.id in self.refused else event


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def pipeline_of(
    directory: Path, feed: Feed, table: Table, check: Fails, letters: DeadLetters = RETRY, **changes: Any
) -> Pipeline:
    return make_pipeline(directory, feed, sink("table", table), steps=[step("check", check)], dead_letter=letters, **changes)


@asynccontextmanager
async def looking(pipeline: Pipeline) -> AsyncIterator[SqliteStateStore]:
    async with open_store(pipeline) as store:
        yield store


async def jobs_of(pipeline: Pipeline) -> list[Job]:
    async with looking(pipeline) as store:
        return list(reversed(await store.jobs.latest()))


def waits(letters: list[DeadLetter]) -> dict[str, tuple[int, float | None, str]]:
    return {letter.event_id: (letter.retries, letter.next_at, letter.status) for letter in letters}


async def test_a_dead_letter_is_retried_after_each_delay_counted_from_its_last_failure_then_waits_for_people(
    tmp_path: Path, clock: FakeClock
) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Fails("p1")
    pipeline = pipeline_of(tmp_path, feed, table, check)
    await run_once(pipeline, clock=clock)
    failed = clock.now()
    assert waits((await kept(pipeline)).letters) == {"p1": (0, failed + 5.0, "open")}

    clock.jump(4.9)
    await run_once(pipeline, clock=clock)
    assert await jobs_of(pipeline) == []

    clock.jump(0.2)
    await run_once(pipeline, clock=clock)
    again = clock.now()
    assert waits((await kept(pipeline)).letters) == {"p1": (1, again + 300.0, "open")}

    clock.jump(300)
    await run_once(pipeline, clock=clock)
    assert waits((await kept(pipeline)).letters) == {"p1": (2, None, "open")}

    clock.jump(100_000)
    check.refused.clear()
    await run_once(pipeline, clock=clock)
    assert [job.kind for job in await jobs_of(pipeline)] == ["retry", "retry"]
    assert (await kept(pipeline)).open[0].attempts == 3
    assert table.ids == ["p0", "p2"]


async def test_letters_that_are_due_go_together_in_one_job_in_the_order_in_which_they_were_read(
    tmp_path: Path, clock: FakeClock
) -> None:
    feed, table, check = Feed.of(*numbers(6)), Table(tmp_path / "t.db"), Fails("p1", "p3", "p4")
    pipeline = pipeline_of(tmp_path, feed, table, check)
    await run_once(pipeline, clock=clock)
    clock.jump(6)
    check.refused = {"p3"}
    await run_once(pipeline, clock=clock)
    assert [(job.kind, job.state, job.progress.counts["received"]) for job in await jobs_of(pipeline)] == [("retry", "done", 3)]
    assert table.ids == ["p0", "p2", "p5", "p1", "p4"]
    assert {letter.event_id: letter.status for letter in (await kept(pipeline)).letters} == {
        "p1": "resolved", "p3": "open", "p4": "resolved",
    }  # fmt: skip


@pytest.mark.parametrize("point", ["before_job_commit", "before_job_note", "after_job_note", "after_job_end"])
async def test_a_retry_that_dies_anywhere_is_gone_on_with_and_nothing_is_retried_twice(
    tmp_path: Path, clock: FakeClock, point: str
) -> None:
    feed, table, check = Feed.of(*numbers(4)), Table(tmp_path / "t.db"), Fails("p1", "p2")
    pipeline = pipeline_of(tmp_path, feed, table, check)
    await run_once(pipeline, clock=clock)
    clock.jump(6)
    check.refused = {"p2"}
    with pytest.raises(Fatal):
        await run_once(pipeline, clock=clock, faults=crash_at(point))
    await run_once(pipeline, clock=clock)
    assert table.ids == ["p0", "p3", "p1"]
    found = waits((await kept(pipeline)).letters)
    assert found["p1"][2] == "resolved"
    assert (found["p2"][0], found["p2"][2]) == (1, "open")
    assert {job.state for job in await jobs_of(pipeline)} == {"done"}


async def test_somebody_who_hurries_has_all_retries_done_now_and_each_counts_as_one_of_the_schedule(
    tmp_path: Path, clock: FakeClock
) -> None:
    feed, table, check = Feed.of(*numbers(4)), Table(tmp_path / "t.db"), Fails("p1", "p2")
    pipeline = pipeline_of(tmp_path, feed, table, check)
    await run_once(pipeline, clock=clock)
    check.refused = {"p2"}
    async with looking(pipeline) as store:
        job = await make_hurried(store, "ann@here")
    assert (job.kind, job.progress.total, job.created_by) == ("retry", 2, "ann@here")
    done = await carry_out(pipeline, job.id, RunOptions(clock=clock))
    assert (done.state, done.progress.counts["delivered"], done.progress.counts["dead_lettered"]) == ("done", 1, 1)
    assert waits((await kept(pipeline)).letters)["p2"] == (1, clock.now() + 300.0, "open")
    assert table.ids == ["p0", "p3", "p1"]


async def test_without_a_schedule_nothing_waits_for_a_retry_any_more(tmp_path: Path, clock: FakeClock) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Fails("p1")
    pipeline = pipeline_of(tmp_path, feed, table, check)
    await run_once(pipeline, clock=clock)
    clock.jump(6)
    said: list[str] = []
    never = pipeline_of(tmp_path, feed, table, check, DeadLetters())
    await run_once(never, clock=clock, log=lambda incident: said.append(incident.code))
    assert "dlq.unscheduled" in said
    assert waits((await kept(pipeline)).letters) == {"p1": (0, None, "open")}
    assert await jobs_of(pipeline) == []


async def test_what_nobody_is_left_to_take_is_not_tried_again_and_again(tmp_path: Path, clock: FakeClock) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Fails("p1")
    await run_once(pipeline_of(tmp_path, feed, table, check), clock=clock)
    clock.jump(6)
    table = Table(tmp_path / "o.db")
    other = make_pipeline(tmp_path, feed, sink("other", table), steps=[step("check", check)], dead_letter=RETRY)
    await run_once(other, clock=clock)
    assert [(job.kind, job.state, job.progress.counts.get("left")) for job in await jobs_of(other)] == [("retry", "done", 1)]
    assert waits((await kept(other)).letters) == {"p1": (0, None, "open")}


async def test_a_retry_job_that_was_called_off_leaves_its_letters_to_people(tmp_path: Path, clock: FakeClock) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Fails("p1")
    pipeline = pipeline_of(tmp_path, feed, table, check)
    await run_once(pipeline, clock=clock)
    clock.jump(6)
    with pytest.raises(Fatal):
        await run_once(pipeline, clock=clock, faults=crash_at("before_job_commit"))
    async with looking(pipeline) as store:
        await store.jobs.cancel((await store.jobs.open_ones())[0].id)
    await run_once(pipeline, clock=clock)
    assert [job.state for job in await jobs_of(pipeline)] == ["cancelled"]
    assert waits((await kept(pipeline)).letters) == {"p1": (0, None, "open")}


async def test_retries_are_not_made_while_the_pipeline_is_paused(tmp_path: Path, clock: FakeClock) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Fails("p1")
    pipeline = pipeline_of(tmp_path, feed, table, check)
    await run_once(pipeline, clock=clock)
    clock.jump(6)
    async with looking(pipeline) as store:
        await store.signals.pause("ann@here")
    await run_once(pipeline, clock=clock)
    assert await jobs_of(pipeline) == []


async def test_a_retry_job_that_fails_leaves_its_letters_to_people_and_the_run_goes_on(tmp_path: Path, clock: FakeClock) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Fails("p1")
    pipeline = pipeline_of(tmp_path, feed, table, check)
    await run_once(pipeline, clock=clock)
    clock.jump(6)
    await run_once(pipeline, clock=clock, faults=crash_at("after_take_up"))
    assert [job.state for job in await jobs_of(pipeline)] == ["failed"]
    assert waits((await kept(pipeline)).letters) == {"p1": (0, None, "open")}
