"""The postgres query source under the source contract, on PostgreSQL 16 and 18, with and without a cursor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from server_parts import MakeDatabase

from connectors.sources.postgres import PostgresConfig, PostgresSource
from penstock.spi import Context
from penstock.testing.contracts import SourceContract
from penstock.testing.servers import Database

TABLE = """CREATE TABLE items (id text PRIMARY KEY, at timestamptz NOT NULL, n bigint NOT NULL);
INSERT INTO items SELECT 'item ' || i, '2026-01-01'::timestamptz + i / 3 * interval '1 microsecond', -i
FROM generate_series(1, {count}) i"""


class PostgresSourceContract(SourceContract):
    version = "postgres"
    fields: dict[str, Any] = {"table": "items", "cursor": "at"}
    database: Database

    @pytest.fixture(autouse=True)
    def _database(self, request: pytest.FixtureRequest, make_database: MakeDatabase) -> None:
        self.database = make_database(request.getfixturevalue(self.version))

    async def prepare(self, directory: Path, count: int) -> None:
        self.database.execute(TABLE.format(count=count))

    def build(self, context: Context) -> PostgresSource:
        source = PostgresSource(
            PostgresConfig.model_validate({"dsn": self.database.dsn, "batch_rows": 7, **self.fields}), context
        )
        source.batch_count = 3
        return source


class TestByCursor(PostgresSourceContract):
    pass


class TestByCursorOn16(PostgresSourceContract):
    version = "postgres16"


class TestByKey(PostgresSourceContract):
    fields = {"table": "public.items"}


class TestByQuery(PostgresSourceContract):
    fields = {
        "query": "SELECT n AS number, * FROM public.items WHERE id LIKE '%1%' OR true -- all\n;",
        "cursor": "n",
        "key": "id",
    }
