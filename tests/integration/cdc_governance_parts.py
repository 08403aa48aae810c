"""What tests of slots and of how far they are behind share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from cdc_parts import SECONDS, events_of, take_all

from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.errors import PenstockError
from penstock.spi import Batch, Position, Resume


async def refused(source: PostgresCdcSource, known: dict[str, Position] | None = None) -> PenstockError:
    with pytest.raises(PenstockError) as caught:
        await source.open(Resume(1, known or {}))
    await source.close()
    return caught.value


async def ended(
    source: PostgresCdcSource, known: dict[str, Position], meanwhile: Callable[[], Any]
) -> tuple[list[Batch], PenstockError]:
    """What a run that follows gives, and what ends it, when `meanwhile` is done after its first batch of events."""
    given: list[Batch] = []
    await source.open(Resume(1, known))
    try:
        async with asyncio.timeout(SECONDS):
            batches = source.batches()
            while not events_of(given):
                given.append(await anext(batches))
            await meanwhile()
            with pytest.raises(PenstockError) as caught:
                await take_all(batches, given)
    finally:
        await source.close()
    return given, caught.value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)
