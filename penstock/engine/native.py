"""The past as the source itself has it: events of a range of time, read again beside a run or without one. Changes nothing.

    native = native_range(pipeline, surroundings)      # None: its source cannot be read again
    async for chunk in native.read(start, end, note.positions):
        chunk.received, chunk.filled                   # events of the range: as the source gave them, as they go into the steps
        chunk.unplaced                                 # what has no time, or is no event: never skipped silently

Collaborators: `RangeSource` of `penstock.spi`; the pipeline's `event:`, which says when an event happened. Ids, partitions and
positions are those of a run (`RangeSource.read_range`), so that its journal (`penstock.journal.known`) and its checkpoint can be
asked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from penstock.builtins import SOURCES, room
from penstock.clock import moment_of
from penstock.cloudevents import is_time, timestamp
from penstock.components import Catalog, build
from penstock.config.model import Batching, Pipeline
from penstock.engine.assemble import Moment, Surroundings, make_context
from penstock.engine.prepare import Preparer
from penstock.engine.reading import set_batching
from penstock.engine.supervise import blaming
from penstock.engine.tally import Tally
from penstock.errors import ComponentError, UsageError
from penstock.event import Event
from penstock.spi import Batch, Expressions, Position, Progress, RangeSource

_SLACK = timedelta(milliseconds=1)
"""By which the span is wider that the source is asked for: seconds since 1970 as a float are not exact to the microsecond."""


class Unplaced(NamedTuple):
    """What no time is known of.

    :ivar received: as the source gave it; of what is no event, a stand-in with id and source.
    :ivar filled: as it went into the steps; None where it did not get there.
    :ivar step: `source`, `decode` or `event`, where it failed with `error`; empty where it is an event that has no time.
    """

    received: Event
    filled: Event | None
    step: str
    error: ComponentError | None


@dataclass(slots=True)
class Chunk:
    """What one batch of the source holds of the range.

    :ivar received, filled: together, an element an event.
    :ivar read: how many records were looked at, those outside of the range too; `size` in bytes, about.
    :ivar at: seconds since 1970: what `now` was in `event:`.
    """

    partition: str
    at: float
    read: int
    size: int = 0
    received: list[Event] = field(default_factory=list)
    filled: list[Event] = field(default_factory=list)
    unplaced: list[Unplaced] = field(default_factory=list)


@dataclass(slots=True)
class NativeRange:
    """`read` once; it closes what it opened."""

    pipeline: Pipeline
    surroundings: Surroundings
    source: RangeSource
    preparer: Preparer
    moment: Moment

    async def read(self, start: float, end: float, known: Mapping[str, Position]) -> AsyncGenerator[Chunk, None]:
        """Events whose time is in `[start, end)`, in the order in which the source gives them; close it where it is left early.

        :param start, end: seconds since 1970.
        :param known: the pipeline's checkpoint, as its state store notes it.
        :raises PenstockError: what the source raises; a connection that breaks is `Transient`, and the reading begins anew.
        """
        span = None if self.pipeline.event.time is not None else _span(start, end)  # else only `event:` knows
        batches = self.source.read_range(span, known)
        try:
            with blaming("source"):
                async for batch in batches:
                    yield self._chunk(batch, start, end)
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()

    def progress(self) -> tuple[int, int] | None:
        """Bytes read and bytes there are; None where the source does not know."""
        return self.source.progress() if isinstance(self.source, Progress) else None

    def _chunk(self, batch: Batch, start: float, end: float) -> Chunk:
        self.moment.at = at = moment_of(self.surroundings.clock)
        chunk, tally = Chunk(batch.partition, at, len(batch.events), batch.size), Tally()
        for origin, event in enumerate(batch.events):
            event.origin = origin
        for filled in self.preparer.prepare(batch.events, tally, batch.rejects):
            received = batch.events[filled.origin]
            if filled.time is None or not is_time(filled.time):
                chunk.unplaced.append(Unplaced(received, filled, "", None))
            elif start <= timestamp(filled.time) < end:
                chunk.received.append(received)
                chunk.filled.append(filled)
        for origin, failure in tally.failures.items():
            chunk.unplaced.append(Unplaced(batch.events[origin], None, failure.step, failure.error))
        return chunk


def native_range(pipeline: Pipeline, surroundings: Surroundings) -> NativeRange | None:
    """A reader with a source of its own; None where that cannot be read again by time.

    :raises PenstockError: where the source refuses its configuration.
    """
    if not reads_ranges(pipeline.source.kind):
        return None
    moment = Moment()
    expressions: Expressions = room("expressions")(moment)
    source: RangeSource = build("source", pipeline.source, make_context(pipeline, "source", expressions, surroundings))
    set_batching(source, Batching(), None)  # type: ignore[arg-type]  # the source of a pipeline is a Source, too
    return NativeRange(pipeline, surroundings, source, Preparer.compile(pipeline.event, expressions), moment)


def reads_ranges(kind: str) -> bool:
    """Whether sources of this kind can be read again by time.

    :raises UsageError: there is no such source.
    """
    return hasattr(Catalog().find("source", kind), "read_range")


def no_native(kind: str) -> UsageError:
    """The error for a source that cannot."""
    can: Sequence[str] = sorted(name for name in SOURCES if reads_ranges(name))
    return UsageError(
        "backfill.no_native",
        f"a source of the kind {kind} cannot be read again by time",
        why=f"what it gave is gone once it was read, or is no record of the past; {' and '.join(can)} keep what they gave",
        help="--source journal reads what the journal holds",
    )


def _span(start: float, end: float) -> tuple[datetime, datetime]:
    return datetime.fromtimestamp(start, UTC) - _SLACK, datetime.fromtimestamp(end, UTC) + _SLACK
