"""A dead letter that one ledger owes is replayed while the event comes again for another, which had not passed it when a run died
(rules 2, 9 and 10)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Shelf, Table, crash, crash_at, dedup, kept, make_pipeline, open_store, run_once, sink, step
from engine_parts import parts as parts

from dlq.replay import ReplayRequest, create_replay
from penstock.config.model import Pipeline
from penstock.engine import jobs as engine_jobs
from penstock.engine.assemble import Surroundings, assemble
from penstock.engine.run import Run, RunOptions
from penstock.errors import Fatal, Permanent
from penstock.event import Event
from penstock.faults import Faults
from penstock.state.records import LetterQuery


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_jobs, "TICK", 0.01)


class Meeting:
    """A step that refuses the first event of a live batch, which has two, and lets through what a job replays, which is one: the
    job has it while the live batch is committed."""

    def __init__(self) -> None:
        self.waits = False
        self.taken_up, self.committed = asyncio.Event(), asyncio.Event()

    async def __call__(self, events: Sequence[Event]) -> list[Any]:
        live = len(events) > 1
        if self.waits and live:
            await self.taken_up.wait()
        if self.waits and not live:
            self.taken_up.set()
            await self.committed.wait()
        return [Permanent("step.bad", "it is bad") if live and event.id == "p0" else event for event in events]


async def replay(pipeline: Pipeline) -> None:
    """Another process asks for all that is open."""
    options = RunOptions()
    assembly = assemble(pipeline, Surroundings(options.clock, options.random, options.faults))
    async with open_store(pipeline) as store:
        await create_replay(store, assembly, ReplayRequest(query=LetterQuery()), "ann@here")


@pytest.mark.parametrize("dies", [False, True])
async def test_what_a_ledger_owes_since_a_replay_took_up_the_letter_is_delivered(tmp_path: Path, dies: bool) -> None:
    meeting, table, shelf = Meeting(), Table(tmp_path / "t.db"), Shelf()
    pipeline = make_pipeline(
        tmp_path, Feed.of({"n": 0}, {"n": 1}, batch=2), sink("table", table), sink("shelf", shelf),
        steps=[step("meeting", meeting, batched=True)],
    )  # fmt: skip
    await crash(pipeline, "between_ledgers")
    await crash(pipeline, "after_read")  # its claim lets the letter stand, owed by the ledger that has passed it
    (letter,) = (await kept(pipeline)).letters
    assert (letter.event_id, list(letter.owed)) == ("p0", ["table"])
    await replay(pipeline)
    meeting.waits = True
    run = Run(pipeline, RunOptions(once=True, faults=crash_at("before_job_note") if dies else Faults()))
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(20):
        while run.status.totals.received < 2:
            await asyncio.sleep(0.002)
    meeting.waits = False
    meeting.committed.set()
    (error,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(error, Fatal) == dies
    if dies:
        await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert (letter.status, list(letter.owed)) == ("open", ["state"])
    await replay(pipeline)
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert (table.ids, sorted(set(shelf.ids)), shelf.ids.count("p0")) == (["p1", "p0"], ["p0", "p1"], 1)
    assert letter.status == "resolved"


async def test_a_letter_whose_event_its_ledger_has_already_is_resolved_and_not_delivered_twice(tmp_path: Path) -> None:
    bad, table = {"p0"}, Table(tmp_path / "t.db")

    def check(event: Event) -> Any:
        return Permanent("step.bad", "it is bad") if event.id in bad else event

    pipeline = make_pipeline(tmp_path, Feed.of({"n": 0}), sink("table", table), steps=[step("check", check)], dedup=dedup())
    await run_once(pipeline)
    bad.clear()
    for _ in range(2):
        await replay(pipeline)
        await run_once(pipeline)
        (letter,) = (await kept(pipeline)).letters
        assert (table.ids, letter.status) == (["p0"], "resolved")
        async with open_store(pipeline) as store:  # as one that is imported from elsewhere
            await store.set_status((await store.read_note()).epoch, [letter.id], "open")
