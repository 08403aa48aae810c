"""The sinks that keep the ledger beside their rows, under the contract of such sinks."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors.sinks._postgres.config import PostgresSinkConfig
from connectors.sinks.postgres import PostgresSink
from connectors.sinks.sqlite import SqliteConfig, SqliteSink
from penstock.event import Event
from penstock.spi import Context
from penstock.testing.ledger_contract import LedgerSinkContract
from penstock.testing.servers import Database
from transforms.expressions import compiler

IN_ORDER = {"key": ["n"], "order_by": ".n", "delete": "false"}


class TestSqlite(LedgerSinkContract):
    config: dict[str, Any] = {}

    def build(self, context: Context) -> Any:
        values = {"path": "rows.db", "table": "rows", "create": True} | self.config
        return SqliteSink(SqliteConfig.model_validate(values), context)

    async def delivered(self, directory: Path) -> list[Any]:
        with closing(sqlite3.connect(directory / "rows.db")) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'rows'").fetchall():
                return []
            return [{"n": n} for (n,) in db.execute("SELECT n FROM rows ORDER BY n")]

    def poison(self) -> Event | None:
        return Event("p", "test", "t", decoded={"n": 1, "other": 2})


class TestSqliteByKey(TestSqlite):
    config = {"key": ["n"]}


class TestSqliteInOrder(TestSqlite):
    config = IN_ORDER

    def build(self, context: Context) -> Any:
        return super().build(replace(context, expressions=compiler()))


class TestPostgres(LedgerSinkContract):
    config: dict[str, Any] = {}

    @pytest.fixture(autouse=True)
    def _database(self, database: Database) -> None:
        self.database = database

    def build(self, context: Context) -> Any:
        values = {"dsn": self.database.dsn, "table": "rows", "create": True} | self.config
        return PostgresSink(PostgresSinkConfig.model_validate(values), context)

    async def delivered(self, directory: Path) -> list[Any]:
        if await asyncio.to_thread(self.database.execute, "SELECT to_regclass('rows')") == [(None,)]:
            return []
        return [{"n": n} for (n,) in await asyncio.to_thread(self.database.execute, "SELECT n FROM rows ORDER BY n")]

    def poison(self) -> Event | None:
        return Event("p", "test", "t", decoded={"n": 1, "other": 2})


class TestPostgresByKey(TestPostgres):
    config = {"key": ["n"]}


class TestPostgresInOrder(TestPostgres):
    config = IN_ORDER

    def build(self, context: Context) -> Any:
        return super().build(replace(context, expressions=compiler()))
