"""What tests of the postgres_cdc source share: sources over a database, and what they give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.event import Event
from penstock.spi import Batch, Position, Resume
from penstock.testing.contracts import make_context
from penstock.testing.servers import Database
from transforms.expressions import compiler

SECONDS = 20.0

ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, status text, body text)"


@pytest.fixture
def shop(database_of_each: Database) -> Database:
    """A database with the table `orders`, on servers of both versions."""
    database_of_each.execute(ORDERS)
    return database_of_each


def make_source(
    database: Database,
    directory: Path,
    *,
    port: int | None = None,
    count: int = 4,
    kind: type[PostgresCdcSource] = PostgresCdcSource,
    **fields: Any,
) -> PostgresCdcSource:
    """A source of changes of `public.orders` alone, unless `fields` say otherwise, as in a new process. The slot is named after
    the database."""
    given = {
        "dsn": database.dsn if port is None else database.dsn_through(port),
        "tables": ["public.orders"],
        "slot": {"name": f"slot_{database.name}"},
        "snapshot": {"mode": "never"},
        **fields,
    }
    config = PostgresCdcSource.Config.model_validate_json(json.dumps(given))
    source = kind(config, make_context(directory, component="source", expressions=compiler()))
    source.batch_count = count
    return source


async def prepare_slot(source: PostgresCdcSource) -> dict[str, Position]:
    """Make publication and slot; the position from which everything that is changed later is read."""
    await source.open(Resume(1, {}, once=True))
    try:
        batches = [batch async for batch in source.batches()]
    finally:
        await source.close()
    return positions(batches)


def positions(batches: list[Batch]) -> dict[str, Position]:
    return {batch.partition: batch.end for batch in batches if batch.end is not None}


async def read(source: PostgresCdcSource, known: Mapping[str, Position] | None = None, *, ack: bool = False) -> list[Batch]:
    """Everything that is there now."""
    await source.open(Resume(1, known or {}, once=True))
    try:
        async with asyncio.timeout(SECONDS):
            batches = [batch async for batch in source.batches()]
            if ack:
                await source.ack([batch.token for batch in batches])
    finally:
        await source.close()
    return batches


async def take_all(batches: AsyncIterator[Batch], given: list[Batch]) -> None:
    """Into `given`, until the source ends or fails."""
    async with asyncio.timeout(SECONDS):
        async for batch in batches:
            given.append(batch)


def events_of(batches: list[Batch]) -> list[Event]:
    return [event for batch in batches for event in batch.events]


def told(batches: list[Batch]) -> list[tuple[str, Any]]:
    """Type and data of every event, in order."""
    return [(event.type, event.data) for event in events_of(batches)]


def ids(batches: list[Batch]) -> list[str]:
    return [event.id for event in events_of(batches)]


async def sql(database: Database, text: str) -> list[tuple[Any, ...]]:
    return await asyncio.to_thread(database.execute, text)


async def slot_is_free(database: Database) -> None:
    """Once the server has noticed that the connection which read the slot is closed."""
    async with asyncio.timeout(SECONDS):
        while await sql(database, f"SELECT 1 FROM pg_replication_slots WHERE database = '{database.name}' AND active"):
            await asyncio.sleep(0.01)


async def confirmed(database: Database) -> str:
    """What the slot's server knows to be durable."""
    (row,) = await sql(database, f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE database = '{database.name}'")
    return str(row[0])
