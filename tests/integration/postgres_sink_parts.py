"""What tests of the postgres sink share: sinks on a database, and its one row."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pgoutput_parts import CASES
from server_parts import MakeDatabase

from connectors._pg_types import SESSION_SETTINGS, TYPES_QUERY, NumericMode, TypeCatalog
from connectors.sinks.postgres import PostgresSink
from penstock.clock import SystemClock
from penstock.faults import Faults
from penstock.ledger import Claimant
from penstock.spi import Context
from penstock.testing.servers import Database
from transforms.expressions import compiler

ORDERS = "CREATE TABLE orders (id text PRIMARY KEY, price numeric NOT NULL CHECK (price > 0), qty int DEFAULT 7, note text)"
COLUMNS = [f"c{n}" for n in range(len(CASES))]
"""Of a table with a column of each type of `CASES`."""


class Bench:
    """A database, and the sinks that a test opens on it."""

    def __init__(self, database: Database, project: Path) -> None:
        self.database = database
        self.project = project
        self.sinks: list[PostgresSink] = []
        self.faults = Faults()

    async def sql(self, text: str) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self.database.execute, text)

    async def sink(self, *, epoch: int = 1, claim: bool = True, dsn: str | None = None, **config: Any) -> PostgresSink:
        values = {"dsn": dsn or self.database.dsn, "table": "orders"} | config
        context = Context(
            "orders", "warehouse", self.project, self.project, compiler(), SystemClock(), random.Random(1), self.faults
        )
        sink = PostgresSink(PostgresSink.Config.model_validate(values), context)
        await sink.open(None)
        self.sinks.append(sink)
        if claim:
            await sink.claim(Claimant(epoch, "orders/warehouse", "file:in", "k", 100.0))
        return sink

    async def close(self) -> None:
        for sink in self.sinks:
            await sink.close()


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(database, tmp_path)
    yield bench
    await bench.close()


@pytest.fixture(name="bench", params=["postgres", "postgres16"])
async def bench_of_each(request: pytest.FixtureRequest, make_database: MakeDatabase, tmp_path: Path) -> AsyncIterator[Bench]:
    """Of each version of the server; in the place of `bench`."""
    bench = Bench(make_database(request.getfixturevalue(request.param)), tmp_path)
    yield bench
    await bench.close()


def decoded(dsn: str, table: str, numeric: NumericMode = "string") -> dict[str, Any]:
    """The table's one row as the CDC source gives it."""
    with psycopg.connect(dsn) as connection:
        for name, value in SESSION_SETTINGS.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        types = TypeCatalog.of(connection.execute(TYPES_QUERY))
        cursor = connection.execute(f"SELECT * FROM public.{table}".encode())
        result = cursor.pgresult
        assert result is not None
        assert result.ntuples == 1
        row = {}
        for place in range(result.nfields):
            text = result.get_value(0, place)
            convert = types.converter(result.ftype(place), numeric=numeric)
            row[(result.fname(place) or b"").decode()] = None if text is None else convert(text)
        return row
