"""Live backfills of a pipeline that parks: past events are in lanes, too, and none passes a head (rule 12)."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from backfill_parts import ask, backfill, desk_of, records_in
from engine_parts import crash_at

import penstock
from dlq.replay import replay
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.engine import parking
from penstock.engine.carry_out import carry_out
from penstock.engine.run import Run, RunOptions
from penstock.errors import PenstockError
from penstock.faults import Faults
from penstock.state.letter_desk import Act
from penstock.state.records import EVERY, DeadLetter, LetterQuery

FILE = {"name": "all", "file": {"path": "out/all.jsonl"}}
TABLE = {"name": "table", "sqlite": {"path": "out.db", "table": "t", "create": True}}
PLAIN = "."
ODD = 'if .n == 1 then error("odd") else . end'
"""Refuses event 1, the first of lane a."""

pytestmark = pytest.mark.usefixtures("here")


def write(program: str, *sinks: dict[str, Any], **more: Any) -> Pipeline:
    """The pipeline, whose lanes are those of `k`."""
    pipeline = {
        "pipeline": "orders",
        "source": {"file": {"paths": ["in.jsonl"]}, "event": {"partition_key": ".k"}},
        "transforms": [{"name": "check", "jq": program}],
        "sinks": list(sinks),
        "dead_letter": {"lane": "park"},
        **more,
    }
    Path("orders.yaml").write_text(json.dumps(pipeline))
    return penstock.load("orders.yaml")


def add(*keys: str | None) -> None:
    """Events with these keys, numbered on."""
    path = Path("in.jsonl")
    first = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as file:
        file.writelines(json.dumps({"n": n, "k": key}) + "\n" for n, key in enumerate(keys, first))


def lines(name: str) -> list[int]:
    return [record["n"] for record in records_in(name)]


def rows() -> list[int]:
    with closing(sqlite3.connect("out.db")) as database:
        return [n for (n,) in database.execute("SELECT n FROM t ORDER BY rowid")]


async def letters(pipeline: Pipeline) -> list[DeadLetter]:
    async with desk_of(pipeline) as desk:
        found, _ = await desk.store.letters(LetterQuery(status=("open", "parked", "replaying", "resolved", "discarded")))
    return sorted(found, key=lambda letter: letter.position)


async def statuses(pipeline: Pipeline) -> list[tuple[str, str | None]]:
    """In read order."""
    return [(letter.status, letter.lane) for letter in await letters(pipeline)]


async def replay_open(pipeline: Pipeline) -> None:
    await replay(pipeline, LetterQuery(status=("open",)), clock=SystemClock(), faults=Faults())


async def test_what_comes_behind_a_failure_in_its_lane_waits_and_is_released_in_order_to_the_sinks_it_was_for() -> None:
    add("b", "a", "a", "b", "a")
    await penstock.run(write(PLAIN, FILE), once=True)
    pipeline = write(ODD, FILE, TABLE)
    counts = await backfill(pipeline)
    assert (counts["delivered"], counts["dead_lettered"]) == (2, 3)
    assert rows() == [0, 3]
    assert await statuses(pipeline) == [("open", "a"), ("parked", "a"), ("parked", "a")]
    again = await backfill(pipeline)
    assert (again["letters"], again["held"]) == (3, 2)
    async with desk_of(pipeline) as desk:
        job = (await desk.store.jobs.latest())[-1].id
        told = [await desk.store.desk.history(letter.id) for letter in await letters(pipeline)]
    assert [[(each.what, each.detail["job"], each.detail["code"]) for each in one] for one in told] == [
        [("backfilled", job, code)] for code in ("jq.error", "lane.parked", "lane.parked")
    ]
    pipeline = write(PLAIN, FILE, TABLE)
    await replay_open(pipeline)
    assert rows() == [0, 3, 1, 2, 4]
    assert lines("all") == [0, 1, 2, 3, 4]
    assert {status for status, _ in await statuses(pipeline)} == {"resolved"}
    assert (await backfill(pipeline))["held"] == 5
    assert rows() == [0, 3, 1, 2, 4]


async def test_without_a_ledger_of_its_own_the_new_sink_alone_gets_what_is_released() -> None:
    add("b", "a", "a", None)
    await penstock.run(write(PLAIN, FILE), once=True)
    fresh = {"name": "fresh", "file": {"path": "out/fresh.jsonl"}}
    pipeline = write(ODD, FILE, fresh)
    await backfill(pipeline)
    assert lines("fresh") == [0, 3]
    assert [[(taken.sink, taken.output) for taken in letter.delivered] for letter in await letters(pipeline)] == [
        [("all", EVERY)]
    ] * 2
    await replay_open(write(PLAIN, FILE, fresh))
    assert (lines("fresh"), lines("all")) == ([0, 3, 1, 2], [0, 1, 2, 3])


async def test_a_past_event_joins_a_lane_that_live_work_holds_and_goes_ahead_where_it_was_before_the_head() -> None:
    add("a", "a", "a", "b")
    await penstock.run(write(PLAIN, FILE), once=True)
    head = write('if .n >= 4 then error("odd") else . end', FILE, TABLE)
    add("a", "b", "a")
    await penstock.run(head, once=True)
    assert await statuses(head) == [("open", "a"), ("open", "b"), ("parked", "a")]
    counts = await backfill(head)
    assert (counts["delivered"], counts["letters"], counts.get("dead_lettered", 0)) == (4, 3, 0)
    assert rows() == [0, 1, 2, 3]


async def test_the_failure_of_a_past_event_holds_what_comes_now_too() -> None:
    add("a", "a", "a")
    await penstock.run(write(PLAIN, FILE), once=True)
    pipeline = write(ODD, FILE, TABLE)
    await backfill(pipeline)
    add("a", "b")
    await penstock.run(pipeline, once=True)
    assert (rows(), lines("all")) == ([0, 4], [0, 1, 2, 4])
    assert await statuses(pipeline) == [("open", "a"), ("parked", "a"), ("parked", "a")]
    pipeline = write(PLAIN, FILE, TABLE)
    await replay_open(pipeline)
    assert (rows(), lines("all")) == ([0, 4, 1, 2, 3], [0, 1, 2, 4, 3])


async def test_later_jobs_wait_behind_what_an_earlier_one_left() -> None:
    add("a", "a", "a", "a")
    await penstock.run(write(PLAIN, FILE), once=True)
    pipeline = write(ODD, FILE, TABLE)
    assert (await backfill(pipeline, filter=".data.n < 2"))["dead_lettered"] == 1
    assert (await backfill(pipeline, filter=".data.n >= 2"))["dead_lettered"] == 2
    assert await statuses(pipeline) == [("open", "a"), ("parked", "a"), ("parked", "a")]
    async with desk_of(pipeline) as desk:
        head, *_ = await letters(pipeline)
        await desk.store.desk.discard([head.id], ["open"], Act("ann@here"))
    await penstock.run(pipeline, once=True)
    assert rows() == [0, 2, 3]


async def test_what_a_job_left_to_its_letter_nothing_of_its_lane_passes_when_the_letter_is_settled_before_the_job_goes_on() -> (
    None
):
    add("a", "a", "b", "b", "a", "a")
    await penstock.run(write(ODD, FILE), once=True)
    pipeline = write(PLAIN, FILE, TABLE, batching={"count": 3})
    job = await ask(pipeline)
    with pytest.raises(PenstockError, match="crashed at"):
        await carry_out(pipeline, job, RunOptions(faults=crash_at("after_job_note")))
    await replay_open(pipeline)
    counts = (await carry_out(pipeline, job, RunOptions())).progress.counts
    assert (rows(), counts["delivered"], counts["letters"]) == ([0, 2, 3], 3, 3)
    assert (await backfill(pipeline))["delivered"] == 3
    assert rows() == [0, 2, 3, 1, 4, 5]
    assert lines("all") == [0, 2, 3, 1, 4, 5]


@pytest.mark.parametrize("point", ["before_job_note", "after_job_note"])
async def test_what_a_claim_settled_without_a_line_in_the_journal_goes_to_a_new_sink_in_its_place(point: str) -> None:
    add("b", "a", "a", "b", "a")
    with closing(sqlite3.connect("out.db")) as database:
        database.executescript(
            "CREATE TABLE t (n INTEGER, k TEXT); CREATE TRIGGER one BEFORE INSERT ON t WHEN new.n = 1 "
            "BEGIN SELECT RAISE(ABORT, 'CHECK constraint failed: one'); END"
        )
    pipeline = write(PLAIN, TABLE)
    await penstock.run(pipeline, once=True)
    with closing(sqlite3.connect("out.db")) as database:
        database.execute("DROP TRIGGER one")
    with pytest.raises(PenstockError, match="crashed at"):
        await replay(pipeline, LetterQuery(status=("open",)), clock=SystemClock(), faults=crash_at(point))
    pipeline = write(PLAIN, TABLE, FILE)
    await penstock.run(pipeline, once=True)
    assert (rows(), lines("all")) == ([0, 3, 1, 2, 4], [])
    assert (await backfill(pipeline))["delivered"] == 5
    assert (rows(), lines("all")) == ([0, 3, 1, 2, 4], [0, 1, 2, 3, 4])
    assert (await backfill(pipeline))["held"] == 5


@pytest.mark.parametrize("sinks", [(TABLE,), (FILE, TABLE), (TABLE, {"name": "fresh", "file": {"path": "out/fresh.jsonl"}})])
@pytest.mark.parametrize("point", ["after_journal", "before_job_commit", "between_ledgers", "before_job_note", "after_job_note"])
async def test_a_crash_anywhere_loses_nothing_doubles_nothing_and_keeps_each_lane_in_order(
    sinks: tuple[dict[str, Any], ...], point: str
) -> None:
    add("b", "a", "a", "b", "a", "b")
    await penstock.run(write(PLAIN, {"name": "then", "file": {"path": "out/then.jsonl"}}), once=True)
    pipeline = write(ODD, *sinks, batching={"count": 3})
    job = await ask(pipeline)
    with pytest.raises(PenstockError, match="crashed at"):
        await carry_out(pipeline, job, RunOptions(faults=crash_at(point)))
    done = await carry_out(pipeline, job, RunOptions())
    assert (done.state, rows()) == ("done", [0, 3, 5])
    assert await statuses(pipeline) == [("open", "a"), ("parked", "a"), ("parked", "a")]
    await replay_open(write(PLAIN, *sinks, batching={"count": 3}))
    assert rows() == [0, 3, 5, 1, 2, 4]
    for sink in sinks:
        if "file" in sink:
            assert lines(sink["name"]) == [0, 3, 5, 1, 2, 4]


async def test_what_a_cancelled_job_parked_and_never_noted_the_next_one_brings() -> None:
    add("b", "a", "a", "b")
    await penstock.run(write(PLAIN, {"name": "then", "file": {"path": "out/then.jsonl"}}), once=True)
    pipeline = write(ODD, TABLE)
    job = await ask(pipeline)
    with pytest.raises(PenstockError, match="crashed at"):
        await carry_out(pipeline, job, RunOptions(faults=crash_at("before_job_note")))
    async with desk_of(pipeline) as desk:
        await desk.store.jobs.cancel(job)
    assert (await carry_out(pipeline, job, RunOptions())).state == "cancelled"
    assert await letters(pipeline) == []
    await backfill(pipeline)
    assert (rows(), await statuses(pipeline)) == ([0, 3], [("open", "a"), ("parked", "a")])


async def test_beside_a_live_run_no_lane_is_out_of_order() -> None:
    add(*"abab" * 20)
    await penstock.run(write(PLAIN, FILE), once=True)
    following = {"source": {"file": {"paths": ["in.jsonl"], "follow": True}, "event": {"partition_key": ".k"}}}
    pipeline = write(ODD, FILE, TABLE, batching={"count": 5}, **following)
    run = Run(pipeline, RunOptions())
    running = asyncio.create_task(run.execute())
    try:
        while run.status.phase != "running":
            await asyncio.sleep(0.01)
        job = await ask(pipeline)
        add(*"abab" * 5)
        async with desk_of(pipeline) as desk, asyncio.timeout(60):
            while (await desk.store.jobs.find(job)).open or run.status.counts.received < 20:
                await asyncio.sleep(0.02)
    finally:
        run.stop()
        await running
    assert [n for n in rows() if n < 80] == [n for n in range(80) if n % 2 == 0]
    pipeline = write(PLAIN, FILE, TABLE)
    await replay_open(pipeline)
    assert sorted(rows()) == sorted(lines("all")) == list(range(100))
    behind = rows()[rows().index(1) :]
    assert [n for n in behind if n % 2] == sorted(n for n in behind if n % 2)


@pytest.mark.parametrize("point", ["", "before_job_commit", "between_ledgers", "before_job_note"])
async def test_what_a_sink_refuses_holds_its_lane_in_the_very_transaction_that_it_came_in(point: str) -> None:
    add("b", "a", "a", "b", "a")
    await penstock.run(write(PLAIN, FILE), once=True)
    with closing(sqlite3.connect("out.db")) as database:
        database.execute("CREATE TABLE t (n INTEGER CHECK (n <> 1), k TEXT)")
    pipeline = write(PLAIN, FILE, TABLE)
    job = await ask(pipeline)
    if point:
        with pytest.raises(PenstockError, match="crashed at"):
            await carry_out(pipeline, job, RunOptions(faults=crash_at(point)))
    counts = (await carry_out(pipeline, job, RunOptions())).progress.counts
    assert (rows(), counts["dead_lettered"]) == ([0, 3], 3)
    assert [(letter.step, letter.status) for letter in await letters(pipeline)] == [
        ("table", "open"),
        ("lane", "parked"),
        ("lane", "parked"),
    ]
    with closing(sqlite3.connect("out.db")) as database:
        database.executescript("ALTER TABLE t RENAME TO u; CREATE TABLE t AS SELECT * FROM u; DROP TABLE u")
    await replay_open(pipeline)
    assert (rows(), lines("all")) == ([0, 3, 1, 2, 4], [0, 1, 2, 3, 4])


async def test_a_failure_without_a_key_is_a_dead_letter_in_no_lane_and_the_job_goes_on() -> None:
    add("a", None, None, "a")
    await penstock.run(write(PLAIN, FILE), once=True)
    pipeline = write(ODD, FILE, TABLE)
    counts = await backfill(pipeline)
    assert (counts["delivered"], counts["dead_lettered"], rows()) == (3, 1, [0, 2, 3])
    assert await statuses(pipeline) == [("open", None)]


async def test_a_job_that_would_hold_too_many_lanes_fails_and_the_run_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "Parking", partial(parking.Parking, most=1))
    add("a", "b", "c")
    await penstock.run(write(PLAIN, FILE), once=True)
    pipeline = write('error("odd")', FILE, TABLE, batching={"count": 1})
    with pytest.raises(PenstockError) as failed:
        await carry_out(pipeline, await ask(pipeline), RunOptions())
    assert failed.value.code == "lane.too_many"


async def test_other_lanes_than_those_that_are_parked_are_refused() -> None:
    add("a")
    await penstock.run(write(PLAIN, FILE), once=True)
    other = penstock.load(Path("orders.yaml"), overrides=["source.event.partition_key=.n"])
    pipeline = write(PLAIN, FILE, TABLE)
    with pytest.raises(PenstockError) as refused:
        async with desk_of(pipeline) as desk:
            await desk.create(other, {"mode": "live", "start": 0.0, "end": 1e11, "against": "x"}, "ann@here")
    assert refused.value.code == "lane.key_changed"
