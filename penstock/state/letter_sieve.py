"""What a query asks of events themselves: their own time, and a jq program. Looked at page by page, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from penstock.builtins import room
from penstock.cloudevents import from_structured, is_time, timestamp
from penstock.errors import ComponentError, Permanent, UsageError
from penstock.event import Event
from penstock.spi import Program
from penstock.state.dialect import Connection
from penstock.state.letter_queries import by_ids, cursor_of, page
from penstock.state.letter_where import resolve_fingerprint, resolve_id
from penstock.state.records import DeadLetter, LetterQuery

LOOKED_AT_ONCE = 1000
"""Letters that one page looks at: behind it somebody else may have the store."""
MOST_NAMED = 100_000
NOBODY = "-"
"""An id that no letter has."""
_CHUNK = 200
_CHUNK_BYTES = 4 << 20


def sifted_page(
    connection: Connection, pipeline: str, query: LetterQuery, after: str | None, limit: int, bodies: bool
) -> tuple[list[DeadLetter], str | None]:
    """See `StateStore.letters`. A page may be shorter than the limit although another one follows.

    :raises UsageError: as `page`; `dlq.bad_filter`, `dlq.filter_failed`.
    """
    sieve = Sieve(query)
    plain = replace(query, filter=None, event_after=None, event_before=None)
    kept: list[DeadLetter] = []
    looked, cursor = 0, after
    while looked < LOOKED_AT_ONCE:
        letters, cursor = page(connection, pipeline, plain, cursor, _CHUNK, bodies=False)
        looked += len(letters)
        for portion in portions(letters, _CHUNK_BYTES):
            for letter in sieve.keep(connection, pipeline, portion, bodies):
                kept.append(letter)
                if len(kept) == limit:
                    last = cursor is None and letter.id == letters[-1].id
                    return kept, None if last else cursor_of(letter)
        if cursor is None:
            break
    return kept, cursor


def resolved(connection: Connection, pipeline: str, query: LetterQuery) -> LetterQuery:
    """What a job can go by: whole ids and fingerprint for prefixes, and ids for what is not to be asked of each page again.

    :raises UsageError: as `sifted_page`; `dlq.too_many`, where `MOST_NAMED` ids would not do.
    """
    if not (query.sifts or query.owed or query.seen_after is not None or query.seen_before is not None):
        ids = [resolve_id(connection, prefix) for prefix in query.ids]
        fingerprint = None if query.fingerprint is None else resolve_fingerprint(connection, query.fingerprint)
        return replace(query, ids=ids, fingerprint=fingerprint)
    named: list[str] = []
    cursor = None
    while True:
        letters, cursor = sifted_page(connection, pipeline, query, cursor, _CHUNK, bodies=False)
        named += [letter.id for letter in letters]
        if len(named) > MOST_NAMED:
            raise UsageError(
                "dlq.too_many",
                f"more than {MOST_NAMED:,} dead letters fit the filter",
                help="take them in several parts: by cause, type or time",
            )
        if cursor is None:
            return LetterQuery(ids=named or [NOBODY], status=query.status)


def portions(letters: Sequence[DeadLetter], size: int) -> Iterator[list[DeadLetter]]:
    """Letters whose records have at most so many bytes together, or one letter (Invariant 8)."""
    portion: list[DeadLetter] = []
    room_left = size
    for letter in letters:
        room_left -= letter.original_length
        if portion and room_left < 0:
            yield portion
            portion, room_left = [], size - letter.original_length
        portion.append(letter)
    if portion:
        yield portion


class Sieve:
    """Decides letter by letter.

    :raises UsageError: `dlq.bad_filter`, where the program cannot be read.
    """

    def __init__(self, query: LetterQuery) -> None:
        self._after, self._before = query.event_after, query.event_before
        self._program = None if query.filter is None else _compiled(query.filter)

    def keep(self, connection: Connection, pipeline: str, letters: Sequence[DeadLetter], bodies: bool) -> Iterator[DeadLetter]:
        """Those that stay, with their bodies where these are asked for."""
        timely = [letter for letter in letters if self._is_timely(letter)]
        if self._program is None and not bodies:
            yield from timely
            return
        whole = by_ids(connection, pipeline, [letter.id for letter in timely], bodies=True)
        for letter in whole if self._program is None else self._matching(self._program, whole):
            yield letter if bodies else replace(letter, record=b"", original=None, source_record=None, edited=_mark(letter))

    def _is_timely(self, letter: DeadLetter) -> bool:
        if self._after is None and self._before is None:
            return True
        if letter.time is None or not is_time(letter.time):
            return False
        at = timestamp(letter.time)
        return (self._after is None or at >= self._after) and (self._before is None or at < self._before)

    def _matching(self, program: Program, letters: Sequence[DeadLetter]) -> Iterator[DeadLetter]:
        for letter, outputs in zip(letters, program([event_of(letter) for letter in letters]), strict=True):
            if isinstance(outputs, ComponentError):
                raise UsageError(
                    "dlq.filter_failed",
                    f"the filter cannot be applied to the dead letter {letter.id}: {outputs.message}",
                    why=outputs.why,
                    help="write `?` behind what an event may lack: .data.total?",
                )
            if any(output is not None and output is not False for output in outputs):
                yield letter


def event_of(letter: DeadLetter) -> Event:
    """The event as people look at it: attributes as they stood when it failed, the data that a replay would send."""
    event, received = from_structured(letter.event), from_structured(letter.effective)
    return event.replace(raw=received.raw, decoded=received.decoded) if received.raw is None else event.replace(raw=received.raw)


def _mark(letter: DeadLetter) -> bytes | None:
    return None if letter.edited is None else b""


def _compiled(text: str) -> Program:
    try:
        program: Any = room("expressions")().program(text, "event")
    except Permanent as error:
        raise UsageError("dlq.bad_filter", error.message, why=error.why, help=error.help) from error
    compiled: Program = program
    return compiled
