"""From a failure to its dead letter: everything needed to understand, mend and replay the event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from penstock.cloudevents import to_structured
from penstock.engine.dedup import data_digest
from penstock.engine.tally import Failure
from penstock.engine.work import Work
from penstock.errors import ComponentError, Oversized, Permanent, Violation
from penstock.event import UNSET, Event, encode
from penstock.state.lane_tables import PARKED
from penstock.state.records import EVERY, DeadLetter, Delivered

KEPT_OF_OVERSIZED = 4096
SOURCE = "source"
"""Step of what the source could make no event of."""
DECODE = "decode"
"""Step of what is no JSON."""
Fingerprint = Callable[[str, str, Sequence[Violation]], str]


@dataclass(frozen=True, slots=True)
class LetterMaker:
    """Makes the dead letters of one run.

    :ivar schedule: seconds until each retry, from the failure before it.
    """

    pipeline: str
    version: str
    fingerprint: Fingerprint
    schedule: Sequence[float] = ()

    def make(
        self, work: Work, failure: Failure, owed: Sequence[str], delivered: Sequence[Delivered], now: float, arrival: int
    ) -> DeadLetter:
        """:param owed: ledgers that have not taken the event. :param delivered: what sinks outside a ledger took of it.
        :param arrival: rises in read order, within a group and from group to group."""
        error = failure.error
        violations = error.violations if isinstance(error, Permanent) else []
        read = work.batch.events[failure.origin]
        key = work.keys.get(failure.origin)
        original, length, digest = _original_of(read, error)
        is_json = failure.step not in (SOURCE, DECODE)
        return DeadLetter(
            id=letter_id(self.pipeline, read),
            pipeline=self.pipeline,
            version=self.version,
            step=failure.step,
            code=error.code,
            message=error.message,
            why=error.why,
            help=error.help,
            fingerprint=self.fingerprint(failure.step, error.code, violations),
            violations=violations,
            partition=work.batch.partition,
            position=read.position,
            source=read.source,
            event_id=read.id,
            type=failure.event.type,
            time=failure.event.time,
            record=to_structured(read if is_json else _without_data(read)),
            event=to_structured(_without_data(failure.event)),
            original=original,
            original_length=length,
            original_digest=digest,
            reread=isinstance(error, Oversized),
            owed=tuple(owed),
            delivered=(*delivered, *(Delivered(sink, EVERY) for sink in work.before.get(failure.origin, ()))),
            key=key.key if key else None,
            brought_by=key.brought_by if key else b"",
            data_digest=data_digest(read) if key and is_json else b"",
            attempts=failure.attempts,
            first_at=now,
            last_at=now,
            status="parked" if error.code == PARKED else "open",
            source_record=_record_of(read) if is_json else None,
            lane=work.lanes.get(failure.origin),
            arrival=arrival,
            retries=work.retries.get(failure.origin, 0),
            redelivered=work.verdicts.redelivers(failure.origin),
            next_at=None if error.code == PARKED else self._next(work.retries.get(failure.origin, 0), now),
        )

    def _next(self, retries: int, now: float) -> float | None:
        """When the next retry is due; None: it waits for people."""
        return now + self.schedule[retries] if retries < len(self.schedule) else None


def letter_id(pipeline: str, event: Event) -> str:
    """The same event has one dead letter, however often it is read."""
    return blake2b(f"{pipeline}\0{event.source}\0{event.id}".encode(), digest_size=8).hexdigest()


def _original_of(read: Event, error: ComponentError) -> tuple[bytes | None, int, str]:
    """What is kept of the record's own bytes; length and digest of all of them."""
    original = read.original if read.original is not None else read.raw
    if isinstance(error, Oversized):
        return original and original[:KEPT_OF_OVERSIZED], error.length, error.digest
    return original, len(original or b""), blake2b(original or b"", digest_size=16).hexdigest()


def _record_of(event: Event) -> bytes | None:
    record = event.record
    return None if record is UNSET else record if isinstance(record, bytes) else encode(record)


def _without_data(event: Event) -> Event:
    return event.replace(raw=None, decoded=UNSET)
