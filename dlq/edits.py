"""The event of a dead letter, mended by a person: validated as an event before it is kept, and the same event still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from penstock.builtins import room
from penstock.cloudevents import from_structured, to_structured
from penstock.errors import ComponentError, Permanent, UsageError
from penstock.event import Event, encode
from penstock.state.records import DeadLetter

Editor = Callable[[DeadLetter], bytes | None]
"""The edited event of a letter with its bodies, as it is kept; None: it stays as it is."""


def editable(letter: DeadLetter) -> bytes:
    """The event that a replay would send, as JSON of several lines. What was no JSON is a string.

    :raises UsageError: `dlq.head_only`, `dlq.not_text`.
    """
    return msgspec.json.format(_effective(letter), indent=2)


def _effective(letter: DeadLetter) -> bytes:
    if letter.edited is not None:
        return letter.edited
    if letter.reread:
        raise UsageError(
            "dlq.head_only",
            f"of the record of the dead letter {letter.id} only the first bytes are kept",
            help="mend it where it is read from: a replay reads it again",
        )
    event = from_structured(letter.record)
    if event.raw is not None or isinstance(event.decoded, bytes) or letter.original is None:
        return letter.record
    try:
        return to_structured(event.replace(decoded=letter.original.decode()))
    except UnicodeDecodeError as error:
        raise UsageError(
            "dlq.not_text",
            f"the record of the dead letter {letter.id} is neither JSON nor text",
            why=f"byte {error.start} is not UTF-8",
            help="pipe dlq edit ID --file FILE takes an event that was made by other means",
        ) from error


def edited(letter: DeadLetter, text: bytes) -> bytes | None:
    """What is kept of an edited text; None, where it says what it said before.

    :raises UsageError: `dlq.bad_edit`: it is no event; `dlq.other_event`: it is another one.
    """
    try:
        event = from_structured(text)
        record = to_structured(event if event.raw is None else event.replace(raw=msgspec.json.format(event.raw, indent=-1)))
    except Permanent as error:
        raise UsageError("dlq.bad_edit", f"this is no event: {error.message}", why=error.why, help=error.help) from error
    if (event.source, event.id) != (letter.source, letter.event_id):
        raise UsageError(
            "dlq.other_event",
            "the source and the id of an event cannot be edited",
            why=f"they name it: source {letter.source}, id {letter.event_id}",
            help="put them back",
        )
    return None if _same(record, _effective(letter)) else record


def _same(text: bytes, other: bytes) -> bool:
    """Whether two texts differ in white space alone."""
    return msgspec.json.format(text, indent=-1) == msgspec.json.format(other, indent=-1)


def patch(program: str) -> Editor:
    """An edit by a jq program over the event (`.data.total |= tonumber`), which gives the whole event back.

    :raises UsageError: `dlq.bad_patch`, where the program cannot be read.
    """
    try:
        compiled = room("expressions")().program(program, "event")
    except Permanent as error:
        raise UsageError("dlq.bad_patch", error.message, why=error.why, help=error.help) from error

    def apply(letter: DeadLetter) -> bytes | None:
        event = from_structured(_effective(letter))
        (outputs,) = compiled([event])
        if isinstance(outputs, ComponentError):
            raise UsageError("dlq.patch_failed", outputs.message, why=outputs.why, help=outputs.help)
        return edited(letter, _patched(event, outputs))

    return apply


def _patched(event: Event, outputs: list[Any]) -> bytes:
    if len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise UsageError(
            "dlq.patch_failed",
            f"the program gives {len(outputs)} values" if len(outputs) != 1 else "the program gives no object",
            help="it must give the whole event back: .data.total |= tonumber, not .data.total | tonumber",
        )
    if "data" in outputs[0] and event.raw is not None and event.data == outputs[0]["data"]:  # numbers keep their text
        head = {name: value for name, value in outputs[0].items() if name != "data"}
        return encode(head)[:-1] + b',"data":' + event.raw + b"}"
    return encode({"specversion": "1.0", **outputs[0]})
