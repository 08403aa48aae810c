"""What a step with effects made of one event, as text: kept in the state store until the event is committed, and in the journal.

    {"asked": "9f3a…", "made": [{"type": "paid", "data": {…}}, …]}
    {"asked": "9f3a…", "error": {"code": …, "message": …, "why": …, "help": …}}

Of each output its data, and the attributes in which it differs from the event that went in; no output: the event was filtered.
`asked` says what the answer is to: the step's idempotency key, or without one the event's data, however its text is written, as
a digest. An answer to something else is none.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from penstock.cloudevents import ATTRIBUTES
from penstock.engine.prepare import canonical
from penstock.errors import ComponentError, Permanent
from penstock.event import UNSET, Event
from penstock.journal.lines import on_a_line
from penstock.spi import Result

_CHANGING = (*ATTRIBUTES, "extensions")
_encode = msgspec.json.Encoder().encode


class AnswerError(msgspec.Struct, omit_defaults=True):
    """Why the step failed."""

    code: str
    message: str
    why: str | None = None
    help: str | None = None


class Answer(msgspec.Struct, omit_defaults=True):
    """As it is read. Exactly one of `made` and `error` is there."""

    asked: str
    made: list[dict[str, msgspec.Raw]] | None = None
    error: AnswerError | None = None

    def result(self, event: Event) -> Result:
        """What the step gives for this event."""
        if self.error is not None:
            return Permanent(self.error.code, self.error.message, why=self.error.why, help=self.error.help)
        outputs = [_restored(event, members) for members in self.made or ()]
        return outputs[0] if len(outputs) == 1 else outputs or None


decode_answer = msgspec.json.Decoder(Answer).decode
decode_answers = msgspec.json.Decoder(list[Answer]).decode
"""Those of one step to the events that one received event had become. Both raise `msgspec.MsgspecError`."""


def key_digest(key: str) -> str:
    """What is asked under a key, in 16 hexadecimal digits."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=b"key").hexdigest()


def data_digest(event: Event) -> str:
    """What is asked about an event without a key: its data, however the text is written.

    :raises Permanent: `decode.*` or `encode.not_json`, where the data has no JSON form.
    """
    data = event.data
    try:
        text = data if data.__class__ is bytes else canonical(data)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise Permanent("encode.not_json", f"the data cannot be written as JSON: {error}") from error
    return blake2b(text, digest_size=8, person=b"data").hexdigest()


def answer_text(asked: str, event: Event, result: Result) -> bytes:
    """The answer, on one line.

    :raises Permanent: `encode.*`, where the data of an output has no JSON form.
    """
    head = b'{"asked":"%b",' % asked.encode()
    if isinstance(result, ComponentError):
        error = AnswerError(result.code, result.message, result.why, result.help)
        return head + b'"error":%b}' % _encode(error)
    outputs = [result] if isinstance(result, Event) else result or []
    return head + b'"made":[%b]}' % b",".join(_output_text(event, output) for output in outputs)


def _output_text(event: Event, output: Event) -> bytes:
    changed = [name for name in _CHANGING if getattr(output, name) != getattr(event, name)]
    members = [b"%b:%b" % (_encode(name), _encode(getattr(output, name))) for name in changed]
    if output.raw is None and output.decoded.__class__ is bytes:
        members.append(b'"data_base64":"%b"' % b64encode(output.decoded))
    elif output.raw is not None or output.decoded is not UNSET:
        members.append(b'"data":' + on_a_line(output.json()))
    return b"{%b}" % b",".join(members)


def _restored(event: Event, members: dict[str, msgspec.Raw]) -> Event:
    changes: dict[str, Any] = {name: msgspec.json.decode(text) for name, text in members.items() if name in _CHANGING}
    if "data_base64" in members:
        return event.replace(**changes, decoded=b64decode(msgspec.json.decode(members["data_base64"], type=str)))
    return event.replace(**changes, raw=bytes(members["data"]) if "data" in members else None)


class KeptAnswers:
    """The answers of one step to what one received event had become, each given once.

    Several parts of an event may have asked the same; they get the answers in the order in which they asked.
    """

    __slots__ = ("_left", "_were")

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._left = list(answers)
        self._were = bool(answers)

    def take(self, asked: str) -> Answer | str:
        """The answer to this, or why there is none."""
        for place, answer in enumerate(self._left):
            if answer.asked == asked:
                return self._left.pop(place)
        return (
            "the answers that the journal keeps of it are to something else"
            if self._were
            else "the journal keeps no answer of it"
        )
