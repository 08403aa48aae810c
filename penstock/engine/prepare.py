"""From what a source read to events with their dedup keys: decode, `event:`, `dedup.key`, in this order.

The key's order decides what the ledger's tables cost: without a custom key it is the position, which comes in order; a custom key
is a digest, led by the event's time only where the key determines that time (docs/adr/0003).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec.structs import replace

from penstock.cloudevents import computed_attribute, timestamp
from penstock.config.model import Dedup, EventFields, Pipeline
from penstock.engine.tally import Tally
from penstock.errors import ComponentError, Permanent
from penstock.event import UNSET, Event
from penstock.ledger import Key
from penstock.spi import Batch, Expressions, FieldsProgram

_decode = msgspec.json.Decoder().decode
canonical = msgspec.json.Encoder(order="sorted").encode
"""JSON text with keys in order: equal data, equal text."""


@dataclass(slots=True)
class Preparer:
    """Decodes the data (so that what is no JSON ends here) and fills the envelope as `event:` says."""

    names: tuple[str, ...]
    fields: FieldsProgram | None

    @classmethod
    def compile(cls, event: EventFields, expressions: Expressions) -> Preparer:
        given = event.given()
        return cls(tuple(given), expressions.fields(given, "record") if given else None)

    def prepare(self, events: Sequence[Event], tally: Tally, rejects: dict[int, ComponentError]) -> list[Event]:
        """The events that could be made, new where `event:` changes them. Their `origin` is set already; `rejects` goes by it."""
        ready: list[Event] = []
        for event in events:
            if rejects and event.origin in rejects:
                tally.fail("source", event, rejects[event.origin])
                continue
            if event.decoded is UNSET and event.raw is not None:
                try:
                    event.decoded = _decode(event.raw)
                except (msgspec.MsgspecError, ValueError, RecursionError):
                    tally.fail("decode", event, _why(event))
                    continue
            ready.append(event)
        return ready if self.fields is None else self._fill(ready, self.fields, tally)

    def _fill(self, events: list[Event], fields: FieldsProgram, tally: Tally) -> list[Event]:
        filled = []
        for event, values in zip(events, fields(events), strict=True):
            if values.__class__ is tuple:
                try:
                    given = zip(self.names, values, strict=True)
                    filled.append(replace(event, **{name: computed_attribute(name, value) for name, value in given}))
                except Permanent as error:
                    tally.fail("event", event, error)
            else:
                tally.fail("event", event, values)  # type: ignore[arg-type]  # an error, by class
        return filled


def _why(event: Event) -> Permanent:
    try:
        event.data  # noqa: B018  # decodes, and raises the located error
    except Permanent as error:
        return error
    return Permanent("decode.invalid_json", "the record is not valid JSON")


@dataclass(slots=True)
class Keys:
    """Gives each event its dedup key.

    :ivar space: fingerprint of the key's definition; another one is another key space (rule 3).
    :ivar program: the custom key, or None for source + id.
    :ivar positional: ids are the source's own, so that its positions can stand for them.
    :ivar timed: the key determines the event's time, which may lead it.
    """

    space: str
    program: FieldsProgram | None
    positional: bool
    timed: bool

    @classmethod
    def compile(cls, dedup: Dedup, pipeline: Pipeline, has_positions: bool, expressions: Expressions) -> Keys:
        given = pipeline.event
        positional = dedup.key is None and has_positions and given.id is None and given.source is None
        program = None if dedup.key is None else expressions.fields({"dedup.key": dedup.key}, "event")
        # A time that depends on the moment of processing would give a repetition another key.
        stable = given.time is not None and "now" not in given.time
        timed = dedup.key is not None and dedup.key.strip() == ".data" and stable
        space = blake2b(repr((dedup.key, positional, timed)).encode(), digest_size=8).hexdigest()
        return cls(space, program, positional, timed)

    def of(self, batch: Batch, events: Sequence[Event], tally: Tally) -> list[Key | None]:
        """One key for each event; None where the program failed, which the tally is told."""
        if self.positional:
            return _by_position(batch.partition, events)
        if self.program is None:
            return [_own(batch.partition, event) for event in events]
        keys: list[Key | None] = []
        for event, values in zip(events, self.program(events), strict=True):
            if values.__class__ is tuple and values[0] is not None:
                keys.append(self._custom(batch.partition, event, values[0]))
            else:
                tally.fail("dedup", event, _no_key(values))
                keys.append(None)
        return keys

    def _custom(self, partition: str, event: Event, value: Any) -> Key:
        text = value.encode() if isinstance(value, str) else canonical(value)
        if self.timed and event.time is not None:
            prefix = (int(timestamp(event.time) * 1000) + (1 << 62)).to_bytes(8, "big")
            key = prefix + blake2b(text, digest_size=8).digest()
        else:
            key = blake2b(text, digest_size=16, person=b"string" if isinstance(value, str) else b"json").digest()
        return Key(key, brought_by(partition, event))


def _by_position(partition: str, events: Sequence[Event]) -> list[Key | None]:
    """Digest of partition and all but the last eight bytes of the position (a file's generation), then these: keys in order."""
    keys: list[Key | None] = []
    head, prefix = None, b""
    new = tuple.__new__  # a NamedTuple's own constructor costs three times as much
    for event in events:
        position = event.position
        if position[:-8] != head:
            head = position[:-8]
            prefix = blake2b(partition.encode() + b"\0" + head, digest_size=8).digest()
        tail = position[-8:].rjust(8, b"\0")
        keys.append(new(Key, (prefix + tail, tail)))
    return keys


def _own(partition: str, event: Event) -> Key:
    return Key(blake2b(f"{event.source}\0{event.id}".encode(), digest_size=16).digest(), brought_by(partition, event))


def brought_by(partition: str, event: Event) -> bytes:
    """Eight bytes that stand for the event as it was read: its place, since `event:` may give several the same id; without
    positions, source and id."""
    place = b"\0".join((partition.encode(), event.position)) if event.position else f"{event.source}\0{event.id}".encode()
    return blake2b(place, digest_size=8).digest()


def _no_key(values: Any) -> ComponentError:
    if isinstance(values, ComponentError):
        return values
    return Permanent("dedup.no_key", "dedup.key gave null for this event", help="give a key that every event has")
