"""The `generate` source: numbered events, the same in every run, for examples, tests and benchmarks."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, ClassVar

from pydantic import Field, field_validator

from penstock.config.base import ComponentConfig, Duration, Rate, RecordProgram
from penstock.errors import ComponentError, Permanent
from penstock.event import UNSET, Event
from penstock.spi import Batch, Context, Position, Resume, Token

_PARTITION = "generate"
_ORDER = struct.Struct(">Q")


class GenerateConfig(ComponentConfig):
    """Fields of the `generate` source."""

    count: int | None = Field(None, ge=0, description="How many events; without it they never end.", examples=[1000])
    rate: Rate | None = Field(None, gt=0, description="How many a second; without it as fast as they are taken.")
    seed: int | None = Field(
        None, description="Gives the record a field `random`, at least 0 and below 1, that depends on the seed and `n` alone."
    )
    data: RecordProgram | None = Field(
        None,
        description="jq over the record `{n}` that makes the data; without it the data is the record.",
        examples=["{id: .n}"],
    )
    start: str | None = Field(
        None,
        description="Event time of the first event, RFC 3339; without it events have no time.",
        examples=["2026-01-01T00:00:00Z"],
    )
    step: Duration = Field(1.0, description="Event time between two events.", examples=["1s"])

    @field_validator("start")
    @classmethod
    def _is_time(cls, start: str | None) -> str | None:
        if start is not None and datetime.fromisoformat(start).tzinfo is None:
            raise ValueError("must say its offset from UTC, such as 2026-01-01T00:00:00Z")
        return start


class GenerateSource:
    """Makes numbered events: the id and the position are the number, counted from 0."""

    name: ClassVar[str] = "generate"
    Config: ClassVar[type[GenerateConfig]] = GenerateConfig
    has_positions = True

    def __init__(self, config: GenerateConfig, context: Context) -> None:
        self.config = config
        self.batch_count = 500
        self.batch_bytes = 1 << 20
        self._clock = context.clock
        self._source = f"generate:{context.pipeline}"
        self._program = context.expressions.program(config.data, "record") if config.data is not None else None
        self._start = datetime.fromisoformat(config.start).astimezone(UTC) if config.start is not None else None
        self._next = 0

    @staticmethod
    def position_text(order: bytes) -> str:
        """See `Legible`."""
        return f"event {_number(order):,}"

    @property
    def identity(self) -> str:
        return self._source

    async def open(self, resume: Resume) -> None:
        position = resume.positions.get(_PARTITION)
        self._next = _number(position.order) + 1 if position is not None else 0

    async def batches(self) -> AsyncIterator[Batch]:
        """Batches of one partition; with a rate, ten a second or one an event, whichever is fewer."""
        count, rate = self.config.count, self.config.rate
        size = self.batch_count if rate is None else max(1, min(self.batch_count, int(rate / 10)))
        due = self._clock.monotonic()
        while count is None or self._next < count:
            numbers = range(self._next, self._next + size if count is None else min(count, self._next + size))
            yield self._batch(numbers)
            self._next = numbers.stop
            if rate is not None:
                due = max(due + len(numbers) / rate, self._clock.monotonic() - 1.0)
                await self._clock.sleep(max(0.0, due - self._clock.monotonic()))

    async def ack(self, tokens: Sequence[Token]) -> None:
        """Nothing to do: numbers do not forget."""

    async def release(self, tokens: Sequence[Token], delay: float) -> None:
        """Nothing to do: the next run goes on from the ledger's position."""

    async def close(self) -> None:
        """Nothing to close."""

    def progress(self) -> tuple[int, int] | None:
        """Events made, and to be made."""
        return None if self.config.count is None else (self._next, self.config.count)

    def _batch(self, numbers: range) -> Batch:
        events = [self._event(n) for n in numbers]
        rejects = self._apply(events) if self._program is not None else {}

        def cut(count: int) -> Position:
            return Position(events[count - 1].position)

        return Batch(_PARTITION, events, cut(len(events)), numbers.stop, 64 * len(events), rejects, cut)

    def _event(self, n: int) -> Event:
        record: dict[str, Any] = {"n": n}
        if self.config.seed is not None:
            digest = blake2b(f"{self.config.seed}:{n}".encode(), digest_size=8).digest()
            record["random"] = (int.from_bytes(digest, "big") >> 11) / (1 << 53)
        time = None
        if self._start is not None:
            time = (self._start + timedelta(seconds=n * self.config.step)).isoformat().replace("+00:00", "Z")
        return Event(
            str(n),
            self._source,
            "generate.record",
            time=time,
            decoded=record,
            position=_ORDER.pack(n),
            origin=n - self._next,
        )

    def _apply(self, events: list[Event]) -> dict[int, ComponentError]:
        """Replace each record by what `data` makes of it."""
        assert self._program is not None
        rejects: dict[int, ComponentError] = {}
        for index, outputs in enumerate(self._program(events)):
            event = events[index]
            if isinstance(outputs, ComponentError):
                rejects[index] = outputs
            elif len(outputs) != 1:
                rejects[index] = Permanent(
                    "source.generate_outputs",
                    f"`data` made {len(outputs)} values of one record",
                    help="it must make exactly one; filter or split in a step",
                )
            else:
                event.decoded, event.raw, event.record = outputs[0], None, UNSET
        return rejects


def _number(order: bytes) -> int:
    """:raises ValueError: these bytes are no position of this source."""
    try:
        (number,) = _ORDER.unpack(order)
    except struct.error as error:
        raise ValueError(str(error)) from error
    return int(number)
