"""Live backfills through the steps of another version: what they make goes to today's sinks, by name."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from backfill_parts import BEGAN, DAY, FRESH, STEPS, ask, backfill, desk_of, records_in, run_shop, write_shop
from engine_parts import crash_at

import penstock
from penstock.config.model import Pipeline
from penstock.engine.carry_out import carry_out
from penstock.engine.run import Run, RunOptions
from penstock.errors import PenstockError, UsageError
from penstock.journal.reader import JournalReader
from penstock.state.records import LetterQuery

OTHER = STEPS.replace("(.n * 2)", "(.n * 3)")
TABLE = "  - { name: table, sqlite: { path: out/shop.db, table: t, create: true } }\n"

pytestmark = pytest.mark.usefixtures("here")


def totals(name: str) -> list[tuple[int, int]]:
    """What a file sink has, in order."""
    return [(record["id"], record["total"]) for record in records_in(name)]


def expected(count: int, factor: int) -> list[tuple[int, int]]:
    return [(n, n * factor) for n in range(count) if n % 10 != 3]


def beside(steps: str, more: str = "") -> Pipeline:
    """Another file, whose version never runs."""
    Path("next").mkdir(exist_ok=True)
    return write_shop(Path("next").absolute(), steps, more)


async def test_a_version_that_ran_before_makes_what_a_new_sink_gets(tmp_path: Path) -> None:
    old = await run_shop(tmp_path, count=20)
    today = write_shop(tmp_path, OTHER, FRESH)
    assert (await backfill(today, old))["held"] == 18  # the version has no route to the new sink
    old_with = write_shop(tmp_path, STEPS, FRESH)
    await penstock.run(old_with, once=True)
    today = write_shop(tmp_path, OTHER, FRESH)
    assert (await backfill(today, old_with))["delivered"] == 18
    assert (totals("fresh"), totals("all")) == (expected(20, 2), expected(20, 2))


@pytest.mark.parametrize("workers", [0, 2])
async def test_a_file_that_never_ran_delivers_and_its_version_is_what_the_journal_and_the_letters_name(
    tmp_path: Path, workers: int
) -> None:
    await run_shop(tmp_path, count=20)
    today = write_shop(tmp_path, STEPS, FRESH + f"workers: {workers}\n")
    failing = OTHER.replace("{id: .n", '{id: (if .n == 5 then error("odd") else .n end)')
    steps = beside(failing, FRESH)
    counts = await backfill(today, steps)
    assert (counts["delivered"], counts["dead_lettered"]) == (17, 1)
    assert totals("fresh") == [each for each in expected(20, 3) if each[0] != 5]
    assert totals("all") == expected(20, 2)
    assert today.journal is not None
    said = [record.line for record in JournalReader(today.journal.directory).outcomes_of_jobs()]
    assert Counter((line.version, line.outcome) for line in said) == {
        (steps.version[:16], "delivered"): 17,
        (steps.version[:16], "filtered"): 2,
        (steps.version[:16], "dead_lettered"): 1,
    }
    async with desk_of(today) as desk:
        (letter,), _ = await desk.store.letters(LetterQuery())
        assert letter.version == steps.version
        assert steps.version in [version.version for version in await desk.store.versions()]
    assert (await backfill(today, steps)).get("delivered", 0) == 0


async def test_sinks_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=20)
    today = write_shop(tmp_path, STEPS, FRESH)
    steps = beside(OTHER, FRESH)
    file = steps.file
    first, second = (line for line in file.read_text().splitlines(keepends=True) if "name: even" in line or "name: all" in line)
    file.write_text(file.read_text().replace(first + second, second + first))
    steps = penstock.load(file)
    assert (await backfill(today, steps, redeliver=True))["delivered"] == 18
    assert [n for n, _ in totals("even")[10:]] == [n for n, total in expected(20, 3) if n % 2 == 0]
    assert totals("all")[18:] == totals("fresh") == expected(20, 3)


async def test_a_route_to_a_sink_that_is_gone_is_refused_by_its_name(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=20)
    today = write_shop(tmp_path, STEPS)
    steps = beside(OTHER, FRESH)
    with pytest.raises(UsageError, match="routes to fresh, which shop does not have") as refused:
        await ask(today, steps)
    assert refused.value.code == "backfill.unknown_sink"
    with pytest.raises(UsageError, match="no sink is called 'fresh'"):
        await ask(today, steps, sinks=["fresh"])
    with pytest.raises(UsageError, match="has no sink 'fresh', and so nothing for it"):
        await ask(write_shop(tmp_path, STEPS, FRESH), beside(OTHER), sinks=["fresh"])
    async with desk_of(today) as desk:
        assert await desk.store.jobs.latest() == []
    assert (await backfill(today, beside(OTHER, FRESH), sinks=["all"], redeliver=True))["delivered"] == 18


async def test_a_sink_that_goes_before_the_job_begins_fails_it(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=20)
    today, steps = write_shop(tmp_path, STEPS, FRESH), beside(OTHER, FRESH)
    job = await ask(today, steps)
    with pytest.raises(PenstockError) as failed:
        await carry_out(write_shop(tmp_path, STEPS), job, RunOptions())
    assert failed.value.code == "backfill.unknown_sink"


async def test_other_ids_are_refused(tmp_path: Path) -> None:
    await run_shop(tmp_path, more="dedup: { window: 1h }\n", count=20)
    today = write_shop(tmp_path, STEPS, FRESH + "dedup: { window: 1h }\n")
    file = beside(OTHER, FRESH + "dedup: { window: 1h }\n").file
    file.write_text(file.read_text().replace("{ type: order,", "{ type: order, id: .who,"))
    with pytest.raises(PenstockError) as failed:
        await carry_out(today, await ask(today, penstock.load(file)), RunOptions())
    assert failed.value.code == "replay.other_keys"


async def test_steps_whose_secret_nobody_has_deliver_nothing(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=20)
    hide = "  - { name: hide, redact: { fields: [.who], with: hash, key: the-secret-of-the-shop } }\n"
    hidden = OTHER + hide
    steps = beside(hidden, FRESH)
    with pytest.raises(UsageError) as refused:
        await ask(write_shop(tmp_path, STEPS, FRESH), steps)
    assert refused.value.code == "version.no_secret"
    assert (await backfill(write_shop(tmp_path, hidden.replace("* 3", "* 2"), FRESH), steps))["delivered"] == 18
    assert totals("fresh") == expected(20, 3)


async def test_what_nobody_has_let_through_delivers_nothing(tmp_path: Path) -> None:
    old = await run_shop(tmp_path, count=20)
    today = write_shop(tmp_path, STEPS, "promote: required\n")
    steps = beside(OTHER)
    with pytest.raises(UsageError, match="nobody has let this version") as refused:
        await ask(today, steps)
    assert refused.value.code == "version.not_promoted"
    async with desk_of(today) as desk:
        shadow = await desk.create(steps, {"mode": "shadow", "start": BEGAN, "end": BEGAN + DAY}, "ann@here")
        shadow = await desk.carry_out(shadow, steps, 0, lambda job: None)
        await desk.promote(shadow, steps, "ann@here", accept=True)
    assert (await backfill(today, steps, redeliver=True))["delivered"] == 18
    assert (await backfill(today, old, redeliver=True))["delivered"] == 18  # it ran before


async def test_killed_before_its_note_it_goes_on_and_every_row_is_there_once(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=20)
    today, steps = write_shop(tmp_path, STEPS, TABLE), beside(OTHER, TABLE)
    job = await ask(today, steps)
    with pytest.raises(PenstockError, match="crashed at"):
        await carry_out(today, job, RunOptions(faults=crash_at("before_job_note")))
    assert (await carry_out(today, job, RunOptions())).state == "done"
    with sqlite3.connect("out/shop.db") as database:
        assert database.execute("SELECT id, total FROM t ORDER BY id").fetchall() == expected(20, 3)


async def test_a_job_that_is_cancelled_after_a_crash_names_its_version_too(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=20)
    today, steps = write_shop(tmp_path, STEPS, TABLE), beside(OTHER, TABLE)
    job = await ask(today, steps)
    with pytest.raises(PenstockError, match="crashed at"):
        await carry_out(today, job, RunOptions(faults=crash_at("before_job_note")))  # behind a portion of one event
    async with desk_of(today) as desk:
        await desk.store.jobs.cancel(job)
    assert (await carry_out(today, job, RunOptions())).state == "cancelled"
    assert today.journal is not None
    said = [record.line for record in JournalReader(today.journal.directory).outcomes_of_jobs()]
    assert Counter((line.version, line.outcome) for line in said) == {(steps.version[:16], "delivered"): 1}
    assert (await backfill(today, steps))["delivered"] == 17


async def test_a_live_run_carries_it_out_whatever_its_own_version_is(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=200)
    file = tmp_path / "shop.yaml"
    file.write_text(file.read_text().replace("paths: [in.jsonl]", "paths: [in.jsonl], follow: true") + FRESH)
    run = Run(penstock.load(file), RunOptions())
    running = asyncio.create_task(run.execute())
    try:
        while run.status.phase != "running":
            await asyncio.sleep(0.01)
        today = write_shop(tmp_path, STEPS.replace("(.n * 2)", "(.n * 5)"), FRESH)  # since the run began
        steps = beside(OTHER, FRESH)
        job = await ask(today, steps)
        steps.file.write_text("changed since")
        async with desk_of(today) as desk, asyncio.timeout(60):
            while (found := await desk.store.jobs.find(job)).open:
                await asyncio.sleep(0.02)
    finally:
        run.stop()
        await running
    assert (found.state, found.progress.counts["delivered"]) == ("done", 180)
    assert totals("fresh") == expected(200, 3)
