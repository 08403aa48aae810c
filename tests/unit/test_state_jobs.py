"""Stored jobs in the state store, on SQLite and on PostgreSQL: what people ask, what carriers write, who may write."""

from __future__ import annotations

import asyncio

import pytest
from state_builders import Store, clock_of, letter, note, version

from penstock.errors import EnvironmentFault, Fenced, UsageError
from penstock.state import job_book, job_tables
from penstock.state.job_records import Job, JobError, JobProgress
from penstock.state.records import LetterQuery

NOW = 1_000_000.0


async def made(store: Store, *, alone: bool = False) -> str:
    clock_of(store).time += 1
    return (await store.jobs.create("replay", '{"all":true}', "ann@here", alone=alone, total=9)).id


def brief(job: Job) -> tuple[str, str, bool]:
    return job.state, job.asked, job.open


async def test_a_job_is_created_taken_reported_and_ended(store: Store) -> None:
    epoch, clock = await store.issue_epoch(version()), clock_of(store)
    job = await store.jobs.create("replay", '{"all":true}', "ann@here", total=9)
    waiting = Job(job.id, "replay", '{"all":true}', NOW, "ann@here", progress=JobProgress(job.id, total=9), changed_at=NOW)
    assert job == waiting
    assert (await store.jobs.open_ones(), await store.jobs.latest()) == ([waiting], [waiting])
    clock.time += 1
    taken = await store.jobs.take(epoch, job.id)
    assert (brief(taken), taken.started_at, taken.changed_at) == (("running", "run", True), NOW + 1, NOW + 1)
    progress = JobProgress(job.id, b"\x00cursor", 4, 9, {"delivered": 3, "failed_again": 1}, 2.5)
    clock.time += 1
    assert (await store.jobs.report(epoch, progress)).progress == progress
    clock.time += 1
    await store.jobs.end(epoch, job.id, "failed", JobError("x.y", "it broke", "why", "mend it"))
    await store.jobs.end(epoch, job.id, "done")
    await store.jobs.report(epoch, JobProgress(job.id, b"later", 9))
    found = await store.jobs.find(job.id[:5])
    assert (brief(found), found.ended_at, found.progress) == (("failed", "run", False), NOW + 3, progress)
    assert found.error == JobError("x.y", "it broke", "why", "mend it")
    assert await store.jobs.open_ones() == []
    assert await store.jobs.take(epoch, job.id) == found


async def test_the_progress_of_a_job_goes_with_the_note_of_its_group(store: Store) -> None:
    epoch = await store.issue_epoch(version())
    job = await made(store)
    await store.jobs.take(epoch, job)
    progress = JobProgress(job, b"c1", 2, 9, {"delivered": 2}, 1.0)
    await store.note(epoch, note(1, job=progress))
    assert (await store.jobs.find(job)).progress == progress
    await store.issue_epoch(version())
    with pytest.raises(Fenced):
        await store.note(epoch, note(2, job=JobProgress(job, b"c2", 3)))
    assert (await store.jobs.find(job)).progress == progress


async def test_a_run_that_was_fenced_writes_nothing_of_a_job(store: Store) -> None:
    old, job = await store.issue_epoch(version()), await made(store)
    await store.jobs.take(old, job)
    new = await store.issue_epoch(version())
    before = await store.jobs.find(job)
    for call in (
        lambda: store.jobs.recover(old),
        lambda: store.jobs.take(old, job),
        lambda: store.jobs.report(old, JobProgress(job, b"x", 5)),
        lambda: store.jobs.leave(old, job),
        lambda: store.jobs.end(old, job, "done"),
    ):
        with pytest.raises(Fenced):
            await call()
    assert await store.jobs.find(job) == before
    ((recovered,), _) = await store.jobs.recover(new), None
    assert brief(recovered) == ("waiting", "run", True)


async def test_pausing_stops_the_carrier_and_resuming_lets_it_go_on(store: Store) -> None:
    epoch, job = await store.issue_epoch(version()), await made(store)
    assert brief(await store.jobs.pause(job)) == ("paused", "pause", True)
    assert brief(await store.jobs.take(epoch, job)) == ("paused", "pause", True)
    assert brief(await store.jobs.resume(job)) == ("waiting", "run", True)
    await store.jobs.take(epoch, job)
    assert brief(await store.jobs.pause(job)) == ("running", "pause", True)
    assert brief(await store.jobs.leave(epoch, job)) == ("paused", "pause", True)
    await store.jobs.resume(job)
    await store.jobs.take(epoch, job)
    assert brief(await store.jobs.leave(epoch, job)) == ("waiting", "run", True)


async def test_a_job_that_never_began_is_cancelled_at_once_and_another_by_its_carrier(store: Store) -> None:
    epoch = await store.issue_epoch(version())
    fresh, begun = await made(store), await made(store)
    await store.jobs.take(epoch, begun)
    assert brief(await store.jobs.cancel(fresh)) == ("cancelled", "cancel", False)
    assert brief(await store.jobs.cancel(begun)) == ("running", "cancel", True)
    for undo in (store.jobs.resume, store.jobs.pause):
        assert brief(await undo(begun)) == ("running", "cancel", True)
        assert brief(await undo(fresh)) == ("cancelled", "cancel", False)
    assert [brief(one) for one in await store.jobs.recover(epoch)] == [("waiting", "cancel", True)]
    assert brief(await store.jobs.take(epoch, begun)) == ("waiting", "cancel", True)
    await store.jobs.end(epoch, begun, "cancelled")
    assert await store.jobs.open_ones() == []


