"""Lines of a journal as a run writes them, made of events and what became of them."""

from __future__ import annotations

from typing import Any

from penstock.cloudevents import to_structured
from penstock.event import Event, encode
from penstock.journal.lines import Line, decode_line

AT = "2026-03-01T12:00:00.250Z"


def line(data: Any, *, identity: str = "0-1", outcome: str = "delivered", at: str = AT, **more: Any) -> Line:
    """The line of one event with this data; `more` are members of it."""
    event = Event(identity, "file:a.jsonl", "file.record", raw=data if isinstance(data, bytes) else encode(data))
    return line_of(event, outcome=outcome, at=at, **more)


def line_of(event: Event, *, outcome: str = "delivered", at: str = AT, **more: Any) -> Line:
    head = {"at": at, "partition": "a.jsonl", "version": "0" * 16, "position": "0001", "outcome": outcome, **more}
    return decode_line(encode(head)[:-1] + b',"event":' + to_structured(event) + b"}")
