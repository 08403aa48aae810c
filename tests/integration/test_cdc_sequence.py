"""`order_by: $event.sequence` over changes of a database: what comes late changes nothing, though of the same transaction."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from backfill_parts import desk_of
from cdc_parts import ORDERS, events_of, make_source, prepare_slot, read, sql
from server_parts import MakeDatabase

from dlq.replay import replay
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.engine.carry_out import carry_out
from penstock.engine.embed import load, run
from penstock.engine.run import RunOptions
from penstock.faults import Faults
from penstock.journal.reader import JournalReader
from penstock.state.records import LetterQuery
from penstock.testing.servers import Database

PLAIN = "."
ODD = 'if .status == "two" then error("odd") else . end'


class Place:
    """A database whose changes go into a table elsewhere."""

    def __init__(self, shop: Database, warehouse: Database, kind: str, directory: Path) -> None:
        self.shop, self.warehouse, self.kind, self.directory = shop, warehouse, kind, directory

    def pipeline(self, program: str) -> Pipeline:
        table = {"table": "copy", "key": ["id"], "order_by": "$event.sequence", "create": True}
        where = {"path": f"{self.directory}/out.db"} if self.kind == "sqlite" else {"dsn": self.warehouse.dsn}
        delete = '$event.type == "orders.delete"'
        content: dict[str, Any] = {
            "pipeline": "shop",
            "source": {"postgres_cdc": {"dsn": self.shop.dsn, "tables": ["orders"]}},
            "transforms": [{"name": "check", "jq": program}],
            "sink": {self.kind: {**where, **table, "delete": delete}},
            "state": f"sqlite:{self.directory}/state",
        }
        file = self.directory / "shop.yaml"
        file.write_text(json.dumps(content))
        return load(file)

    def rows(self) -> list[tuple[Any, ...]]:
        query = "SELECT id, status FROM copy ORDER BY id"
        if self.kind == "postgres":
            return [tuple(row) for row in self.warehouse.execute(query)]
        with closing(sqlite3.connect(self.directory / "out.db")) as database:
            return database.execute(query).fetchall()

    async def once(self, program: str = PLAIN) -> None:
        await run(self.pipeline(program), once=True)

    async def replay(self) -> None:
        await replay(self.pipeline(PLAIN), LetterQuery(), clock=SystemClock(), faults=Faults())

    async def redeliver(self) -> dict[str, int]:
        """Everything that the journal holds, once more."""
        pipeline = self.pipeline(PLAIN)
        async with desk_of(pipeline) as desk:
            asked = {"mode": "live", "start": 0.0, "end": 1e11, "redeliver": True}
            identity = (await desk.create(pipeline, asked, "ann@here")).id
        return dict((await carry_out(pipeline, identity, RunOptions())).progress.counts)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, make_database: MakeDatabase, database: Database, tmp_path: Path) -> Place:
    warehouse = make_database(request.getfixturevalue("postgres"), prefix="house")
    return Place(database, warehouse, request.param, tmp_path)


async def test_a_replay_of_a_change_amid_its_transaction_changes_nothing(place: Place) -> None:
    await sql(place.shop, ORDERS)
    await sql(place.shop, "INSERT INTO orders VALUES (1, 'snapshot', ''), (2, 'snapshot', ''), (3, 'two', '')")
    await place.once(ODD)
    assert place.rows() == [(1, "snapshot"), (2, "snapshot")]
    steps = "; ".join(f"UPDATE orders SET status = '{status}' WHERE id = 1" for status in ("one", "two", "three"))
    await sql(
        place.shop, f"BEGIN; {steps}; UPDATE orders SET status = 'two' WHERE id = 2; DELETE FROM orders WHERE id = 2; COMMIT"
    )
    await sql(place.shop, "UPDATE orders SET status = 'paid' WHERE id = 3")
    await place.once(ODD)
    assert place.rows() == [(1, "three"), (3, "paid")]
    await place.replay()
    assert place.rows() == [(1, "three"), (3, "paid")]


async def test_a_backfill_of_everything_leaves_the_table_as_it_was(place: Place) -> None:
    await sql(place.shop, ORDERS)
    await sql(place.shop, "INSERT INTO orders VALUES (1, 'snapshot', ''), (2, 'snapshot', ''), (3, 'snapshot', '')")
    await place.once()
    await sql(place.shop, "UPDATE orders SET status = 'one' WHERE id = 1; UPDATE orders SET id = 4 WHERE id = 2")
    await sql(place.shop, "BEGIN; DELETE FROM orders WHERE id = 3; INSERT INTO orders VALUES (3, 'again', ''); COMMIT")
    await place.once()
    before = place.rows()
    assert before == [(1, "one"), (3, "again"), (4, "snapshot")]
    assert (await place.redeliver())["delivered"] == 8
    assert place.rows() == before
    journal = place.pipeline(PLAIN).journal
    assert journal is not None
    found = [record.line.received() for record in JournalReader(journal.directory).range(0.0, 1e11)]
    sequences = [event.extensions["sequence"] for event in found if event.extensions]
    assert (len(sequences), sequences) == (8, sorted(sequences))


async def test_where_nobody_asks_for_it_there_is_none_and_always_there_is(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    await prepare_slot(make_source(database, tmp_path))
    await sql(database, "INSERT INTO orders VALUES (1, 'new', ''), (2, 'new', '')")
    without, always = [events_of(await read(make_source(database, tmp_path, sequence=each))) for each in ("asked", "always")]
    assert [event.extensions for event in without] == [None, None]
    (lsn,) = {event.record["lsn"] for event in always}
    upper, lower = (int(part, 16) for part in lsn.split("/"))
    assert [event.extensions for event in always] == [
        {"sequence": f"0001-{upper << 32 | lower:016x}-{place:016x}"} for place in (3, 5)
    ]