@pytest.mark.parametrize("how", ["take", "leave", "end"])
async def test_what_a_job_had_taken_up_and_not_replayed_is_open_again(store: Store, how: str) -> None:
    epoch, job = await store.issue_epoch(version()), await made(store)
    await store.put_dead_letters(epoch, 1, [letter("l1"), letter("l2", 2)], [])
    await store.note(epoch, note(1))
    await store.jobs.take(epoch, job)
    await store.set_status(epoch, ["l1"], "replaying", job=job)
    await store.set_status(epoch, ["l2"], "replaying", job="another")
    await (store.jobs.end(epoch, job, "done") if how == "end" else getattr(store.jobs, how)(epoch, job))
    found, _ = await store.letters(LetterQuery())
    assert [(one.id, one.status, one.job) for one in found] == [("l1", "open", None), ("l2", "replaying", "another")]


async def test_jobs_are_found_by_a_unique_prefix_and_listed_in_order(store: Store) -> None:
    ids = [await made(store) for _ in range(3)]
    assert [job.id for job in await store.jobs.open_ones()] == ids
    assert [job.id for job in await store.jobs.latest(2)] == ids[:0:-1]
    for prefix, code in (("zz", "job.unknown"), ("", "job.unknown")):
        with pytest.raises(UsageError) as caught:
            await store.jobs.find(prefix)
        assert caught.value.code == code


async def test_of_jobs_that_ended_the_latest_are_kept_and_all_that_are_open(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_tables, "KEPT", 3)
    epoch, ids = await store.issue_epoch(version()), []
    for number in range(7):
        ids.append(await made(store))
        if number != 1:
            await store.jobs.end(epoch, ids[-1], "done")
    assert [one.id for one in await store.jobs.latest()] == [ids[6], ids[5], ids[4], ids[1]]


async def test_a_run_carries_out_no_job_that_stands_alone(store: Store) -> None:
    epoch = await store.issue_epoch(version())
    alone, other = await made(store, alone=True), await made(store)
    owner = await store.jobs.own(alone)
    await store.jobs.take(owner, alone)
    assert [job.id for job in await store.jobs.recover(epoch)] == [other]
    assert brief(await store.jobs.find(alone)) == ("running", "run", True)
    with pytest.raises(EnvironmentFault) as caught:
        await store.jobs.own(other)
    assert caught.value.code == "job.over"


async def test_a_job_that_stands_alone_goes_on_where_its_owner_was_killed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_book, "LEASE", 0.3)
    monkeypatch.setattr(job_book, "_LOOKING", 0.05)
    job = await made(store, alone=True)
    first = await store.jobs.own(job)
    await store.jobs.take(first, job)
    progress = JobProgress(job, b"here", 3, 9)
    assert (await store.jobs.report(first, progress)).progress == progress
    second = await store.jobs.own(job)
    assert (await store.jobs.take(second, job)).progress == progress
    for late in (
        store.jobs.report(first, JobProgress(job, b"back", 1)),
        store.jobs.beat(first, job),
        store.jobs.leave(first, job),
    ):
        with pytest.raises(Fenced):
            await late
    assert (await store.jobs.find(job)).progress == progress
    await store.jobs.end(second, job, "done")
    assert (await store.jobs.find(job)).owner == ""


async def test_a_job_that_stands_alone_has_one_owner_as_long_as_that_one_beats(store: Store) -> None:
    job = await made(store, alone=True)
    owner = await store.jobs.own(job)

    async def beating() -> None:
        while True:
            await store.jobs.beat(owner, job)
            await asyncio.sleep(0)

    task = asyncio.create_task(beating())
    with pytest.raises(EnvironmentFault, match=r"process [0-9]+ on") as caught:
        await asyncio.wait_for(store.jobs.own(job), 10)
    assert caught.value.code == "job.held"
    task.cancel()
    await store.jobs.leave(owner, job)
    assert await store.jobs.own(job) != owner


async def test_a_job_that_stands_alone_ends_when_it_is_cancelled_and_its_owner_learns_of_it(store: Store) -> None:
    job = await made(store, alone=True)
    owner = await store.jobs.own(job)
    await store.jobs.take(owner, job)
    assert brief(await store.jobs.pause(job)) == ("running", "pause", True)
    assert brief(await store.jobs.report(owner, JobProgress(job, b"c", 1))) == ("running", "pause", True)
    assert brief(await store.jobs.cancel(job)) == ("cancelled", "cancel", False)
    with pytest.raises(Fenced):
        await store.jobs.report(owner, JobProgress(job, b"d", 2))
    assert (await store.jobs.find(job)).progress.cursor == b"c"
