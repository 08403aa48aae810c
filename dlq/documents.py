"""Dead letters and their groups as JSON. Data is carried over as text, so that its numbers stay exact."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.clock import rfc3339
from penstock.state.records import DeadLetter, Group, Happening, LetterStats, Timeline


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
        "lane": letter.lane,
        "retries": letter.retries,
        "next_retry_at": next_retry(letter),
    }


def next_retry(letter: DeadLetter) -> str | None:
    """When its next retry of the schedule is due; None where it waits for people, or behind another letter."""
    return rfc3339(letter.next_at) if letter.next_at is not None and letter.status == "open" else None


def full_document(letter: DeadLetter, history: Sequence[Happening] = ()) -> dict[str, Any]:
    """Everything that is kept, as `show` gives it.

    `received` is the event as the source emitted it, with its data; `edited` what a replay sends in its place, where somebody
    mended it; `source_record` what `event:` saw, where that was more; `original` the record's own bytes in Base64, only its head
    where `original_length` says that there was more; `position` hexadecimal; `history` what was done with it, oldest first.
    """
    return {
        **letter_document(letter),
        "why": letter.why,
        "help": letter.help,
        "violations": [{"path": v.path, "rule": v.rule, "message": v.message} for v in letter.violations],
        "partition": letter.partition,
        "position": letter.position.hex(),
        "received": msgspec.Raw(letter.record) if letter.record else None,
        "edited": None if letter.edited is None else msgspec.Raw(letter.edited),
        "source_record": None if letter.source_record is None else msgspec.Raw(letter.source_record),
        "original": None if letter.original is None else base64.b64encode(letter.original).decode(),
        "original_length": letter.original_length,
        "original_digest": letter.original_digest,
        "owed": list(letter.owed),
        "delivered": [{"sink": taken.sink, "output": taken.output} for taken in letter.delivered],
        "job": letter.job,
        "history": [happening_document(happening) for happening in history],
    }


def happening_document(happening: Happening) -> dict[str, Any]:
    """Something that was done; `before` and `after` of an edit are events."""
    detail = {
        name: msgspec.Raw(value.encode()) if name in ("before", "after") else value for name, value in happening.detail.items()
    }
    return {"at": rfc3339(happening.at), "what": happening.what, "by": happening.by, **detail}


def group_document(group: Group, line: Timeline | None = None) -> dict[str, Any]:
    """A group of dead letters of one cause; `timeline` says how many failed first in each stretch of `seconds`."""
    return {
        "fingerprint": group.fingerprint,
        "code": group.code,
        "step": group.step,
        "message": group.message,
        "count": group.count,
        "repeats": group.repeats,
        "first_at": rfc3339(group.first_at),
        "last_at": rfc3339(group.last_at),
        "example": group.example,
        "timeline": None
        if line is None
        else {"from": rfc3339(line.start), "seconds": line.width, "counts": list(line.cells.get(group.fingerprint, ()))},
    }


def stats_document(pipeline: str, stats: LetterStats) -> dict[str, Any]:
    """Dead letters in figures."""
    return {
        "pipeline": pipeline,
        "letters": stats.letters,
        "repeats": stats.repeats,
        "bytes": stats.bytes,
        "oldest_at": None if stats.oldest is None else rfc3339(stats.oldest),
        "by_status": dict(stats.by_status),
        "by_code": dict(stats.by_code),
        "by_step": dict(stats.by_step),
        "by_type": dict(stats.by_type),
        "by_day": {rfc3339(day)[:10]: letters for day, letters in stats.by_day.items()},
    }
