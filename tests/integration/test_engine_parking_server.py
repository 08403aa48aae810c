"""Parked lanes and retries of runs whose state is in a PostgreSQL server: as over a file, beside live events, whatever dies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Shelf, Table, crash_at, dedup, finish, make_pipeline, run_once, sink, step
from engine_parts import parts as parts

from dlq.replay import ReplayRequest, create_replay
from penstock.config.model import Batching, DeadLetters, EventFields, Pipeline
from penstock.config.secret import Secret
from penstock.engine import jobs as engine_jobs
from penstock.engine.carry_out import open_state
from penstock.engine.run import Run, RunOptions
from penstock.errors import Fatal, Permanent
from penstock.event import Event
from penstock.state.letter_desk import Act
from penstock.state.records import LetterQuery
from penstock.testing.clock import FakeClock
from penstock.testing.servers import Database

PARK = DeadLetters(lane="park", retry=(5.0,))


class Check:
    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)

    def __call__(self, event: Event) -> Any:
        return Permanent("step.bad", f"{event.id} is bad") if event.id in self.refused else event


def records(*keys: str, first: int = 0) -> list[dict[str, Any]]:
    return [{"n": n, "k": key} for n, key in enumerate(keys, first)]


def pipeline_of(directory: Path, feed: Feed, check: Check, database: Database, table: Table, shelf: Shelf) -> Pipeline:
    return make_pipeline(
        directory, feed, sink("table", table), sink("tape", shelf, "tape"), steps=[step("check", check)], dead_letter=PARK,
        event=EventFields(partition_key=".k"), batching=Batching(count=2), state_server=Secret(database.dsn),
        dedup=None if feed.positions else dedup(),
    )  # fmt: skip


async def statuses(pipeline: Pipeline) -> dict[str, str]:
    async with open_state(pipeline, RunOptions()) as (store, _):
        letters, _ = await store.letters(LetterQuery(status=()))
        return {letter.event_id: letter.status for letter in letters}


async def discard(pipeline: Pipeline, event: str) -> None:
    async with open_state(pipeline, RunOptions()) as (store, _):
        letters, _ = await store.letters(LetterQuery())
        ids = [letter.id for letter in letters if letter.event_id == event]
        assert await store.desk.discard(ids, ["open"], Act("ann@here")) == ids


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("point", ["before_commit", "before_job_commit", "between_ledgers", "before_job_note", "after_job_end"])
async def test_a_lane_is_released_once_and_in_order_whatever_dies(
    tmp_path: Path, point: str, positions: bool, database: Database
) -> None:
    feed = Feed.of(*records("a", "a", "b", "a"), batch=4, positions=positions)
    check, table, shelf = Check("p0"), Table(tmp_path / "t.db"), Shelf()
    pipeline = pipeline_of(tmp_path, feed, check, database, table, shelf)
    await run_once(pipeline)
    assert await statuses(pipeline) == {"p0": "open", "p1": "parked", "p3": "parked"}
    await discard(pipeline, "p0")
    feed.add(*records("a", "b", first=4))
    with pytest.raises(Fatal, match="crashed at"):
        await run_once(pipeline, faults=crash_at(point))
    await run_once(pipeline)
    for ids in (table.ids, shelf.ids):
        assert [name for name in ids if name not in ("p2", "p5")] == ["p1", "p3", "p4"]
        assert sorted(ids) == ["p1", "p2", "p3", "p4", "p5"]


async def test_a_head_is_retried_over_a_server_and_its_lane_released(tmp_path: Path, database: Database) -> None:
    feed, check, table, clock = Feed.of(*records("a", "a")), Check("p0"), Table(tmp_path / "t.db"), FakeClock()
    pipeline = pipeline_of(tmp_path, feed, check, database, table, Shelf())
    await run_once(pipeline, clock=clock)
    check.refused.clear()
    await run_once(pipeline, clock=clock)
    assert table.ids == []
    clock.jump(5)
    await run_once(pipeline, clock=clock)
    assert table.ids == ["p0", "p1"]


async def test_events_of_a_lane_that_come_while_it_is_released_neither_pass_nor_are_lost(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_jobs, "TICK", 0.02)
    feed, check = Feed.of(*records("a", *["a"] * 9), batch=2), Check("p0")
    table, shelf = Table(tmp_path / "t.db"), Shelf()
    pipeline = pipeline_of(tmp_path, feed, check, database, table, shelf)
    run = Run(pipeline, RunOptions())
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(60):
        while run.status.counts.received < 10:
            await asyncio.sleep(0.005)
        check.refused.clear()
        async with open_state(pipeline, RunOptions()) as (store, assembly):
            await create_replay(store, assembly, ReplayRequest(query=LetterQuery(status=("open",))), "ann@here")
        for n in range(10, 40):
            feed.add(*records("a", first=n))
            await asyncio.sleep(0.01)
        while len(table.ids) < 40 or len(shelf.ids) < 40:
            assert not task.done()
            await asyncio.sleep(0.01)
    run.stop()
    await finish(task)
    assert table.ids == shelf.ids == [f"p{n}" for n in range(40)]
    assert set((await statuses(pipeline)).values()) == {"resolved"}
