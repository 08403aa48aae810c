"""Dead letters and their groups as JSON. Data is carried over as text, so that its numbers stay exact."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from penstock.clock import rfc3339
from penstock.state.records import DeadLetter, Group


def letter_document(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as listings give it. `event` is the event as it stood when it failed, without its data."""
    return {
        "id": letter.id,
        "pipeline": letter.pipeline,
        "fingerprint": letter.fingerprint,
        "code": letter.code,
        "step": letter.step,
        "message": letter.message,
        "event": msgspec.Raw(letter.event),
        "attempts": letter.attempts,
        "repeats": letter.repeats,
        "first_at": rfc3339(letter.first_at),
        "last_at": rfc3339(letter.last_at),
        "status": letter.status,
        "version": letter.version,
    }


def full_document(letter: DeadLetter) -> dict[str, Any]:
    """Everything that is kept, as `show` and `export` give it.

    `received` is the event as the source emitted it, with its data; `source_record` what `event:` saw, where that was more;
    `original` the record's own bytes in Base64, only its head where `original_length` says that there was more; `position`
    hexadecimal.
    """
    return {
        **letter_document(letter),
        "why": letter.why,
        "help": letter.help,
        "violations": [{"path": v.path, "rule": v.rule, "message": v.message} for v in letter.violations],
        "partition": letter.partition,
        "position": letter.position.hex(),
        "received": msgspec.Raw(letter.record) if letter.record else None,
        "source_record": None if letter.source_record is None else msgspec.Raw(letter.source_record),
        "original": None if letter.original is None else base64.b64encode(letter.original).decode(),
        "original_length": letter.original_length,
        "original_digest": letter.original_digest,
        "owed": list(letter.owed),
        "delivered": [{"sink": taken.sink, "output": taken.output} for taken in letter.delivered],
        "job": letter.job,
    }


def group_document(group: Group) -> dict[str, Any]:
    """A group of dead letters of one cause."""
    return {
        "fingerprint": group.fingerprint,
        "code": group.code,
        "step": group.step,
        "message": group.message,
        "count": group.count,
        "first_at": rfc3339(group.first_at),
        "last_at": rfc3339(group.last_at),
        "example": group.example,
    }
