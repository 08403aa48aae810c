"""The sinks that can say what they lack, under the contract of inspections."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from connectors.sinks._postgres.config import PostgresSinkConfig
from connectors.sinks.file import FileSink, FileSinkConfig
from connectors.sinks.postgres import PostgresSink
from connectors.sinks.sqlite import SqliteConfig, SqliteSink
from penstock.event import Event
from penstock.spi import Context
from penstock.testing.contracts import make_context
from penstock.testing.inspection_contract import VerifyingContract
from penstock.testing.ledger_contract import make_claimant, make_commit
from penstock.testing.servers import Database
from transforms.expressions import compiler

IN_ORDER = {"key": ["n"], "order_by": ".n", "delete": "false"}


class TestFileInspected(VerifyingContract):
    path = "out/events.jsonl"
    format = "jsonl"

    def build(self, context: Context) -> FileSink:
        return FileSink(FileSinkConfig(path=self.path, format=self.format), context)

    async def deliver(self, directory: Path, events: Sequence[Event]) -> None:
        sink = self.build(make_context(directory, component="sink"))
        await sink.open(None)
        for first in range(0, len(events), 7):
            await sink.write(events[first : first + 7])
            await sink.flush()
        await sink.close()

    async def lose(self, directory: Path, n: int) -> None:
        path = directory / self.path
        lines = self.read(path).splitlines(keepends=True)
        kept = [line for line in lines if not self.is_of(line, n)]
        assert len(kept) == len(lines) - 1
        self.write(path, b"".join(kept))

    def is_of(self, line: bytes, n: int) -> bool:
        return line == b'{"n":%d}\n' % n

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)


class TestGzipInspected(TestFileInspected):
    path = "events.jsonl.gz"

    def read(self, path: Path) -> bytes:
        return gzip.decompress(path.read_bytes())

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(gzip.compress(data))


class TestZstdInspected(TestFileInspected):
    path = "events.jsonl.zst"

    def read(self, path: Path) -> bytes:
        with zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True) as reader:
            return reader.readall()

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(zstandard.compress(data))


class TestCloudEventsInspected(TestFileInspected):
    format = "cloudevents"

    def is_of(self, line: bytes, n: int) -> bool:
        return line.endswith(b'"data":{"n":%d}}\n' % n)


class TestCsvInspected(TestFileInspected):
    path = "events.csv"
    format = "csv"

    def is_of(self, line: bytes, n: int) -> bool:
        return line == b"%d\n" % n


class TestSqliteInspected(VerifyingContract):
    config: dict[str, Any] = {}

    def build(self, context: Context) -> SqliteSink:
        values = {"path": "rows.db", "table": "rows", "create": True} | self.config
        return SqliteSink(SqliteConfig.model_validate(values), replace(context, expressions=compiler()))

    async def deliver(self, directory: Path, events: Sequence[Event]) -> None:
        await deliver_by_ledger(self.build(make_context(directory, component="sink")), events)

    async def lose(self, directory: Path, n: int) -> None:
        with closing(sqlite3.connect(directory / "rows.db")) as db, db:
            assert db.execute("DELETE FROM rows WHERE n = ?", (n,)).rowcount == 1


class TestSqliteInspectedByKey(TestSqliteInspected):
    config = {"key": ["n"], "on_conflict": "ignore"}


class TestSqliteInspectedInOrder(TestSqliteInspected):
    config = IN_ORDER


class TestPostgresInspected(VerifyingContract):
    config: dict[str, Any] = {}

    @pytest.fixture(autouse=True)
    def _database(self, database: Database) -> None:
        self.database = database

    def build(self, context: Context) -> PostgresSink:
        values = {"dsn": self.database.dsn, "table": "rows", "create": True} | self.config
        return PostgresSink(PostgresSinkConfig.model_validate(values), replace(context, expressions=compiler()))

    async def deliver(self, directory: Path, events: Sequence[Event]) -> None:
        await deliver_by_ledger(self.build(make_context(directory, component="sink")), events)

    async def lose(self, directory: Path, n: int) -> None:
        assert await self.execute(f"DELETE FROM rows WHERE n = {n} RETURNING n") == [(n,)]

    async def snapshot(self, directory: Path) -> Any:
        tables = (
            "SELECT relname, relkind FROM pg_class WHERE relnamespace::regnamespace::text IN ('public', 'penstock') ORDER BY 1"
        )
        return await self.execute("SELECT xmin, * FROM rows ORDER BY n"), await self.execute(tables)

    async def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self.database.execute, sql)


class TestPostgresInspectedByKey(TestPostgresInspected):
    config = {"key": ["n"]}


class TestPostgresInspectedInOrder(TestPostgresInspected):
    config = IN_ORDER


async def deliver_by_ledger(sink: Any, events: Sequence[Event]) -> None:
    """As a run of its own: the next epoch."""
    await sink.open(None)
    epoch = events[0].position[-1] + 1
    claim = await sink.claim(make_claimant(epoch))
    await sink.write_and_commit(events, make_commit((claim.group or 0) + 1, epoch=epoch))
    await sink.close()
