"""What a line of the journal says: one received event, its outcome, and what was made of it. No I/O.

    {"at": …, "partition": …, "version": …, "position": …, "outcome": "delivered", "outputs": ["9f3a…"], "event": {…}}

Members, in this order; what does not apply is left out:

- `at`: when its outcome was decided, RFC 3339; what `now` was in its programs is `now`, where another moment was noted.
- `partition`, `version` (the first 16 digits of the pipeline's), `position` (hexadecimal).
- `outcome`: `delivered`, `filtered`, `deduplicated` or `dead_lettered`; `step`: where it failed; `letter`: its dead letter.
- `corrects`: the line is no new event: it says anew what became of the last one with this id and position, in its own commit, or
  later in a `job`.
- `sinks`: of a job that was not for all sinks, those that it was for: of a replay, those of the ledgers that owed the letter.
- `outputs`: for each output a check value, or the CloudEvent itself, as the pipeline's `journal.outputs` says; null for one that
  has no JSON form.
- `routes`: beside whole outputs, for each the bit mask of the sinks that took it; left out where all did.
- `answers`: by step with effects, what the world answered, a list: mostly of one, of several where the event had become several
  before that step (`penstock.engine.answers`). A job's line has what the world answered in the job.
- `given`: attributes as the source gave them, where `event:` made others of them.
- `record`: what programs under `event:` see, where that is more than the data.
- `original`: the record's own bytes in Base64, where it is no JSON or `data` is not just these.
- `no_json`: why `event` is without its data: a source gave some that has no JSON form.
- `event`: the CloudEvent as it went into the steps, with its data.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from zlib import crc32

import msgspec

from penstock.cloudevents import ATTRIBUTES, from_structured, to_structured
from penstock.errors import Permanent
from penstock.event import UNSET, Event, decode, encode

Outcome = Literal["delivered", "filtered", "deduplicated", "dead_lettered", "unknown"]
"""`unknown` is of lines alone that a native range has copied from the source, where the pipeline's journal does not tell of the
event: no run writes it."""

_text = msgspec.json.Encoder().encode
VERSION_DIGITS = 16
"""Of a pipeline version, as lines name it."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A line as it is read. `event` and `record` are JSON text, decoded when somebody looks (`received`)."""

    at: str
    partition: str
    version: str
    position: str = ""
    job: str | None = None
    outcome: Outcome
    step: str | None = None
    letter: str | None = None
    corrects: str | None = None
    sinks: list[str] | None = None
    outputs: list[str | dict[str, Any] | None] | None = None
    routes: list[int] | None = None
    answers: dict[str, msgspec.Raw] | None = None
    given: dict[str, str | None] | None = None
    record: msgspec.Raw = msgspec.Raw(b"")
    original: str | None = None
    no_json: str | None = None
    event: msgspec.Raw = msgspec.Raw(b"")

    @property
    def is_event(self) -> bool:
        """Whether it tells of an event that was received, and not what became of an earlier one."""
        return self.corrects is None

    def filled(self) -> Event:
        """The event as it went into the steps; its position is the one that the source gave it.

        :raises Permanent: where the line holds none (a correction), or no CloudEvent.
        """
        event = _event_of(self.event)
        event.position = bytes.fromhex(self.position)
        if bytes(self.record):
            event.record = decode(bytes(self.record))
        if self.original is not None:
            event.original = b64decode(self.original)
        return event

    def received(self) -> Event:
        """The event as the source gave it, before `event:`. Raises as `filled`."""
        event = self.filled()
        return event.replace(**self.given) if self.given else event


