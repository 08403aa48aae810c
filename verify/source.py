"""The source against the journal: what it holds of the range has its line, or is beyond the checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat

from penstock.config.model import Pipeline
from penstock.engine.assemble import Surroundings
from penstock.engine.native import Chunk, NativeRange, Unplaced, native_range
from penstock.engine.retry import gave_up
from penstock.errors import Transient
from penstock.event import Event
from penstock.journal.digests import Digests, digest_of
from penstock.journal.known import Known
from penstock.journal.reader import EVER
from penstock.spi import Position
from verify.extent import Reach
from verify.findings import Findings, Gap, SourceFound
from verify.letters import Fresh

PART = "journal"
_PAGE = 500


@dataclass(slots=True)
class SourceCheck:
    """One look at the source.

    :ivar lines: digests of the events that the range's lines tell of.
    :ivar checkpoint: as it was noted before these lines were read.
    """

    pipeline: Pipeline
    findings: Findings
    found: SourceFound
    lines: Digests
    checkpoint: Mapping[str, Position]
    fresh: Fresh
    reach: Reach
    _suspects: list[tuple[str, Event, str]] = field(default_factory=list)
    _known: Known | None = None

    async def look(self, native: NativeRange, start: float, end: float) -> None:
        """Everything that the source holds of `[start, end)`, and what of it has no time.

        :raises PenstockError: what the source raises.
        """
        async with _reading(native, start, end, self.checkpoint) as chunks:
            async for chunk in chunks:
                self._take(chunk)
                if len(self._suspects) >= _PAGE:
                    await self._judge()
        await self._judge()
        self.found.gone = self.lines.count - self.lines.met()

    def _take(self, chunk: Chunk) -> None:
        unplaced = ((each.received, _why_unplaced(each)) for each in chunk.unplaced)
        for event, why in chain(zip(chunk.received, repeat("")), unplaced):
            if self.lines.meet(digest_of(event.source, event.id)):
                self.found.events += 1
                self.found.journalled += 1
            else:
                self._suspect(chunk.partition, event, why)

    def _suspect(self, partition: str, event: Event, why: str) -> None:
        """No line of the range is of this event.

        :param why: it has no time; empty: it has one, in the range.
        """
        at = self.checkpoint.get(partition)
        if event.position and (at is None or event.position > at.order):
            self.found.events += 1
            self.found.not_read_yet += 1
        else:
            self._suspects.append((partition, event, why))

    async def _judge(self) -> None:
        """Of events behind the checkpoint: their lines may lie outside of the range, for `event:` gave them another time then."""
        suspects, self._suspects = self._suspects, []
        if not suspects:
            return
        if self._known is None:
            reader = await self.fresh()
            self._known = await asyncio.to_thread(Known.read, reader, *EVER)
        for (partition, event, why), number in zip(
            suspects, self._known.numbers([event for _, event, _ in suspects]), strict=True
        ):
            if not why or number is None:
                self.found.events += 1
            if number is None:
                self.findings.add(self._gap(partition, event, why))
            elif not why:
                self.found.journalled += 1

    def _gap(self, partition: str, event: Event, why: str) -> Gap:
        at = self.checkpoint.get(partition)
        passed = ", though the checkpoint is past it" if event.position and at is not None else ""
        what = f"the source has it, the journal does not{passed}"
        if why:
            what += f"; no time is known of it: {why}"
        if not self.reach.whole or self.reach.began is None:
            what += f"; {self.reach.told()}"
        return Gap(PART, what, event.id, f"partition {partition}", f"pipe doctor {self.pipeline.name}")


@asynccontextmanager
async def _reading(
    native: NativeRange, start: float, end: float, checkpoint: Mapping[str, Position]
) -> AsyncIterator[AsyncIterator[Chunk]]:
    try:
        async with aclosing(native.read(start, end, checkpoint)) as chunks:
            yield chunks
    except Transient as error:
        raise gave_up(error, "source") from error


def _why_unplaced(unplaced: Unplaced) -> str:
    return "it has none" if unplaced.error is None else f"{unplaced.step}: {unplaced.error.message}"


def source_reader(pipeline: Pipeline, surroundings: Surroundings, found: SourceFound) -> NativeRange | None:
    """A reader of the source, which is told to what was found; None where it cannot be read again, which is told as well.

    :raises PenstockError: the source refuses its configuration.
    """
    native = native_range(pipeline, surroundings)
    found.looked = native is not None
    if native is None:
        found.why = f"a source of the kind {found.kind} cannot be read again by time"
    return native
