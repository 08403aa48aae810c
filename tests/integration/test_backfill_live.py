"""Live backfills: each sink gets an event once, whoever carries the job out."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from backfill_parts import (
    BEGAN,
    FRESH,
    STEPS,
    add_sink,
    ask,
    backfill,
    delivered,
    desk_of,
    ids_in,
    run_shop,
    write_events,
    write_shop,
)
from engine_parts import crash_at

import penstock
from dlq.replay import replay
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.engine.carry_out import carry_out
from penstock.engine.run import Run, RunOptions
from penstock.errors import PenstockError
from penstock.faults import Faults
from penstock.journal.reader import JournalReader
from penstock.state.records import LetterQuery

TABLE = "  - { name: table, sqlite: { path: out/shop.db, table: t, key: [id], create: true } }\n"
DEDUP = "dedup: { window: 1h, key: .data.n }\n"

pytestmark = pytest.mark.usefixtures("here")


def rows() -> list[tuple[int, int]]:
    with sqlite3.connect("out/shop.db") as database:
        return database.execute("SELECT id, total FROM t ORDER BY id").fetchall()


async def test_what_every_sink_had_it_does_not_get_again(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path)
    before = ids_in("all"), ids_in("even")
    counts = await backfill(pipeline)
    assert counts == {"held": 896, "filtered": 100, "received": 100, "letters": 4}
    assert (ids_in("all"), ids_in("even")) == before


@pytest.mark.parametrize("sink", [FRESH, TABLE])
async def test_a_new_sink_gets_what_the_others_had(tmp_path: Path, sink: str) -> None:
    await run_shop(tmp_path)
    before = ids_in("all")
    pipeline = add_sink(tmp_path, sink)
    counts = await backfill(pipeline)
    assert (counts["delivered"], counts["letters"]) == (896, 4)
    got = ids_in("fresh") if sink == FRESH else [row[0] for row in rows()]
    assert (got, ids_in("all")) == (delivered(), before)
    again = await backfill(pipeline)
    assert (again["held"], again.get("delivered", 0)) == (896, 0)
    assert (ids_in("fresh") if sink == FRESH else [row[0] for row in rows()]) == got


MENDED = STEPS[: STEPS.index("  - { name: check")]


async def replay_all(pipeline: Pipeline) -> None:
    await replay(pipeline, LetterQuery(), clock=SystemClock(), faults=Faults(), overwrite=True)


@pytest.mark.parametrize("sink", [FRESH, TABLE])
async def test_a_new_sink_gets_what_a_replay_delivered_to_the_others(tmp_path: Path, sink: str) -> None:
    await run_shop(tmp_path)
    await replay_all(write_shop(tmp_path, MENDED))
    before = ids_in("all")
    counts = await backfill(write_shop(tmp_path, MENDED, sink))
    assert counts == {"delivered": 900, "filtered": 100, "received": 1000}
    got = ids_in("fresh") if sink == FRESH else [row[0] for row in rows()]
    assert (got, ids_in("all")) == ([n for n in range(1000) if n % 10 != 3], before)


@pytest.mark.parametrize(("sink", "replayed"), [(FRESH, 4), (TABLE, 0)])
async def test_a_sink_that_is_new_when_letters_are_replayed_gets_each_event_once(
    tmp_path: Path, sink: str, replayed: int
) -> None:
    """A letter is owed by a ledger: a sink with one of its own, which is new, the replay is not for."""
    await run_shop(tmp_path)
    pipeline = write_shop(tmp_path, MENDED, sink)
    await replay_all(pipeline)
    counts = await backfill(pipeline)
    assert (counts["delivered"], counts.get("held", 0)) == (900 - replayed, replayed)
    got = ids_in("fresh") if sink == FRESH else [row[0] for row in rows()]
    assert sorted(got) == [n for n in range(1000) if n % 10 != 3]
    assert (await backfill(pipeline))["held"] == 900


async def test_one_sink_alone_and_then_the_other(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=100)
    pipeline = add_sink(tmp_path, FRESH + FRESH.replace("fresh", "other"))
    assert (await backfill(pipeline, sinks=["fresh"]))["delivered"] == 90
    assert (ids_in("fresh"), ids_in("other")) == (delivered(100), [])
    assert (await backfill(pipeline, sinks=["fresh"]))["held"] == 90
    assert (await backfill(pipeline))["delivered"] == 90
    assert (ids_in("fresh"), ids_in("other"), ids_in("all")) == (delivered(100),) * 3
    assert (await backfill(pipeline))["held"] == 90


async def test_what_was_filtered_is_delivered_once_the_pipeline_lets_it_through(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=100)
    changed = write_shop(tmp_path, STEPS.replace(".n % 10 != 3", ".n % 10 != 3 or .n == 13"))
    assert (await backfill(changed))["delivered"] == 1
    assert (await backfill(changed)).get("delivered", 0) == 0
    assert ids_in("all") == [*delivered(100), 13]


async def test_redelivered_everything_comes_again(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, count=100)
    counts = await backfill(pipeline, redeliver=True)
    assert counts["delivered"] == 90
    assert ids_in("all") == delivered(100) * 2


ODD = STEPS.replace("{id: .n", '{id: (if .n == 8 then error("odd") else .n end)')


async def test_a_redelivery_that_failed_is_made_up_for_by_its_dead_letter_whatever_dedup_knows(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=20, more=DEDUP)
    assert (await backfill(write_shop(tmp_path, ODD, DEDUP), redeliver=True))["dead_lettered"] == 1
    await replay_all(write_shop(tmp_path, ODD, DEDUP))  # fails again, and is a redelivery still
    await replay_all(write_shop(tmp_path, STEPS, DEDUP))
    expected = delivered(20)
    assert ids_in("all") == [*expected, *(n for n in expected if n != 8), 8]


@pytest.mark.parametrize("sink", [FRESH, TABLE])
async def test_what_failed_on_its_way_to_a_new_sink_its_dead_letter_brings_there(tmp_path: Path, sink: str) -> None:
    await run_shop(tmp_path, count=20, more=DEDUP)
    before = ids_in("all")
    assert (await backfill(write_shop(tmp_path, ODD, sink + DEDUP)))["dead_lettered"] == 1
    await replay_all(write_shop(tmp_path, STEPS, sink + DEDUP))
    got = ids_in("fresh") if sink == FRESH else [row[0] for row in rows()]
    assert (sorted(got), ids_in("all")) == (delivered(20), before)


async def test_the_filter_the_range_and_the_limit_narrow_it(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=100)
    pipeline = add_sink(tmp_path, FRESH)
    assert (await backfill(pipeline, filter=".data.n >= 90"))["left_out"] == 90
    assert ids_in("fresh") == [90, 91, 92, 94, 95, 96, 97, 98, 99]
    await backfill(pipeline, end=BEGAN + 5 * 60)
    assert ids_in("fresh")[9:] == [0, 1, 2, 4]
    await backfill(pipeline, limit=10)
    assert ids_in("fresh")[13:] == [5, 6, 7, 8, 9]


async def test_an_event_that_fails_now_is_a_dead_letter_of_the_job(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=100)
    changed = write_shop(tmp_path, STEPS.replace("{id: .n", '{id: (if .n == 50 then error("odd") else .n end)'))
    pipeline = add_sink(tmp_path, FRESH)
    assert changed.name == pipeline.name
    counts = await backfill(pipeline)
    assert (counts["delivered"], counts["dead_lettered"]) == (89, 1)
    async with desk_of(pipeline) as desk:
        found, _ = await desk.store.letters(LetterQuery(code="jq.error"))
    (letter,) = found
    assert (letter.status, letter.step) == ("open", "total")
    assert 50 not in ids_in("fresh")
    again = await backfill(pipeline)
    assert (again["letters"], again["held"], len(ids_in("fresh"))) == (1, 89, 89)


async def test_a_live_run_carries_it_out_beside_its_own_work(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=500)
    file = tmp_path / "shop.yaml"
    file.write_text(file.read_text().replace("paths: [in.jsonl]", "paths: [in.jsonl], follow: true") + FRESH)
    pipeline = penstock.load(file)
    run = Run(pipeline, RunOptions())
    running = asyncio.create_task(run.execute())
    try:
        while run.status.phase != "running":
            await asyncio.sleep(0.01)
        job = await ask(pipeline)
        write_more(tmp_path, 500, 1000)
        async with desk_of(pipeline) as desk:
            async with asyncio.timeout(60):
                while (await desk.store.jobs.find(job)).open or run.status.counts.received < 500:
                    await asyncio.sleep(0.02)
    finally:
        run.stop()
        await running
    assert Counter(ids_in("fresh")) == Counter(delivered())
    assert [n for n in ids_in("fresh") if n < 500] == delivered(500)
    assert [n for n in ids_in("fresh") if n >= 500] == [n for n in delivered() if n >= 500]
    assert ids_in("all") == delivered()


def write_more(project: Path, first: int, end: int) -> None:
    """Events from one number to another, behind those that are there."""
    more = project / "more"
    more.mkdir()
    write_events(more, end)
    with (project / "in.jsonl").open("a") as file:
        file.writelines((more / "in.jsonl").read_text().splitlines(keepends=True)[first:])


async def test_the_journal_says_what_a_job_was_for(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=20)
    pipeline = add_sink(tmp_path, FRESH)
    job = await ask(pipeline)
    await carry_out(pipeline, job, RunOptions())
    assert pipeline.journal is not None
    said = [record.line for record in JournalReader(pipeline.journal.directory).outcomes_of_jobs()]
    assert Counter((line.job, line.sinks and tuple(line.sinks), line.outcome) for line in said) == {
        (job, ("fresh",), "delivered"): 18,
        (job, None, "filtered"): 2,
    }


async def test_another_version_than_was_asked_for_fails_the_job(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, count=20)
    job = await ask(pipeline)
    changed = write_shop(tmp_path, STEPS.replace("(.n * 2)", "(.n * 3)"))
    with pytest.raises(PenstockError) as failed:
        await carry_out(changed, job, RunOptions())
    assert failed.value.code == "backfill.changed"


@pytest.mark.parametrize("workers", [0, 2])
async def test_workers_make_the_same(tmp_path: Path, workers: int) -> None:
    await run_shop(tmp_path, count=200)
    pipeline = add_sink(tmp_path, FRESH + f"workers: {workers}\n")
    assert (await backfill(pipeline))["delivered"] == 180
    assert ids_in("fresh") == delivered(200)


def append(*numbers: int) -> None:
    with Path("in.jsonl").open("a") as file:
        file.writelines(f'{{"n": {n}, "who": "again", "at": "2026-03-01T00:00:00Z"}}\n' for n in numbers)


@pytest.mark.parametrize("sink", [FRESH, TABLE.replace("key: [id], ", "")])
async def test_a_repetition_that_a_new_sink_got_live_is_not_backfilled_again(tmp_path: Path, sink: str) -> None:
    await run_shop(tmp_path, more=DEDUP, count=20)
    file = tmp_path / "shop.yaml"
    file.write_text(file.read_text().replace(DEDUP, sink + DEDUP))
    pipeline = penstock.load(file)
    append(4, 5)
    await penstock.run(pipeline, once=True)
    await backfill(pipeline)
    append(6, 7)
    await penstock.run(pipeline, once=True)
    await backfill(pipeline)
    got = ids_in("fresh") if sink == FRESH else [row[0] for row in rows()]
    assert Counter(got) == Counter(delivered(20))
    assert ids_in("all") == delivered(20)


async def test_the_key_of_a_filtered_event_does_not_stand_in_its_way(tmp_path: Path) -> None:
    await run_shop(tmp_path, more=DEDUP, count=20)
    changed = write_shop(tmp_path, STEPS.replace(".n % 10 != 3", ".n % 10 != 3 or .n == 13"), DEDUP)
    assert (await backfill(changed))["delivered"] == 1
    append(13)
    summary = await penstock.run(changed, once=True)
    assert (summary.counts.deduplicated, ids_in("all").count(13)) == (1, 1)


async def test_what_another_job_delivered_before_a_crash_is_not_delivered_again(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=20)
    pipeline = add_sink(tmp_path, TABLE.replace("key: [id], ", ""))
    first, second = await ask(pipeline), await ask(pipeline)
    with pytest.raises(PenstockError, match="crashed at"):
        await carry_out(pipeline, second, RunOptions(faults=crash_at("before_job_note")))
    for job in (first, second):
        assert (await carry_out(pipeline, job, RunOptions())).state == "done"
    assert [row[0] for row in rows()] == delivered(20)
    assert ids_in("all") == delivered(20)


UNKEYED = TABLE.replace("key: [id], ", "")


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
async def test_what_a_job_delivered_that_does_not_go_on_after_a_crash_is_remembered(tmp_path: Path, ending: str) -> None:
    await run_shop(tmp_path, count=20)
    pipeline = add_sink(tmp_path, UNKEYED)
    job = await ask(pipeline)
    with pytest.raises(PenstockError, match="crashed at"):
        await carry_out(pipeline, job, RunOptions(faults=crash_at("before_job_note", 2)))
    had = len(rows())
    if ending == "cancelled":
        async with desk_of(pipeline) as desk:
            await desk.store.jobs.cancel(job)
        assert (await carry_out(pipeline, job, RunOptions())).state == "cancelled"
    else:
        write_shop(tmp_path, STEPS.replace("who: .who", "who: null"))
        pipeline = add_sink(tmp_path, UNKEYED)
        with pytest.raises(PenstockError, match="another version"):
            await carry_out(pipeline, job, RunOptions())
    counts = await backfill(pipeline)
    assert had > 1
    assert ([row[0] for row in rows()], counts["delivered"]) == (delivered(20), 18 - had)


async def test_a_crash_in_a_backfill_of_one_sink_keeps_nothing_from_another(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=20)
    pipeline = add_sink(tmp_path, UNKEYED + UNKEYED.replace("table,", "second,").replace("table: t", "table: u"))
    one, both = await ask(pipeline, sinks=["table"]), await ask(pipeline)
    with pytest.raises(PenstockError, match="crashed at"):
        await carry_out(pipeline, one, RunOptions(faults=crash_at("before_job_note")))
    for job in (both, one):
        assert (await carry_out(pipeline, job, RunOptions())).state == "done"
    with sqlite3.connect("out/shop.db") as database:
        second = [row[0] for row in database.execute("SELECT id FROM u ORDER BY id")]
    assert ([row[0] for row in rows()], second) == (delivered(20), delivered(20))
