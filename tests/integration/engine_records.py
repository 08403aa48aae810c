"""What tests of the engine read: records held in memory, and a source that gives them as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import msgspec
from pydantic import BaseModel, ConfigDict

from penstock.errors import ComponentError
from penstock.event import Event
from penstock.spi import Batch, Context, Position, Resume

BEAT = b"beat"


def numbers(count: int) -> list[dict[str, int]]:
    """Records that tell each other apart."""
    return [{"n": n} for n in range(count)]


class PartConfig(BaseModel):
    """Refers to what a part works on."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    of: Any


@dataclass
class Feed:
    """The records that there are, and what the source was told.

    :ivar records: JSON text by partition. A record may be an exception: a `ComponentError` that the source rejects it with; or
        `BEAT`, of which no event is made: it only moves the position.
    :ivar ids: an id for a record, instead of its number; several records may share one.
    :ivar batch: events a batch holds.
    :ivar divisible: batches know their inner positions (`Batch.cut`).
    :ivar unplugged: raised instead of reading record N of any partition, once.
    :ivar faults: raised one after the other by every attempt to read, before it may.
    :ivar after: called with each batch before it is handed over.
    """

    records: dict[str, list[bytes | ComponentError]] = field(default_factory=dict)
    ids: dict[bytes, str] = field(default_factory=dict)
    batch: int = 2
    positions: bool = True
    divisible: bool = True
    identity: str = "list:orders"
    unplugged: dict[int, BaseException] = field(default_factory=dict)
    faults: list[Exception] = field(default_factory=list)
    after: Callable[[Batch], None] = lambda batch: None
    more: asyncio.Event = field(default_factory=asyncio.Event)
    acked: list[tuple[str, int]] = field(default_factory=list)
    resumed: list[dict[str, bytes]] = field(default_factory=list)
    ack_errors: list[Exception] = field(default_factory=list)
    read: int = 0
    closed: int = 0

    @classmethod
    def of(cls, *data: Any, **changes: Any) -> Self:
        """One partition `p` of these records; values are written as JSON, bytes and errors stay."""
        return cls({"p": [as_record(value) for value in data]}, **changes)

    def add(self, *data: Any, partition: str = "p") -> None:
        self.records.setdefault(partition, []).extend(as_record(value) for value in data)
        self.more.set()


def as_record(value: Any) -> bytes | ComponentError:
    return value if isinstance(value, (bytes, ComponentError)) else msgspec.json.encode(value)


def at(count: int) -> bytes:
    """The position behind `count` records."""
    return count.to_bytes(8, "big")


class ListSource:
    """Records of a `Feed`, in batches of one partition after the other."""

    name: ClassVar[str] = "list"
    Config: ClassVar[type[BaseModel]] = PartConfig

    def __init__(self, config: PartConfig, context: Context) -> None:
        self.feed: Feed = config.of
        self.context = context
        self._at: dict[str, int] = {}
        self._once = True

    @property
    def identity(self) -> str:
        return self.feed.identity

    @property
    def has_positions(self) -> bool:
        return self.feed.positions

    async def open(self, resume: Resume) -> None:
        self.feed.resumed.append({name: position.order for name, position in resume.positions.items()})
        self._once = resume.once
        if self.feed.positions:
            self._at = {name: int.from_bytes(position.order, "big") for name, position in resume.positions.items()}
        else:
            self._at = {name: max((n for p, n in self.feed.acked if p == name), default=0) for name in self.feed.records}

    async def batches(self) -> AsyncIterator[Batch]:
        feed = self.feed
        while True:
            for partition in list(feed.records):
                while (batch := self._next(partition)) is not None:
                    feed.after(batch)
                    yield batch
            if self._once:
                return
            feed.more.clear()
            await feed.more.wait()

    def _next(self, partition: str) -> Batch | None:
        feed, start = self.feed, self._at.get(partition, 0)
        if feed.faults:
            raise feed.faults.pop(0)
        records = feed.records[partition][start : start + feed.batch]
        if not records:
            return None
        fault = next((feed.unplugged.pop(n) for n in range(start, start + len(records)) if n in feed.unplugged), None)
        if fault is not None:
            raise fault
        end = self._at[partition] = start + len(records)
        feed.read += len(records)
        events = [self._event(partition, start + n, record) for n, record in enumerate(records) if record is not BEAT]
        return Batch(
            partition,
            events,
            Position(at(end)) if feed.positions else None,
            (partition, end),
            sum(len(record) for record in records if isinstance(record, bytes)),
            {n: record for n, record in enumerate(records) if isinstance(record, ComponentError)},
            (lambda count: Position(at(start + count))) if feed.positions and feed.divisible else None,
        )

    def _event(self, partition: str, number: int, record: bytes | ComponentError) -> Event:
        raw = record if isinstance(record, bytes) else None
        return Event(
            self.feed.ids.get(raw or b"", f"{partition}{number}"),
            "list:orders",
            "order",
            raw=raw,
            original=b"what came" if raw is None else None,
            position=at(number + 1) if self.feed.positions else b"",
        )

    async def ack(self, tokens: Sequence[Any]) -> None:
        if self.feed.ack_errors:
            raise self.feed.ack_errors.pop(0)
        self.feed.acked.extend(tokens)

    async def release(self, tokens: Sequence[Any], delay: float) -> None:
        raise AssertionError("nothing is released")

    async def close(self) -> None:
        self.feed.closed += 1
