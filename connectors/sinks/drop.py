"""The `drop` sink: for benchmarks, and for pipelines whose effect is in a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from penstock.config.base import ComponentConfig
from penstock.event import Event
from penstock.spi import Context


class DropConfig(ComponentConfig):
    """The `drop` sink has no fields."""


class DropSink:
    """Counts events and forgets them.

    :ivar count: events taken since it was made.
    """

    name: ClassVar[str] = "drop"
    Config: ClassVar[type[DropConfig]] = DropConfig

    def __init__(self, config: DropConfig, context: Context) -> None:
        self.count = 0

    async def open(self, recovered: bytes | None) -> None:
        """Nothing to connect to."""

    async def write(self, events: Sequence[Event]) -> None:
        self.count += len(events)

    async def flush(self) -> bytes | None:
        return None

    async def close(self) -> None:
        """Nothing to close."""
