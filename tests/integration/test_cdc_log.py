"""What a run's log is told: tables that change their shape, snapshots that begin, go on and end. Lines, not events."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import make_source, sql
from cdc_snapshot_parts import Ledger, Running, drive, snapshots_of

from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.engine.embed import load, run
from penstock.errors import EnvironmentFault
from penstock.observe.log import Incident
from penstock.spi import Signal
from penstock.testing.contracts import make_context
from penstock.testing.servers import Database
from transforms.expressions import compiler

ORDERS = (
    "CREATE TABLE orders (id int PRIMARY KEY, mail text); INSERT INTO orders SELECT n, 'm' || n FROM generate_series(1, 10) AS n"
)
PIPELINE = """
pipeline: shop
source: {{ postgres_cdc: {{ dsn: "{dsn}", tables: [orders], schema_change: {policy} }} }}
sink: {{ file: {{ path: {directory}/out.jsonl }} }}
state: sqlite:{directory}/state
"""


class Lines:
    """Takes what a component writes to its log."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str]] = []

    def __call__(self, code: str, message: str, /, **_: Any) -> None:
        self.written.append((code, message))


def logging_source(database: Database, directory: Path, lines: Lines, **fields: Any) -> PostgresCdcSource:
    plain = make_source(database, directory, **{"snapshot": {"mode": "initial"}, **fields})
    given = {**json.loads(plain.config.model_dump_json(exclude_unset=True)), "dsn": database.dsn}
    context = make_context(directory, component="source", expressions=compiler(), log=lines)
    source = PostgresCdcSource(PostgresCdcSource.Config.model_validate_json(json.dumps(given)), context)
    source.batch_count = 4
    return source


@pytest.mark.parametrize("policy", ["evolve", "quarantine", "freeze"])
async def test_a_table_that_changes_its_shape_is_a_line_of_the_log(database: Database, tmp_path: Path, policy: str) -> None:
    await sql(database, ORDERS)
    file = tmp_path / "shop.yaml"
    file.write_text(PIPELINE.format(dsn=database.dsn, directory=tmp_path, policy=policy))
    await run(load(file), once=True)
    await sql(database, "INSERT INTO orders VALUES (11, 'secret@shop.example')")
    await sql(database, "ALTER TABLE orders ADD note text; ALTER TABLE orders DROP mail; INSERT INTO orders VALUES (12), (13)")
    incidents: list[Incident] = []
    if policy == "freeze":
        with pytest.raises(EnvironmentFault):
            await run(load(file), once=True, log=incidents.append)
    else:
        await run(load(file), once=True, log=incidents.append)
    told = [incident for incident in incidents if incident.code == "source.table_changed"]
    expected = "table public.orders has added note (text); dropped mail: (id, mail) → (id, note)"
    assert [incident.message for incident in told] == [expected] * (policy != "freeze")
    assert {(one.pipeline, one.where, one.level) for one in told} <= {
        ("shop", "source", "info" if policy == "evolve" else "warning")
    }


async def test_a_run_that_goes_on_with_a_snapshot_says_where(database: Database, tmp_path: Path) -> None:
    await sql(database, f"{ORDERS}; CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (1)")
    ledger, first, second, third = Ledger(), Lines(), Lines(), Lines()
    fields: dict[str, Any] = {"tables": ["orders", "items"], "snapshot": {"mode": "initial", "batch_rows": 4}}

    def second_chunk(batch: Any) -> bool:
        return bool(batch.events) and batch.events[-1].data == {"id": 8, "mail": "m8"}

    await drive(logging_source(database, tmp_path, first, **fields), [ledger], 1, stop_at=second_chunk)
    (snapshot,) = {event.id.rpartition("-")[0] for event in snapshots_of(ledger)}
    assert first.written == [
        ("snapshot.begun", f"the snapshot {snapshot} reads public.items, public.orders"),
        ("snapshot.given", f"the snapshot {snapshot} of public.items is done: 1 rows in this run"),
    ]
    await drive(logging_source(database, tmp_path, second, **fields), [ledger], 2)
    assert second.written == [
        ("snapshot.resumed", f"the snapshot {snapshot} goes on: public.orders behind chunk 2; 1 of its tables are done"),
        ("snapshot.given", f"the snapshot {snapshot} of public.orders is done: 2 rows in this run"),
    ]
    await drive(logging_source(database, tmp_path, third, **fields), [ledger], 3)
    assert third.written == []


async def test_a_snapshot_that_is_asked_for_is_told(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    lines = Lines()
    source = logging_source(database, tmp_path, lines, snapshot={"mode": "never"})
    async with Running(source, Ledger()) as running:
        asking = asyncio.create_task(source.signal(Signal(4, "snapshot", ("orders",))))
        await running.until(lambda batch: batch.partition == "snapshots-asked")
        await asking
        await running.finish()
    assert lines.written == [
        ("snapshot.begun", "the snapshot signal-4 reads public.orders"),
        ("snapshot.given", "the snapshot signal-4 of public.orders is done: 10 rows in this run"),
    ]
