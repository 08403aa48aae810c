"""What tests of the postgres source share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from connectors.sources.postgres import PostgresConfig, PostgresSource
from penstock.spi import Batch, Resume
from penstock.testing.contracts import events_of, make_context, read_all


def make_source(directory: Path, dsn: str, *, batch_count: int = 500, **fields: Any) -> PostgresSource:
    config = PostgresConfig.model_validate({"dsn": dsn, **fields})
    source = PostgresSource(config, make_context(directory, pipeline="shop", component="source"))
    source.batch_count = batch_count
    return source


async def rows_of(source: PostgresSource, stored: list[Batch] | None = None) -> list[Any]:
    """The data of all that a `once` run reads behind these batches."""
    positions = {stored[-1].partition: stored[-1].end} if stored else {}
    return [event.data for event in events_of(await read_all(source, positions))]  # type: ignore[arg-type]  # the source has positions


async def follow(source: PostgresSource, into: list[Any], until: Callable[[list[Any]], bool], seconds: float = 20) -> None:
    """Follow until the rows that came satisfy `until`."""
    await source.open(Resume(1, {}))
    try:
        async with asyncio.timeout(seconds):
            async for batch in source.batches():
                into += [event.data for event in batch.events]
                if until(into):
                    return
    finally:
        await source.close()