class _Written(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A CloudEvent as most lines have it: without extensions, its data JSON. What they say was checked when it was written."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    time: str | None = None
    subject: str | None = None
    partitionkey: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


_written = msgspec.json.Decoder(_Written).decode


def _event_of(text: msgspec.Raw) -> Event:
    """As `from_structured`; data that nobody looks at is not decoded."""
    try:
        w = _written(text)
    except msgspec.MsgspecError:
        return from_structured(bytes(text))
    raw = bytes(w.data) or None
    return Event(w.id, w.source, w.type, w.time, w.subject, raw, UNSET, w.partitionkey, w.datacontenttype, w.dataschema)


decode_line = msgspec.json.Decoder(Line).decode
"""One line of a segment. Raises `msgspec.MsgspecError` where it is none."""


class IdAndTime(msgspec.Struct):
    """What an event is found by, as it went into the steps."""

    id: str
    time: str | None = None


_id_and_time = msgspec.json.Decoder(IdAndTime).decode


def id_and_time(line: Line) -> IdAndTime:
    """Of a line's event; of a line that corrects another, the id alone.

    :raises msgspec.MsgspecError: where the line holds no event.
    """
    return IdAndTime(line.corrects) if line.corrects is not None else _id_and_time(line.event)


def head_text(at: str, partition: str, version: str) -> bytes:
    """What the lines of one batch begin with.

    :param at: RFC 3339.
    """
    return b'{"at":%b,"partition":%b,"version":%b' % (_text(at), _text(partition), _text(version))


class Envelopes:
    """Structured CloudEvents on one line, as `to_structured` makes them, with the text of the last source and type kept: mostly
    those of a batch are all the same."""

    __slots__ = ("_source", "_text", "_type")

    def __init__(self) -> None:
        self._source = self._type = ""
        self._text = b""

    def of(self, event: Event) -> bytes:
        """:raises Permanent: as `to_structured`."""
        raw = event.raw
        if (
            raw is None
            or event.subject is not None
            or event.partitionkey is not None
            or event.datacontenttype is not None
            or event.dataschema is not None
            or event.extensions
            or b"\n" in raw
        ):
            return to_structured(event)
        if event.source != self._source or event.type != self._type:
            self._source, self._type = event.source, event.type
            self._text = b',"source":' + _text(event.source) + b',"type":' + _text(event.type)
        if event.time is None:
            return b'{"specversion":"1.0","id":%b%b,"data":%b}' % (_text(event.id), self._text, raw)
        return b'{"specversion":"1.0","id":%b%b,"time":%b,"data":%b}' % (_text(event.id), self._text, _text(event.time), raw)

    def members(self, event: Event) -> bytes:
        """The member `event`; of one whose data has no JSON form without the data, behind `no_json`."""
        try:
            return b',"event":' + self.of(event)
        except Permanent as error:  # a source's own data; where it matters, a step or a sink has said so
            return no_json_text(error.message) + b',"event":' + self.of(event.replace(raw=None, decoded=UNSET))


def check_value(event: Event, received: Event, sinks: int) -> bytes:
    """A JSON string over an output and the sinks it goes to (their bit mask): another output has another, but for one chance in
    2^32. A checksum, which notices a change and is no defence against a forger.

    Equal outputs in other words (`1.0` for `1`, keys in another order) have other values: whoever compares looks at the outputs
    themselves then.

    :param received: the event that it was made of, as it went into the steps: attributes that are the same cost nothing.
    """
    raw = event.raw
    if raw is None:
        raw = event.decoded if event.decoded.__class__ is bytes else event.json()
    return check_plain(event, received, sinks, on_a_line(raw))


def on_a_line(raw: bytes) -> bytes:
    """JSON text as a line has it, from which it is computed again."""
    raw = raw.strip()
    return raw.replace(b"\r", b" ").replace(b"\n", b" ") if b"\n" in raw or b"\r" in raw else raw


def are_on_lines(texts: Sequence[bytes | None]) -> bool:
    """Whether all of these are there, and as `on_a_line` makes them: looked at together, that costs next to nothing."""
    if None in texts:
        return False
    joined = b"".join(texts)  # type: ignore[arg-type]  # none is None
    return not (b"\n" in joined or b"\r" in joined) and list(map(bytes.strip, texts)) == texts  # type: ignore[arg-type]  # as above


def check_plain(event: Event, received: Event, sinks: int, raw: bytes) -> bytes:
    """As `check_value`, of a text that is as a line has it."""
    if (
        event.id == received.id
        and event.type == received.type
        and event.time == received.time
        and event.subject == received.subject
        and event.partitionkey == received.partitionkey
        and event.source == received.source
        and event.dataschema == received.dataschema
        and event.datacontenttype == received.datacontenttype
        and event.extensions == received.extensions
    ):
        return b'"%08x"' % crc32(raw, sinks & 0xFFFFFFFF)
    said = f"{event.id}\n{event.source}\n{event.type}\n{event.time}\n{event.subject}\n{event.partitionkey}\n{event.dataschema}"
    head = f"{said}\n{event.datacontenttype}\n{event.extensions}".encode()
    return b'"%08x"' % crc32(raw, crc32(head, sinks & 0xFFFFFFFF))


def outcome_text(outcome: Outcome, step: str | None, letter: str | None) -> bytes:
    """The members that say what became of it."""
    text = b',"outcome":"%b"' % outcome.encode()
    if step is not None:
        text += b',"step":' + _text(step)
    if letter is not None:
        text += b',"letter":' + _text(letter)
    return text


def corrects_text(identity: str, job: str, sinks: Sequence[str] | None = None) -> bytes:
    """The members of a line that says anew what became of an event.

    :param job: the job that did; empty where it is the commit that the event came in with.
    :param sinks: those that the job was for; None: all.
    """
    text = b',"corrects":' + _text(identity)
    if sinks is not None:
        text += b',"sinks":' + _text(sinks)
    return b',"job":' + _text(job) + text if job else text


def given_text(received: Event, filled: Event) -> bytes:
    """The member `given`, of an event that `event:` changed; empty where it did not."""
    if received is filled:
        return b""
    given = {name: value for name in ATTRIBUTES if (value := getattr(received, name)) != getattr(filled, name)}
    return b',"given":' + _text(given) if given else b""


def source_text(received: Event, is_json: bool) -> bytes:
    """The members `record` and `original`."""
    text = b""
    record = received.record
    if record is not UNSET:
        text = b',"record":' + (record if record.__class__ is bytes else encode(record))
    original = received.original if is_json else (received.original or received.raw)
    return text if original is None else text + b',"original":"' + b64encode(original) + b'"'


def routes_text(masks: Sequence[int]) -> bytes:
    """The member `routes`."""
    return b',"routes":' + _text(masks)


def no_json_text(why: str) -> bytes:
    """The member `no_json`."""
    return b',"no_json":' + _text(why)


def answers_text(answers: Mapping[str, bytes]) -> bytes:
    """The member `answers`: by step, JSON."""
    if not answers:
        return b""
    return b',"answers":{' + b",".join(_text(step) + b":" + answer for step, answer in answers.items()) + b"}"
