"""Dead letters to files and back: exact, or redacted for somebody else's eyes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from dlq.documents import full_document
from dlq.queue import whole_letters
from dlq.redaction import Path, Redaction
from dlq.transfer import FORMAT, adopted, export_line, import_line
from penstock.errors import UsageError
from penstock.state.letter_desk import Act
from penstock.state.records import DeadLetter, Happening, LetterQuery
from penstock.state.store import StateStore

_IMPORTED_AT_ONCE = 100

Outcome = Literal["added", "there", "differs", "other_pipeline", "refused"]


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one line of an import.

    :ivar line: its number, from 1.
    :ivar id: of its letter; None where it could not be read.
    :ivar why: why it was not taken in; empty where it was, or was there already.
    """

    line: int
    outcome: Outcome
    id: str | None = None
    why: str = ""


class Shipping:
    """Over an open state store. Works beside a live run."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def export(self, query: LetterQuery, redaction: Redaction | None = None) -> AsyncIterator[bytes]:
        """What the query selects, each letter as one line of JSON without its end, from which `take_in` makes it again."""
        async for letter in whole_letters(self._store, query):
            history = await self._store.desk.history(letter.id)
            if redaction is None:
                yield export_line(letter, history)
            else:
                yield _redacted(letter, redaction)

    async def take_in(self, lines: Iterable[bytes], own: str, act: Act, *, adopt: bool) -> AsyncIterator[Imported]:
        """Take in the lines of an export; doing it again changes nothing. A letter that is there already stays as it is.

        :param own: name of this pipeline.
        :param adopt: letters of other pipelines become its own; else they are refused.
        """
        waiting: list[tuple[int, DeadLetter, list[Happening]]] = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                letter, history = import_line(line)
            except UsageError as error:
                yield Imported(number, "refused", None, ": ".join(filter(None, (error.message, error.why))))
                continue
            if letter.pipeline != own and not adopt:
                yield Imported(number, "other_pipeline", letter.id, f"it is a dead letter of the pipeline {letter.pipeline}")
                continue
            waiting.append((number, letter if letter.pipeline == own else adopted(letter, own), history))
            if len(waiting) == _IMPORTED_AT_ONCE:
                for imported in await self._put(waiting, act):
                    yield imported
                waiting = []
        for imported in await self._put(waiting, act):
            yield imported

    async def _put(self, letters: Sequence[tuple[int, DeadLetter, list[Happening]]], act: Act) -> list[Imported]:
        there = await self._store.desk.take_in([(letter, history) for _, letter, history in letters], act)
        outcomes = []
        for (number, letter, _), found in zip(letters, there, strict=True):
            if found is None:
                outcomes.append(Imported(number, "added", letter.id))
            elif _lasting(found) == _lasting(letter):
                outcomes.append(Imported(number, "there", letter.id))
            else:
                why = f"there is a dead letter of this event, which differs and is {found.status}"
                outcomes.append(Imported(number, "differs", letter.id, why))
        return outcomes


def _lasting(letter: DeadLetter) -> bytes:
    """But for what a run may change as soon as the letter is there: when it is to be sent."""
    return export_line(replace(letter, next_at=None), [])


def _redacted(letter: DeadLetter, redaction: Redaction) -> bytes:
    """A line for somebody else's eyes: no import takes it. What is not JSON, and edits, are left out as a whole."""
    redactor = redaction.redactor()
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(full_document(letter)))
    for name in ("received", "edited", "source_record", "event"):
        prefix: Path = ("record",) if name == "source_record" else ()
        document[name] = redactor.redact(document[name], prefix)
    for name in ("message", "why", "help"):
        document[name] = document[name] and redactor.text(document[name])
    for violation in document["violations"]:
        violation["message"] = redactor.text(violation["message"])
    document["original"] = None
    redaction.changed.update(redactor.changed)
    return msgspec.json.encode({"dead_letter": FORMAT, "redacted": True, **document})
