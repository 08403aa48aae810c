"""The postgres_cdc source under the source contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from cdc_parts import ORDERS, make_source, prepare_slot, sql

from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.spi import Context, Token
from penstock.testing.contracts import SourceContract
from penstock.testing.servers import Database


class Unconfirmed(PostgresCdcSource):
    """Confirms nothing, so that the slot still has what is read again."""

    async def ack(self, tokens: Sequence[Token]) -> None:
        pass


class TestChanges(SourceContract):
    @pytest.fixture(autouse=True)
    def _shop(self, database: Database) -> None:
        self.database = database

    async def prepare(self, directory: Path, count: int) -> None:
        await sql(self.database, ORDERS)
        await prepare_slot(make_source(self.database, directory))
        await sql(self.database, f"INSERT INTO orders SELECT n FROM generate_series(1, {count - 5}) AS n")
        await sql(self.database, "INSERT INTO orders SELECT n FROM generate_series(-5, -1) AS n")

    def build(self, context: Context) -> PostgresCdcSource:
        return make_source(self.database, context.project, kind=Unconfirmed)
