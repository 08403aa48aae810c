"""What tests of streamed transactions share: databases that stream, sources over them, and what lies on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import ORDERS, SECONDS, sql

from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.spi import Batch, Resume
from penstock.testing.servers import Database

LARGE = "INSERT INTO orders SELECT n, 'new', repeat('x', 50) FROM generate_series({}, {}) AS n"


@pytest.fixture
def large(database: Database) -> Database:
    """A database whose transactions are streamed where they have more than a few hundred rows."""
    database.execute(ORDERS)
    database.execute(f"ALTER DATABASE {database.name} SET logical_decoding_work_mem = '64kB'")
    return database


async def streamed(database: Database) -> int:
    """Blocks that the server has sent of transactions in progress. It counts them when its sender stops or has decoded more."""
    async with asyncio.timeout(SECONDS):
        while True:
            name = f"slot_{database.name}"
            ((count,),) = await sql(database, f"SELECT stream_count FROM pg_stat_replication_slots WHERE slot_name = '{name}'")
            if count:
                return int(count)
            await asyncio.sleep(0.01)


def spilled(directory: Path) -> list[Path]:
    return sorted((directory / ".penstock" / "spill").rglob("*.changes"))


def left(directory: Path) -> list[Path]:
    return sorted((directory / ".penstock" / "spill").iterdir())


@asynccontextmanager
async def reading(source: PostgresCdcSource, known: Any = None) -> AsyncIterator[AsyncIterator[Batch]]:
    await source.open(Resume(1, known or {}))
    batches = source.batches()
    try:
        async with asyncio.timeout(SECONDS):
            yield batches
    finally:
        await batches.aclose()  # type: ignore[attr-defined]
        await source.close()
