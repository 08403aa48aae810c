"""Jobs beside live events of the same keys (rules 7 and 10): whichever comes second waits for what becomes of the first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_jobs_parts import Mend, ask, ended, job_of, running, statuses
from engine_jobs_parts import looks_often as looks_often
from engine_parts import Feed, Gate, Table, dedup, kept, make_pipeline, sink, step
from engine_parts import parts as parts
from engine_replay_parts import said

from dlq.replay import summary_of
from penstock.errors import Permanent
from penstock.event import Event
from penstock.ledger import Counts

pytestmark = pytest.mark.usefixtures("looks_often")


async def test_a_letter_whose_key_a_live_batch_has_with_other_data_waits_and_is_superseded(tmp_path: Path) -> None:
    feed, table, mend, gate = Feed.of({"id": 1, "n": 0}), Table(tmp_path / "t.db"), Mend("p0"), Gate()
    gate.open.set()
    pipeline = make_pipeline(
        tmp_path, feed, sink("table", table), dedup=dedup(".data.id"),
        steps=[step("gate", gate, batched=True), step("mend", mend)],
    )  # fmt: skip
    async with running(pipeline) as live:
        await live.received(1)
        mend.refused.clear()
        gate.open.clear()
        gate.waiting = 0
        feed.add({"id": 1, "n": 1})
        await live.until(lambda: gate.waiting == 1)  # judged: it supersedes the letter
        identity = await ask(pipeline)
        async with asyncio.timeout(20):
            while not (await job_of(pipeline, identity)).started_at:
                await asyncio.sleep(0.002)
        await asyncio.sleep(0.05)
        assert gate.waiting == 1  # the job has not processed its letter
        gate.open.set()
        job = await ended(pipeline, identity)
        await live.received(2)
        await live.end()
    assert (table.rows, await statuses(pipeline)) == ([("p1", {"id": 1, "n": 1})], {"p0": "superseded"})
    assert (job.state, said(summary_of(job))) == ("done", (0, 0, 0, 0, 0))


@pytest.mark.parametrize("same", [True, False], ids=["the same data", "other data"])
@pytest.mark.parametrize("succeeds", [True, False], ids=["delivered", "failed again"])
async def test_a_live_event_whose_key_a_job_is_replaying_waits_for_what_becomes_of_it(
    tmp_path: Path, same: bool, succeeds: bool
) -> None:
    feed, table, gate = Feed.of({"id": 1, "n": 0}), Table(tmp_path / "t.db"), Gate()
    mend = Mend("p0")
    gate.open.set()
    pipeline = make_pipeline(
        tmp_path, feed, sink("table", table), dedup=dedup(".data.id"),
        steps=[step("gate", gate, batched=True), step("mend", mend)],
    )  # fmt: skip
    async with running(pipeline) as live:
        await live.received(1)
        if succeeds:
            mend.refused.clear()
        gate.open.clear()
        gate.waiting = 0
        identity = await ask(pipeline)
        await live.until(lambda: gate.waiting == 1)  # the letter is being processed
        feed.add({"id": 1, "n": 0 if same else 1}, {"id": 2, "n": 2})
        await live.until(lambda: live.run.status.in_flight_events == 2)
        await asyncio.sleep(0.02)
        assert gate.waiting == 1
        gate.open.set()
        job = await ended(pipeline, identity)
        await live.received(3)
        counts = (await live.end()).counts
    (letter,) = (await kept(pipeline)).letters
    if succeeds:
        assert (table.ids, said(summary_of(job))) == (["p0", "p2"], (1, 1, 0, 0, 0))
        assert (counts, letter.status) == (Counts(3, 1, deduplicated=1, dead_lettered=1), "resolved")
    elif same:
        assert (table.ids, counts, letter.status) == (["p2"], Counts(3, 1, deduplicated=1, dead_lettered=1), "open")
        assert letter.repeats == 1
    else:
        assert (table.ids, counts, letter.status) == (["p1", "p2"], Counts(3, 2, dead_lettered=1), "superseded")


async def test_live_events_of_other_keys_go_past_a_job_that_is_held_up(tmp_path: Path) -> None:
    held = asyncio.Event()

    async def hold(events: Sequence[Event]) -> list[Any]:
        if any(event.id == "p0" for event in events) and not first:
            await held.wait()
        return [Permanent("step.bad", "bad") if event.id == "p0" and first else event for event in events]

    first = True
    feed, table = Feed.of({"id": 1}), Table(tmp_path / "t.db")
    pipeline = make_pipeline(
        tmp_path, feed, sink("table", table), steps=[step("hold", hold, batched=True)], dedup=dedup(".data.id")
    )  # fmt: skip
    async with running(pipeline) as live:
        await live.received(1)
        first = False
        identity = await ask(pipeline)
        async with asyncio.timeout(20):
            while not (await job_of(pipeline, identity)).started_at:
                await asyncio.sleep(0.002)
        feed.add(*({"id": n} for n in range(2, 30)))
        await live.received(29)
        assert len(table.ids) == 28
        held.set()
        await ended(pipeline, identity)
        await live.end()
    assert sorted(table.ids) == sorted(f"p{n}" for n in range(29))
