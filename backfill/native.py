"""Native ranges: what the source itself holds of a range of time, copied into a journal of its own before the job is made.

    copied = await Copying(...).copy(directory)      # `Copies.making` gives the directory

From then on the copy is read as a journal is: divided, gone on with, reported. What the pipeline's journal knows of an event goes
with it (`copy_lines`): so a shadow compares with what was recorded, and a live backfill knows which sinks had it. Killed
meanwhile, nothing is stored.

Memory: 16 bytes an event of the journal (`penstock.journal.known`), and `EVENTS` or `BYTES` that are on their way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from backfill.copies import no_room
from backfill.copy_lines import CopyLines, was_the_same
from backfill.request import Copied, UnplacedRecord
from penstock.cloudevents import timestamp
from penstock.engine.native import Chunk, NativeRange, Unplaced
from penstock.errors import Unavailable, UsageError
from penstock.event import Event
from penstock.faults import Faults
from penstock.journal.journal import Journal
from penstock.journal.known import Known
from penstock.journal.lines import Line
from penstock.journal.reader import EVER, JournalReader, moment
from penstock.spi import Position

EVENTS, BYTES = 10_000, 16 << 20
"""What is looked up and written together: many at a time, for each frame of the journal is read once for all of them."""
NAMED = 3
"""Events that are named where there are too many to name all."""

Tell = Callable[[int, tuple[int, int] | None], None]
"""Hears how many records were read, and how much of how much, where the source knows that."""


@dataclass(slots=True)
class Copying:
    """One copy.

    :ivar journal: the pipeline's own; None: it keeps none.
    :ivar known: the pipeline's checkpoint.
    :ivar version: of the last run: what events count as handled by that the journal does not tell of.
    """

    native: NativeRange
    start: float
    end: float
    known: Mapping[str, Position]
    version: str
    journal: JournalReader | None
    tell: Tell
    _lines: CopyLines = field(init=False)
    _held: Known | None = None
    _events: int = 0
    _unknown: int = 0
    _unplaced: int = 0
    _first_unknown: list[str] = field(default_factory=list)
    _examples: list[UnplacedRecord] = field(default_factory=list)

    async def copy(self, directory: Path) -> Copied:
        """Read the range and write it.

        :param directory: empty; its name is the copy's.
        :raises EnvironmentFault: `backfill.disk`, there is no room for it.
        :raises PenstockError: what the source raises.
        """
        self._lines = CopyLines(self.version)
        if self.journal is not None:
            self._held = await asyncio.to_thread(Known.read, self.journal, self.start, self.end)
        writer = Journal(directory, Faults())
        await writer.open("")
        try:
            await self._fill(writer)
        finally:
            await writer.close()
        first, examples = self._first_unknown, self._examples
        return Copied(directory.name, self._events, self._unknown, self._lines.changed, self._unplaced, first, examples)

    async def _fill(self, writer: Journal) -> None:
        chunks: list[Chunk] = []
        read = count = size = 0
        async with aclosing(self.native.read(self.start, self.end, self.known)) as found:
            async for chunk in found:
                chunks.append(chunk)
                read, count, size = read + chunk.read, count + chunk.read, size + chunk.size
                if count >= EVENTS or size >= BYTES:
                    await self._write(chunks, writer)
                    self.tell(read, self.native.progress())
                    chunks, count, size = [], 0, 0
        await self._write(chunks, writer)
        self.tell(read, self.native.progress())

    async def _write(self, chunks: Sequence[Chunk], writer: Journal) -> None:
        await asyncio.to_thread(self._add, chunks)
        if lines := self._lines.take():
            try:
                await writer.append(lines)
                await writer.commit()
            except Unavailable as error:
                raise no_room(error.message, str(error.where)) from error

    def _add(self, chunks: Sequence[Chunk]) -> None:
        events = [event for chunk in chunks for event in (*chunk.received, *(each.received for each in chunk.unplaced))]
        lines = iter(self._look_up(events))
        for chunk in chunks:
            for received, filled in zip(chunk.received, chunk.filled, strict=True):
                line = next(lines)
                self._lines.add(chunk.partition, received, filled, line, chunk.at)
                self._events += 1
                if line is None:
                    self._unknown += 1
                    self._first_unknown += [received.id] if len(self._first_unknown) < NAMED else []
            for unplaced in chunk.unplaced:
                self._add_unplaced(chunk, unplaced, next(lines))

    def _add_unplaced(self, chunk: Chunk, unplaced: Unplaced, line: Line | None) -> None:
        """What has no time of its own has that of its receipt, where the journal knows it."""
        if line is not None and unplaced.filled is not None:
            if self.start <= timestamp(line.at) < self.end:
                self._lines.add(chunk.partition, unplaced.received, unplaced.filled, line, chunk.at)
                self._events += 1
        elif line is not None and was_the_same(line, unplaced):
            if self.start <= moment(line) < self.end:
                self._lines.add_as_it_was(line, unplaced.received)
                self._events += 1
        else:
            self._unplaced += 1
            if len(self._examples) < NAMED:
                why = "it has no time" if unplaced.error is None else f"{unplaced.step}: {unplaced.error.message}"
                self._examples.append(UnplacedRecord(unplaced.received.id, chunk.partition, why))

    def _look_up(self, events: Sequence[Event]) -> list[Line | None]:
        """What the journal has of them. Where some are not found among those of the range, all of it is looked at from then on:
        an event may have been received with another time than the one that it has by now."""
        if self.journal is None or self._held is None:
            return [None] * len(events)
        numbers = self._held.numbers(events)
        if None in numbers and not self._held.is_all:
            self._held = Known.read(self.journal, *EVER)
            numbers = self._held.numbers(events)
        return self._held.lines(numbers)


def refuse_unknown(copied: Copied) -> UsageError:
    """The error of a live backfill of which nobody knows what was delivered."""
    first = ", ".join(copied.first_unknown) + (", …" if copied.unknown > len(copied.first_unknown) else "")
    return UsageError(
        "backfill.unknown_deliveries",
        f"the journal does not tell of {copied.unknown:,} of {copied.events:,} events: {first}",
        why="they may have been delivered, or the run may still deliver them",
        help="--redeliver delivers all of the range, whoever had it; with --sink NAME to one sink alone, such as a new one",
    )
