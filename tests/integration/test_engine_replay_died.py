"""Replays that die (rule 10): each event is delivered once all the same, by the next one, the next run or the next claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_parts import Feed, Shelf, Table, TableSink, crash_at, dedup, make_pipeline, open_store, run_once, sink, step
from engine_parts import parts as parts
from engine_replay_parts import Check, again, numbers, said, statuses

from dlq.replay import summary_of
from penstock.errors import Fatal
from penstock.ledger import Counts


@pytest.mark.parametrize("kind", ["table", "tape"])
@pytest.mark.parametrize("point", ["before_sink_write", "after_sink_write", "before_commit", "before_note", "after_note"])
async def test_a_replay_that_dies_anywhere_delivers_once(tmp_path: Path, kind: str, point: str) -> None:
    feed, check = Feed.of(*numbers(3)), Check("p0", "p2")
    out: Any = Table(tmp_path / "t.db") if kind == "table" else Shelf()
    pipeline = make_pipeline(tmp_path, feed, sink("out", out, kind=kind), steps=[step("check", check)], dedup=dedup())
    await run_once(pipeline)
    check.refused.clear()
    with pytest.raises(Fatal, match="crashed at"):
        await again(pipeline, faults=crash_at(point))
    await run_once(pipeline)  # its claim settles what the replay delivered
    left = [status for status, _, _ in (await statuses(pipeline)).values()]
    await again(pipeline)
    assert sorted(out.ids) == ["p0", "p1", "p2"]
    assert {status for status, _, _ in (await statuses(pipeline)).values()} == {"resolved"}
    assert set(left) <= {"open", "resolved"}


async def test_what_a_dead_replay_delivered_is_resolved_by_the_next_claim(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*numbers(2)), Table(tmp_path / "t.db"), Check("p1")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)])
    await run_once(pipeline)
    check.refused.clear()
    with pytest.raises(Fatal):
        await again(pipeline, faults=crash_at("before_note"))
    assert await statuses(pipeline) == {"p1": ("replaying", 1, ["table"])}
    await run_once(pipeline)
    assert (table.ids, await statuses(pipeline)) == (["p0", "p1"], {"p1": ("resolved", 1, [])})
    async with open_store(pipeline) as store:
        assert await store.jobs.open_ones() == []


async def test_the_records_of_a_replay_that_died_at_its_very_end_go_with_the_next_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, check = Table(tmp_path / "t.db"), Check("p1")
    pipeline = make_pipeline(tmp_path, Feed.of(*numbers(2)), sink("table", table), steps=[step("check", check)])
    await run_once(pipeline)
    check.refused.clear()

    async def dies(self: TableSink, job: str) -> None:
        raise Fatal("test.crash", "crashed at the end")

    with monkeypatch.context() as patch:
        patch.setattr(TableSink, "forget_jobs", dies)
        with pytest.raises(Fatal):
            await again(pipeline)
    assert table.query("SELECT event FROM penstock_job_records") != []
    await run_once(pipeline)
    assert table.query("SELECT event FROM penstock_job_records") == []


async def test_the_next_run_goes_on_with_a_replay_that_died(tmp_path: Path) -> None:
    feed, table, check = Feed.of(*numbers(3)), Table(tmp_path / "t.db"), Check("p1", "p2")
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[step("check", check)])
    await run_once(pipeline)
    with pytest.raises(Fatal):
        await again(pipeline, faults=crash_at("before_sink_write"))
    check.refused = {"p2"}
    assert (await run_once(pipeline)).counts == Counts()
    assert await statuses(pipeline) == {"p1": ("resolved", 1, ["table"]), "p2": ("open", 2, ["table"])}
    assert table.ids == ["p0", "p1"]
    async with open_store(pipeline) as store:
        (job,) = await store.jobs.latest()
    assert (job.state, job.progress.done, job.progress.total) == ("done", 2, 2)
    assert said(summary_of(job)) == (2, 1, 0, 0, 1)


@pytest.mark.parametrize("positions", [True, False])
async def test_a_replay_that_dies_between_two_ledgers_still_delivers_to_the_second(tmp_path: Path, positions: bool) -> None:
    feed, check = Feed.of(*numbers(3), positions=positions), Check("p1")
    table, tape = Table(tmp_path / "t.db"), Shelf()
    pipeline = make_pipeline(
        tmp_path, feed, sink("table", table), sink("tape", tape, "tape"), steps=[step("check", check)], dedup=dedup()
    )
    await run_once(pipeline)
    check.refused.clear()
    with pytest.raises(Fatal, match="crashed at"):
        await again(pipeline, faults=crash_at("before_job_note"))
    await run_once(pipeline)
    assert table.ids == tape.ids == ["p0", "p2", "p1"]
    assert {status for status, _, _ in (await statuses(pipeline)).values()} == {"resolved"}
