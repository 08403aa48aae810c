"""Changes of a real database through whole pipelines, to a file and to a table."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest
from cdc_parts import ORDERS, sql
from server_parts import MakeDatabase

from dlq.replay import replay
from penstock.clock import SystemClock
from penstock.engine.embed import load, run
from penstock.engine.run import Run, RunOptions
from penstock.errors import PenstockError
from penstock.faults import Faults
from penstock.observe.metrics import render_metrics
from penstock.state.records import LetterQuery
from penstock.testing.servers import Database, PostgresServer

SOURCE = """
pipeline: shop-orders
source:
  postgres_cdc: {{ dsn: "{dsn}", tables: [orders] }}
  event: {{ type: '"order." + .op', subject: (.after // .before).id | tostring }}
state: sqlite:{directory}/state
"""
TO_FILE = "sink: {{ file: {{ path: {directory}/out.jsonl, format: cloudevents }} }}\n"
TO_TABLE = "sink: {{ sqlite: {{ path: {directory}/out.db, table: orders, key: [id], create: true }} }}\n"


def written(directory: Path, dsn: str, sink: str) -> Path:
    file = directory / "shop.yaml"
    file.write_text((SOURCE + sink).format(dsn=dsn, directory=directory))
    return file


async def test_changes_reach_a_file_once_over_several_runs(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    pipeline = load(written(tmp_path, database.dsn, TO_FILE))
    assert (await run(pipeline, once=True)).counts.received == 0
    await sql(database, "INSERT INTO orders VALUES (1, 'new', 'a'), (2, 'new', 'b')")
    assert (await run(pipeline, once=True)).counts.delivered == 2
    await sql(database, "UPDATE orders SET status = 'paid' WHERE id = 2; DELETE FROM orders WHERE id = 1")
    assert (await run(pipeline, once=True, max_events=1)).counts.delivered == 1
    assert (await run(pipeline, once=True)).counts.delivered == 1
    assert (await run(pipeline, once=True)).counts.received == 0
    events = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(event["type"], event["subject"], event["data"]) for event in events] == [
        ("order.insert", "1", {"id": 1, "status": "new", "body": "a"}),
        ("order.insert", "2", {"id": 2, "status": "new", "body": "b"}),
        ("order.update", "2", {"id": 2, "status": "paid", "body": "b"}),
        ("order.delete", "1", {"id": 1}),
    ]
    assert len({(event["source"], event["id"]) for event in events}) == 4


async def test_a_following_pipeline_fills_a_table_while_rows_are_written(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    pipeline = load(written(tmp_path, database.dsn, TO_TABLE))
    await run(pipeline, once=True)
    running = asyncio.create_task(run(pipeline, max_events=60))
    for first in range(1, 60, 10):
        await sql(database, f"INSERT INTO orders SELECT n, 'new', '' FROM generate_series({first}, {first + 9}) AS n")
    async with asyncio.timeout(30):
        summary = await running
    assert summary.counts.delivered == 60
    with sqlite3.connect(tmp_path / "out.db") as table:
        assert [row for (row,) in table.execute("SELECT id FROM orders ORDER BY id")] == list(range(1, 61))
    table.close()


@pytest.mark.parametrize("workers", [0, 1])
async def test_a_change_that_failed_in_a_step_is_replayed_with_all_that_its_envelope_is_made_of(
    database: Database, tmp_path: Path, workers: int
) -> None:
    await sql(database, ORDERS)
    file = written(tmp_path, database.dsn, TO_FILE)
    steps = "transforms: [jq: '. + { length: (.body | length) } | if .id == 2 then 1 + .status else . end']"
    file.write_text(f"{file.read_text()}workers: {workers}\n{steps}\n")
    await run(load(file), once=True)
    await sql(database, "INSERT INTO orders VALUES (1, 'new', 'a'), (2, 'new', 'b')")
    assert (await run(load(file), once=True)).counts.dead_lettered == 1
    file.write_text(file.read_text().replace("1 + .status", "."))
    done = await replay(load(file), LetterQuery(), clock=SystemClock(), faults=Faults(), progress=lambda *_: None)
    assert done.delivered == 1
    events = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(event["type"], event["subject"], event["data"]["length"]) for event in events] == [
        ("order.insert", "1", 1),
        ("order.insert", "2", 1),
    ]


async def test_a_quarantined_change_is_replayed_once_it_is_accepted(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    file = written(tmp_path, database.dsn, TO_FILE)
    file.write_text(file.read_text().replace("tables: [orders]", "tables: [orders], schema_change: quarantine"))
    pipeline = load(file)
    await run(pipeline, once=True)
    await sql(database, "INSERT INTO orders VALUES (1, 'new', 'a')")
    await run(pipeline, once=True)
    await sql(database, "ALTER TABLE orders ADD note text; INSERT INTO orders VALUES (2, 'new', 'b', 'n')")
    summary = await run(pipeline, once=True)
    assert (summary.counts.delivered, summary.counts.dead_lettered) == (0, 1)
    query = LetterQuery()
    still = await replay(pipeline, query, clock=SystemClock(), faults=Faults(), progress=lambda *_: None)
    assert (still.delivered, still.failed_again) == (0, 1)
    accepting = load(file, overrides=["source.postgres_cdc.schema_change=evolve"])
    done = await replay(accepting, query, clock=SystemClock(), faults=Faults(), progress=lambda *_: None)
    assert (done.delivered, done.failed_again) == (1, 0)
    events = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(event["type"], event["subject"], event["data"]) for event in events] == [
        ("order.insert", "1", {"id": 1, "status": "new", "body": "a"}),
        ("order.insert", "2", {"id": 2, "status": "new", "body": "b", "note": "n"}),
    ]


async def test_the_lag_of_the_slot_is_a_metric(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    clock = SystemClock()
    running = Run(load(written(tmp_path, database.dsn, TO_FILE)), RunOptions(clock=clock))
    task = asyncio.create_task(running.execute())
    try:
        async with asyncio.timeout(30):
            while b"penstock_source_slot_lag_bytes" not in (page := render_metrics([running.status], clock)):
                await asyncio.sleep(0.01)
    finally:
        running.stop()
        await task
    lines = dict(line.rsplit(" ", 1) for line in page.decode().splitlines() if line.startswith("penstock_source_s"))
    assert set(lines) == {
        f'penstock_source_{name}{{pipeline="shop-orders"}}'
        for name in (
            "slot_lag_bytes",
            "slot_lag_seconds",
            "slot_held_bytes",
            "schema_changes",
            "snapshot_rows",
            "snapshot_tables_left",
        )
    }
    assert 0 <= float(lines['penstock_source_slot_lag_bytes{pipeline="shop-orders"}']) < 1 << 20


async def test_another_server_in_the_place_of_the_source_stops_the_run(
    database: Database, make_database: MakeDatabase, postgres16: PostgresServer, tmp_path: Path
) -> None:
    await sql(database, ORDERS)
    await run(load(written(tmp_path, database.dsn, TO_FILE)), once=True)
    other = make_database(postgres16)
    await sql(other, ORDERS)
    with pytest.raises(PenstockError) as caught:
        await run(load(written(tmp_path, other.dsn, TO_FILE)), once=True)
    assert caught.value.code == "ledger.mismatch"
    assert await sql(other, f"SELECT count(*) FROM pg_replication_slots WHERE database = '{other.name}'") == [(0,)]
