"""Dead letters as lines of a file: exact, so that a letter that is taken in elsewhere and given out again is the same bytes.

A line is the full document, and under `exact` what that rounds or leaves out. Its bodies are carried over as the text they are.
`dead_letter` is the version of the format.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import msgspec

from dlq.documents import full_document
from penstock.cloudevents import from_structured
from penstock.engine.letters import letter_id
from penstock.errors import Permanent, UsageError, Violation
from penstock.event import Event
from penstock.state.records import DeadLetter, Delivered, Happening, Status

FORMAT = 1
LOCAL = "imported"
"""What only this store tells of a letter: it is not given out."""


_NULL = msgspec.Raw(b"null")


class _Exact(msgspec.Struct):
    source: str
    event_id: str
    type: str
    time: str | None
    reread: bool
    key: str | None
    brought_by: str
    data_digest: str
    first_at: float
    last_at: float
    history: list[Happening]
    lane: str | None = None
    arrival: int = 0
    retries: int = 0
    next_at: float | None = None
    redelivered: bool = False


class _Line(msgspec.Struct):
    dead_letter: int
    id: str
    pipeline: str
    version: str
    step: str
    code: str
    message: str
    fingerprint: str
    event: msgspec.Raw
    attempts: int
    repeats: int
    status: Status
    violations: list[Violation]
    partition: str
    position: str
    received: msgspec.Raw
    owed: list[str]
    delivered: list[Delivered]
    exact: _Exact
    original_length: int
    original_digest: str
    why: str | None = None
    help: str | None = None
    edited: msgspec.Raw = _NULL
    source_record: msgspec.Raw = _NULL
    original: str | None = None
    redacted: bool = False


class _Head(msgspec.Struct):
    dead_letter: int = 0
    redacted: bool = False


_decode = msgspec.json.Decoder(_Line).decode
_decode_head = msgspec.json.Decoder(_Head).decode


def export_line(letter: DeadLetter, history: Sequence[Happening]) -> bytes:
    """The letter as one line of JSON, without its end."""
    kept = [happening for happening in history if happening.what != LOCAL]
    exact = _Exact(
        letter.source, letter.event_id, letter.type, letter.time, letter.reread, None if letter.key is None else letter.key.hex(),
        letter.brought_by.hex(), letter.data_digest.hex(), letter.first_at, letter.last_at, kept,
        letter.lane, letter.arrival, letter.retries, letter.next_at, letter.redelivered,
    )  # fmt: skip
    document: dict[str, Any] = {"dead_letter": FORMAT, **full_document(letter, kept), "exact": exact}
    return msgspec.json.encode(document)


def import_line(line: bytes) -> tuple[DeadLetter, list[Happening]]:
    """The letter of a line, with its history. One that was in a replay is open: that replay is another store's.

    :raises UsageError: `dlq.bad_line`, with why: no line of an export, a damaged one, or one of a newer program; `dlq.redacted`.
    """
    try:
        head = _decode_head(line)
        if head.dead_letter != FORMAT:
            raise _refused(f"its format is {head.dead_letter or 'none'}; this program knows {FORMAT}")
        if head.redacted:
            raise UsageError("dlq.redacted", "what was redacted is not what came, and cannot be replayed")
        given = _decode(line)
        letter = _letter(given)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _refused(str(error)) from error
    except (ValueError, binascii.Error) as error:
        raise _refused(f"a value is no hexadecimal or Base64: {error}") from error
    except Permanent as error:
        raise _refused(f"its event is none: {error.message}") from error
    return letter, given.exact.history


def _letter(given: _Line) -> DeadLetter:
    exact = given.exact
    letter = DeadLetter(
        id=given.id, pipeline=given.pipeline, version=given.version, step=given.step, code=given.code, message=given.message,
        fingerprint=given.fingerprint, partition=given.partition, position=bytes.fromhex(given.position), source=exact.source,
        event_id=exact.event_id, type=exact.type, time=exact.time, record=_text(given.received) or b"",
        event=_text(given.event) or b"", original=_bytes(given.original),
        original_length=given.original_length, original_digest=given.original_digest, reread=exact.reread, why=given.why,
        help=given.help, violations=given.violations, owed=given.owed, delivered=given.delivered,
        key=None if exact.key is None else bytes.fromhex(exact.key), brought_by=bytes.fromhex(exact.brought_by),
        data_digest=bytes.fromhex(exact.data_digest), attempts=given.attempts, repeats=given.repeats, first_at=exact.first_at,
        last_at=exact.last_at, status="open" if given.status == "replaying" else given.status,
        source_record=_text(given.source_record), edited=_text(given.edited), lane=exact.lane, arrival=exact.arrival,
        retries=exact.retries, next_at=exact.next_at, redelivered=exact.redelivered,
    )  # fmt: skip
    _check(letter)
    return letter


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def _text(raw: msgspec.Raw) -> bytes | None:
    text = bytes(raw)
    return None if text == b"null" else text


def _check(letter: DeadLetter) -> None:
    """What a hand or a disk may have changed."""
    for text in filter(None, (letter.record, letter.event, letter.edited)):
        event = from_structured(text)
        if text is not letter.event and (event.source, event.id) != (letter.source, letter.event_id):
            raise _refused("its event has another source or id than the letter")
    if letter_id(letter.pipeline, _named(letter)) != letter.id:
        raise _refused("its id is not that of its pipeline and event")
    whole = None if letter.reread else letter.original
    if whole is not None and blake2b(whole, digest_size=16).hexdigest() != letter.original_digest:
        raise _refused("the bytes of its record do not fit their digest")


def adopted(letter: DeadLetter, pipeline: str) -> DeadLetter:
    """The letter as another pipeline's: the same event of it would have this one."""
    return replace(letter, pipeline=pipeline, id=letter_id(pipeline, _named(letter)))


def _named(letter: DeadLetter) -> Event:
    return Event(letter.event_id, letter.source, letter.type)


def _refused(why: str) -> UsageError:
    return UsageError("dlq.bad_line", "this is no line of an export of dead letters", why=why)
