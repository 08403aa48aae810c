"""What tests of the sqlite sink share: sinks on a database file."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

from connectors.sinks.sqlite import SqliteConfig, SqliteSink
from penstock.clock import Clock, SystemClock
from penstock.faults import Faults
from penstock.ledger import Claimant
from penstock.spi import Context, Expressions
from transforms.expressions import compiler


class Bench:
    """A database file, and the sinks that a test opens on it."""

    def __init__(self, project: Path, *, clock: Clock | None = None, expressions: Expressions | None = None) -> None:
        self.project = project
        self.path = project / "out" / "orders.db"
        self.sinks: list[SqliteSink] = []
        self.faults = Faults()
        self._clock = clock or SystemClock()
        self._expressions = expressions or compiler()

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        self.path.parent.mkdir(exist_ok=True)
        db = sqlite3.connect(self.path, isolation_level=None)
        try:
            return db.execute(sql).fetchall()
        finally:
            db.close()

    def unopened(self, **config: Any) -> SqliteSink:
        values = {"path": "out/orders.db", "table": "orders"} | config
        context = Context(
            "orders", "warehouse", self.project, self.project, self._expressions, self._clock, random.Random(1), self.faults
        )
        return SqliteSink(SqliteConfig.model_validate(values), context)

    async def sink(self, *, epoch: int = 1, claim: bool = True, **config: Any) -> SqliteSink:
        sink = self.unopened(**config)
        await sink.open(None)
        self.sinks.append(sink)
        if claim:
            await sink.claim(Claimant(epoch, "orders/warehouse", "file:in", "k", 100.0))
        return sink

    async def close(self) -> None:
        for sink in self.sinks:
            await sink.close()
