"""Which dead letters a query means, as a condition of SQL. Names and prefixes are parameters, never text (Invariant 12)."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from penstock.errors import UsageError
from penstock.state.dialect import Connection, dialect_of
from penstock.state.records import STATUSES, UNSETTLED, LetterQuery, Status

PREFIX_END = "\U0010ffff"
_SHOWN_CANDIDATES = 5


def _one_of(*statuses: Status, of: str = "") -> str:
    """Without parameters: a partial index serves only queries in which its own condition stands, word for word. And without
    IN: of more than two values SQLite makes a temporary B-tree, for each row that is written, in each such index and trigger."""
    terms = " OR ".join(f"{of}status = '{status}'" for status in statuses)
    return f"({terms})"


def held(of: str = "") -> str:
    """In a lane, which the letter holds, or in which it waits.

    :param of: before each column, as `OLD.` in a trigger.
    """
    return f"{of}pending IS NULL AND {of}lane IS NOT NULL AND {_one_of(*UNSETTLED, of=of)}"


HELD = held()
LIVE = _one_of(*UNSETTLED)
SETTLED = _one_of(*(status for status in STATUSES if status not in UNSETTLED))
KEEPS_KEY = _one_of(*UNSETTLED, "discarded")
"""Discarding keeps the key (rule 7): a repetition of a discarded event is still a repetition."""

STANDS = "ifnull(pending, -1) = -1"
"""Of letters that are asked for by id or by row: no partial index serves them. PostgreSQL would choose one where it has no
statistics yet, as behind a burst of failures, and read all letters that are open."""


class Condition(NamedTuple):
    """Text over `letters AS l`, and its parameters in order."""

    text: str
    values: list[Any]


def condition(connection: Connection, query: LetterQuery, *, standing: bool = True) -> Condition:
    """What the query says about columns; `sifts` it leaves to `letter_sieve`.

    :param standing: of `letters`, where provisional ones are left out; False: of `letter_tally`, which has none.
    :raises UsageError: `dlq.unknown`, `dlq.ambiguous`.
    """
    parts: list[str] = ["l.pending IS NULL"] if standing else []
    values: list[Any] = []
    if query.ids:
        ids = [resolve_id(connection, prefix) for prefix in query.ids]
        parts.append("l.id IN (SELECT value FROM json_each(?))")
        values.append(dialect_of(connection).among(ids))
    if query.fingerprint is not None:
        parts.append("l.fingerprint = ?")
        values.append(resolve_fingerprint(connection, query.fingerprint))
    if query.status:
        parts.append(f"({' OR '.join(['l.status = ?'] * len(query.status))})")
        values += query.status
    for text, value in _compared(connection, query):
        if value is not None:
            parts.append(text)
            values.append(value)
    return Condition(" AND ".join(parts) or "1 = 1", values)


def _compared(connection: Connection, query: LetterQuery) -> list[tuple[str, Any]]:
    find = "instr" if dialect_of(connection).name == "sqlite" else "strpos"
    owed = None if query.owed is None else msgspec.json.encode(query.owed).decode()  # exact: in JSON a name ends at its quotes
    return [
        ("l.code = ?", query.code),
        ("l.step = ?", query.step),
        ("l.type = ?", query.type),
        ("l.first_at >= ?", query.after),
        ("l.first_at < ?", query.before),
        ("l.last_at >= ?", query.seen_after),
        ("l.last_at < ?", query.seen_before),
        (f"{find}(l.owed, ?) > 0", owed),
    ]


def resolve_id(connection: Connection, prefix: str) -> str:
    """The one id that begins so.

    :raises UsageError: `dlq.unknown`, `dlq.ambiguous`.
    """
    return _only(prefix, "dead letter", _stepped(connection, "id", prefix))


def resolve_fingerprint(connection: Connection, prefix: str) -> str:
    """The one fingerprint that begins so.

    :raises UsageError: `dlq.unknown`, `dlq.ambiguous`.
    """
    return _only(prefix, "group of dead letters", _stepped(connection, "fingerprint", prefix))


def _stepped(connection: Connection, column: str, prefix: str) -> list[str]:
    """A few different values in order, from one to the next: a million letters of one cause are not read."""
    found: list[str] = []
    while len(found) <= _SHOWN_CANDIDATES and prefix not in found:
        row = connection.execute(
            f"""SELECT {column} FROM letters WHERE {column} {">" if found else ">="} ? AND {column} < ?
                AND pending IS NULL ORDER BY {column} LIMIT 1""",  # noqa: S608 - constants
            (found[-1] if found else prefix, prefix + PREFIX_END),
        ).fetchone()
        if row is None:
            break
        found.append(row[0])
    return found


def _only(prefix: str, what: str, found: list[str]) -> str:
    if not found:
        raise UsageError("dlq.unknown", f"no {what} begins with {prefix!r}", help="pipe dlq ls, pipe dlq groups list them")
    if len(found) > 1 and found[0] != prefix:
        more = ", …" if len(found) > _SHOWN_CANDIDATES else ""
        raise UsageError(
            "dlq.ambiguous",
            f"more than one {what} begins with {prefix!r}",
            why=f"{', '.join(found[:_SHOWN_CANDIDATES])}{more}",
            help="write more of it",
        )
    return found[0]
