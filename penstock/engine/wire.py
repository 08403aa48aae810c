"""What goes between a run and its workers: bytes in, bytes out, no code and no pickles on the way back."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence

import msgspec

from penstock.engine.tally import Failure, Tally
from penstock.errors import (
    ComponentError,
    EnvironmentFault,
    Fatal,
    Oversized,
    Permanent,
    Transient,
    Unavailable,
    Violation,
)
from penstock.event import UNSET, Event, decode, encode

LENGTH = struct.Struct(">I")
"""Before each block that goes to a worker: how many bytes follow."""
FRAME = struct.Struct(">cI")
"""Before each frame that comes from a worker: its kind, and how many bytes follow."""
ANSWER, STEP, WAITING, WORKING = b"a", b"s", b"w", b"g"
"""Kinds of frames: a reply; the name of the step that begins; a pause before a step's next attempt begins, and ends."""

_KINDS: dict[str, type[ComponentError]] = {
    kind.__name__: kind for kind in (Transient, Unavailable, Permanent, Fatal, EnvironmentFault)
}


class WireError(msgspec.Struct, array_like=True):
    """A component's error."""

    kind: str
    code: str
    message: str
    where: str | None
    why: str | None
    help: str | None
    violations: list[Violation]

    @classmethod
    def of(cls, error: ComponentError) -> WireError:
        kind = next((k.__name__ for k in type(error).__mro__ if k.__name__ in _KINDS), "Fatal")
        where = None if error.where is None else str(error.where)
        violations = error.violations if isinstance(error, Permanent) and not isinstance(error, Oversized) else []
        return cls(kind, error.code, error.message, where, error.why, error.help, violations)

    def error(self) -> ComponentError:
        kind = _KINDS[self.kind]
        if kind is Permanent:
            return Permanent(self.code, self.message, where=self.where, why=self.why, help=self.help, violations=self.violations)
        return kind(self.code, self.message, where=self.where, why=self.why, help=self.help)


class WireFailure(msgspec.Struct, array_like=True):
    """A `Failure`; of its event only the envelope, for nobody looks at the data."""

    origin: int
    step: str
    error: WireError
    event: Event
    attempts: int


class Request(msgspec.Struct, array_like=True):
    """A block of events for a worker.

    :ivar now: the moment that its programs see.
    :ivar prepare: decoding and `event:` are its task too.
    """

    now: float
    prepare: bool
    events: list[Event]


class Reply(msgspec.Struct, array_like=True):
    """What a worker made of a block; `fatal` is why the run must stop; `kept` holds the `$steps` that sinks ask for, as JSON."""

    outputs: list[Event]
    routes: list[int] | None
    failures: list[WireFailure]
    steps: list[tuple[str, str, int]]
    derived: int
    fatal: WireError | None = None
    kept: list[bytes] | None = None

    @classmethod
    def of(cls, outputs: Sequence[Event], routes: list[int] | None, tally: Tally) -> Reply:
        outputs, routes, kept = _writable(outputs, routes, tally)
        return cls(
            outputs,
            routes,
            [
                WireFailure(f.origin, f.step, WireError.of(f.error), _envelope(f.event), f.attempts)
                for f in tally.failures.values()
            ],
            [(step, outcome, count) for (step, outcome), count in tally.steps.items()],
            derived=tally.derived,
            kept=kept,
        )

    def into(self, tally: Tally) -> tuple[list[Event], list[int] | None]:
        """Outputs and routes; failures and counts go to the tally."""
        for failure in self.failures:
            tally.failures.setdefault(
                failure.origin,
                Failure(failure.origin, failure.step, failure.error.error(), failure.event, failure.attempts),
            )
        tally.steps.update(Counter({(step, outcome): count for step, outcome, count in self.steps}))
        tally.derived += self.derived
        for event, steps in zip(self.outputs, self.kept or (), strict=False):
            event.steps = decode(steps)
        return self.outputs, self.routes


def _writable(
    outputs: Sequence[Event], routes: list[int] | None, tally: Tally
) -> tuple[list[Event], list[int] | None, list[bytes] | None]:
    """The outputs, packed, their routes and their `$steps`. An event of which one output has no JSON form fails whole, as it
    would at a sink."""
    asked = any(event.steps for event in outputs)
    refused = set()
    steps: list[bytes] = []
    for event in outputs:
        try:
            packed(event)
            steps.append(encode(event.steps) if asked else b"")
        except Permanent as error:
            tally.fail("transforms", event, error)
            refused.add(event.origin)
            steps.append(b"")
        event.steps, event.record = None, UNSET  # `event:` has been filled: nobody asks for the record any more
    places = [i for i, event in enumerate(outputs) if event.origin not in refused]
    return (
        [outputs[i] for i in places],
        None if routes is None else [routes[i] for i in places],
        [steps[i] for i in places] if asked else None,
    )


def _envelope(event: Event) -> Event:
    return event.replace(raw=None, decoded=UNSET, steps=None, record=UNSET, original=None)


def packed(event: Event) -> Event:
    """The event with its data as text alone, which is what travels.

    :raises Permanent: `encode.*`.
    """
    if event.decoded is not UNSET and not isinstance(event.decoded, bytes):
        event.json()
        event.decoded = UNSET
    if event.record is not UNSET and not isinstance(event.record, bytes):  # msgpack holds no integer beyond 64 bits
        event.record = encode(event.record)
    return event


encode_request = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
encode_reply = msgspec.msgpack.Encoder().encode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def decode_request(body: bytes) -> Request:
    """A block as it arrived, its records decoded."""
    request = _decode_request(body)
    for event in request.events:
        if event.record is not UNSET:
            event.record = decode(event.record)
    return request
