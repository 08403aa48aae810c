"""Native ranges of rows: what a table holds of a range of time, beside what the journal tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from backfill_parts import BEGAN, DAY, FRESH, desk_of, held, ids_in, native

import penstock
from penstock.config.model import Pipeline
from penstock.engine.carry_out import carry_out
from penstock.engine.run import RunOptions
from penstock.errors import EnvironmentFault, UsageError
from penstock.testing.servers import Database

PIPELINE = """\
pipeline: rows
source:
  postgres: {{ dsn: "{dsn}", table: orders, {source} }}
transforms:
  - {{ name: total, jq: '{{id: .id, total: (.n * 2)}}' }}
sinks:
  - {{ name: first, file: {{ path: out/first.jsonl }} }}
{more}"""
TABLE = """CREATE TABLE orders (id bigint PRIMARY KEY, n bigint NOT NULL, at timestamptz);
INSERT INTO orders SELECT i, i, '2026-03-01Z'::timestamptz + i * '1 minute'::interval FROM generate_series(1, 100) i"""

pytestmark = pytest.mark.usefixtures("here")


def write(database: Database, source: str = "time: at", more: str = "") -> Pipeline:
    file = Path("rows.yaml")
    file.write_text(PIPELINE.format(dsn=database.dsn, source=source, more=more))
    return penstock.load(file)


async def test_rows_are_chosen_by_their_time_and_known_to_the_journal(database: Database) -> None:
    database.execute(TABLE)
    pipeline = write(database)
    await penstock.run(pipeline, once=True)
    report = await native(pipeline, "shadow", start=BEGAN + 600, end=BEGAN + 1200)
    assert (report["verdict"], report["comparison"]["identical"], held(report)) == ("clean", 10, (10, 0, 0, 0))


async def test_what_was_changed_in_the_table_is_shown(database: Database) -> None:
    database.execute(TABLE)
    pipeline = write(database, more="journal: { outputs: full }\n")
    await penstock.run(pipeline, once=True)
    database.execute("UPDATE orders SET n = 1000 WHERE id = 42; UPDATE orders SET at = at + '1 day'::interval WHERE id = 7")
    report = await native(pipeline, "shadow")
    assert (held(report), report["comparison"]["changed"], report["comparison"]["identical"]) == ((100, 0, 2, 0), 2, 98)
    moved = await native(pipeline, start=BEGAN + DAY, end=BEGAN + 2 * DAY)
    assert held(moved) == (1, 0, 1, 0)


async def test_a_new_sink_gets_rows_without_a_journal_once_it_is_asked_for(database: Database) -> None:
    database.execute(TABLE + "; INSERT INTO orders VALUES (101, 101, NULL)")
    off = "journal: off\n"
    await penstock.run(write(database, more=off), once=True)
    pipeline = write(database, more=FRESH + off)
    async with desk_of(pipeline) as desk:
        asked = {"mode": "live", "source": "native", "start": BEGAN, "end": BEGAN + DAY, "sinks": ["fresh"]}
        with pytest.raises(UsageError, match="100 of 100 events"):
            await desk.create(pipeline, asked, "ann@here")
        job = await desk.create(pipeline, {**asked, "redeliver": True}, "ann@here")
        done = await carry_out(pipeline, job.id, RunOptions())
        report = desk.report(done, pipeline.name)
    assert (report["delivered"], held(report)) == (100, (100, 100, 0, 1))
    assert ids_in("fresh") == list(range(1, 101))


async def test_the_time_may_be_made_by_event_from_any_column(database: Database) -> None:
    database.execute(TABLE)
    pipeline = write(database, source="key: id")
    file = pipeline.file
    text = file.read_text().replace(
        "transforms:", '  event: { time: \'(.at | sub(" "; "T") | sub("[+]00$"; "Z"))\' }\ntransforms:'
    )
    file.write_text(text)
    pipeline = penstock.load(file)
    await penstock.run(pipeline, once=True)
    assert held(await native(pipeline, start=BEGAN + 600, end=BEGAN + 1200)) == (10, 0, 0, 0)


async def test_rows_without_any_time_have_no_range(database: Database) -> None:
    database.execute(TABLE)
    pipeline = write(database, source="key: id")
    await penstock.run(pipeline, once=True)
    with pytest.raises(EnvironmentFault) as caught:
        await native(pipeline)
    assert caught.value.code == "source.no_time"
