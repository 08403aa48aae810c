"""Lines of a copy: an event as the source has it now, with what the pipeline's journal says became of it. No I/O.

What is as it was: where and when it was received, its version, its outcome, what was made of it, what steps with effects were
answered. What is new: the event, by today's `event:`. An event that the journal does not tell of has the outcome `unknown`.
"""

from __future__ import annotations

from binascii import b2a_hex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.clock import rfc3339
from penstock.cloudevents import timestamp
from penstock.engine.letters import DECODE, SOURCE
from penstock.engine.native import Unplaced
from penstock.event import UNSET, Event, decode
from penstock.journal.encoding import Lines
from penstock.journal.lines import (
    Envelopes,
    Line,
    answers_text,
    given_text,
    head_text,
    no_json_text,
    outcome_text,
    routes_text,
    source_text,
)

_text = msgspec.json.Encoder().encode
_ATTRIBUTES = ("id", "source", "type", "time", "subject", "partitionkey", "datacontenttype", "dataschema", "extensions")


@dataclass(slots=True)
class CopyLines:
    """Collects lines.

    :ivar version: of the lines that no version is known of: what the last run had.
    :ivar changed: how many events are others than the journal has them.
    """

    version: str
    changed: int = 0
    _lines: Lines = field(default_factory=lambda: Lines((0.0, 0.0)))
    _received: dict[str, float] = field(default_factory=dict)
    _envelopes: Envelopes = field(default_factory=Envelopes)

    def add(self, partition: str, received: Event, filled: Event, line: Line | None, now: float) -> None:
        """An event.

        :param line: what the journal has of it; None: nothing.
        :param now: when it was read, in seconds since 1970: when it was received is not known of one that the journal does not
            tell of.
        """
        content = self._content(received, filled)
        if line is None:
            at = rfc3339(now)
            place = head_text(at, partition, self.version) + b',"position":"%b"' % b2a_hex(received.position)
            text = place + outcome_text("unknown", None, None)
        else:
            at, place = line.at, head_text(line.at, line.partition, line.version) + b',"position":"%b"' % line.position.encode()
            text = place + self._became(line)
            if not _is_content_of(line, content) and _differ(line, received):
                self.changed += 1
        self._put(text + content + b"}", at, filled, received)

    def add_as_it_was(self, line: Line, received: Event) -> None:
        """What no event can be made of, as when the run read it."""
        self._put(_text(line), line.at, line.filled(), received)

    def take(self) -> Lines:
        """What was collected since the last call."""
        lines, self._lines = self._lines, Lines((0.0, 0.0))
        if self._received:
            lines.at = min(self._received.values()), max(self._received.values())
        self._received = {}
        return lines

    def _put(self, text: bytes, at: str, filled: Event, received: Event) -> None:
        lines = self._lines
        if filled.id != received.id:
            lines.others[len(lines.ids)] = received.id
        lines.texts.append(text)
        lines.ids.append(filled.id)
        lines.times.append(filled.time or at)
        if at not in self._received:
            self._received[at] = timestamp(at)

    def _became(self, line: Line) -> bytes:
        step = None if line.outcome == "dead_lettered" and line.step in (SOURCE, DECODE) else line.step  # it is an event now
        text = outcome_text(line.outcome, step, line.letter)
        if line.outputs is not None:
            text += b',"outputs":' + _text(line.outputs)
        if line.routes is not None:
            text += routes_text(line.routes)
        return text + answers_text({name: bytes(answers) for name, answers in (line.answers or {}).items()})

    def _content(self, received: Event, filled: Event) -> bytes:
        text = given_text(received, filled)
        if received.record is not UNSET or received.original is not None:
            text += source_text(received, is_json=True)
        return text + self._envelopes.members(filled)


def was_the_same(line: Line, unplaced: Unplaced) -> bool:
    """Whether a run could make no event of it either."""
    return line.outcome == "dead_lettered" and line.step == unplaced.step


def _is_content_of(line: Line, content: bytes) -> bool:
    """Whether the journal has these very bytes: so it is mostly, and nothing needs to be decoded."""
    text = b',"given":' + _text(line.given) if line.given else b""
    if bytes(line.record):
        text += b',"record":' + bytes(line.record)
    if line.original is not None:
        text += b',"original":' + _text(line.original)
    if line.no_json is not None:
        text += no_json_text(line.no_json)
    return text + b',"event":' + bytes(line.event) == content


def _differ(line: Line, received: Event) -> bool:
    """Whether the event is another than the run received: by its values, whatever words they are in."""
    then = line.received()
    if any(getattr(then, name) != getattr(received, name) for name in _ATTRIBUTES):
        return True
    return _values(then) != _values(received)


def _values(event: Event) -> Sequence[Any]:
    data = event.data if event.raw is not None or event.decoded is not UNSET else None
    record = None if event.record is UNSET else event.record
    return data, decode(record) if isinstance(record, bytes) else record, event.original
