"""How dead letters are read: pages, groups, counts, and the lookups of a run. Provisional letters are listed nowhere, but a run
knows them by key. Names and prefixes are parameters, never text of a statement (Invariant 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from penstock.errors import UsageError, Violation
from penstock.state.dialect import Connection, dialect_of
from penstock.state.letter_tables import COLUMNS, KEEPS_KEY, LIVE
from penstock.state.records import DeadLetter, Delivered, Group, LetterQuery, OpenLetter, Status

# The first holds all that grouping needs (a million letters: 170 to 230 ms, 690 where their rows must be read), the second serves
# `counts` alone (60 ms, else 390). Conditions say `+l.status`, which keeps SQLite from choosing it for anything else.
LETTER_COUNTING_INDEXES = (
    "CREATE INDEX letters_cause ON letters (fingerprint, first_at, last_at, repeats, status) WHERE pending IS NULL",
    "CREATE INDEX letters_status ON letters (status) WHERE pending IS NULL",
)

_FIELDS = ", ".join(f'l."{column}"' for column in COLUMNS)
_PREFIX_END = "\U0010ffff"
_decode_violations = msgspec.json.Decoder(list[Violation]).decode
_decode_delivered = msgspec.json.Decoder(list[Delivered]).decode
_decode_owed = msgspec.json.Decoder(list[str]).decode


def page(
    connection: Connection, pipeline: str, query: LetterQuery, after: str | None, limit: int, bodies: bool
) -> tuple[list[DeadLetter], str | None]:
    """See `StateStore.letters`.

    :raises UsageError: `dlq.ambiguous`, `dlq.unknown` (a prefix of several ids, or of none), `dlq.bad_cursor`.
    """
    where, values = _where(connection, query)
    if after is not None:
        where += " AND (l.first_at, l.id) > (?, ?)"
        values += _parse_cursor(after)
    body = "b.record, b.original, b.source_record" if bodies else "x'', NULL, NULL"
    join = "JOIN bodies AS b ON b.letter = l.seq" if bodies else ""
    rows = connection.execute(
        f"SELECT {_FIELDS}, {body} FROM letters AS l {join} WHERE {where} ORDER BY l.first_at, l.id LIMIT ?",  # noqa: S608 - constants
        [*values, limit + 1],
    ).fetchall()
    letters = [_letter(pipeline, row) for row in rows[:limit]]
    more = len(rows) > limit and bool(letters)
    return letters, f"{letters[-1].first_at.hex()}~{letters[-1].id}" if more else None


def read_letters(connection: Connection, pipeline: str, condition: str, values: Sequence[Any], order: str) -> list[DeadLetter]:
    """Whole letters, with their bodies. `condition` and `order` are constants over `letters AS l` (Invariant 12)."""
    rows = connection.execute(
        f"SELECT {_FIELDS}, b.record, b.original, b.source_record FROM letters AS l JOIN bodies AS b ON b.letter = l.seq "  # noqa: S608
        f"WHERE {condition} {order}",
        values,
    )
    return [_letter(pipeline, row) for row in rows.fetchall()]


def resolved(connection: Connection, query: LetterQuery) -> LetterQuery:
    """The same with whole ids and fingerprint for its prefixes.

    :raises UsageError: `dlq.ambiguous`, `dlq.unknown`.
    """
    ids = [_resolve(connection, prefix) for prefix in query.ids]
    fingerprint = None if query.fingerprint is None else _resolve_fingerprint(connection, query.fingerprint)
    return replace(query, ids=ids, fingerprint=fingerprint)


def groups(connection: Connection, query: LetterQuery) -> list[Group]:
    """See `StateStore.letter_groups`. The example is the latest to fail first."""
    where, values = _where(connection, query)
    rows = connection.execute(
        f"""WITH g AS (SELECT l.fingerprint AS f, count(*) AS n, CAST(sum(l.repeats) AS BIGINT) AS r,
                              min(l.first_at) AS a, max(l.last_at) AS z
                       FROM letters AS l WHERE {where} GROUP BY l.fingerprint)
            SELECT g.f, x.code, x.step, x.message, g.n, g.r, g.a, g.z, x.id FROM g JOIN letters AS x ON x.seq = (
                SELECT l.seq FROM letters AS l WHERE l.fingerprint = g.f AND {where} ORDER BY l.first_at DESC LIMIT 1)
            ORDER BY g.n DESC, g.f""",  # noqa: S608 - constants
        [*values, *values],
    )
    return [Group(*row) for row in rows.fetchall()]


def counts(connection: Connection) -> dict[Status, int]:
    """How many stand in each status."""
    return dict(connection.execute("SELECT status, count(*) FROM letters WHERE pending IS NULL GROUP BY status").fetchall())


def has_open(connection: Connection) -> bool:
    """See `StateStore.has_open_letters`. One step in an index."""
    query = f"SELECT EXISTS (SELECT 1 FROM letters WHERE key IS NOT NULL AND {KEEPS_KEY})"  # noqa: S608 - a constant
    return bool(connection.execute(query).fetchone()[0])


def open_by_key(connection: Connection, keys: Sequence[bytes]) -> list[OpenLetter]:
    """See `StateStore.open_letters`. One statement; provisional letters are among them, the latest of an id only."""
    dialect = dialect_of(connection)
    rows = connection.execute(
        f"""{dialect.offsets.format(size=16)}
            SELECT l.id, l.key, l.brought_by, l.data_digest, l.owed
            FROM n {dialect.nested} letters AS l ON l.key = substr(:blob, n.i, 16)
            WHERE l.key IS NOT NULL AND l.{KEEPS_KEY} ORDER BY l.seq""",  # noqa: S608 - a constant
        {"blob": b"".join(keys)},
    )
    found = {row[0]: OpenLetter(row[0], row[1], row[2], row[3], tuple(_decode_owed(row[4]))) for row in rows.fetchall()}
    return list(found.values())


def open_by_id(connection: Connection, ids: Sequence[str]) -> list[OpenLetter]:
    """See `StateStore.standing_letters`. One statement; the latest of an id only."""
    rows = connection.execute(
        f"""SELECT id, ifnull(key, x''), brought_by, data_digest, owed FROM letters
            WHERE id IN (SELECT value FROM json_each(?)) AND {LIVE} ORDER BY seq""",  # noqa: S608 - a constant
        (dialect_of(connection).among(ids),),
    )
    found = {row[0]: OpenLetter(row[0], row[1], row[2], row[3], tuple(_decode_owed(row[4]))) for row in rows.fetchall()}
    return list(found.values())


def _where(connection: Connection, query: LetterQuery) -> tuple[str, list[Any]]:
    """The condition, over `letters AS l`, and its parameters."""
    parts: list[str] = ["l.pending IS NULL"]
    values: list[Any] = []
    if query.ids:
        ids = [_resolve(connection, prefix) for prefix in query.ids]
        parts.append("l.id IN (SELECT value FROM json_each(?))")
        values.append(dialect_of(connection).among(ids))
    if query.fingerprint is not None:
        parts.append("l.fingerprint = ?")
        values.append(_resolve_fingerprint(connection, query.fingerprint))
    if query.status:
        status = f"{dialect_of(connection).unindexed}l.status = ?"
        parts.append(f"({' OR '.join([status] * len(query.status))})")  # 210 ms a million letters; with IN 250
        values += query.status
    equal = {"code": query.code, "step": query.step, "type": query.type}
    for column, value in equal.items():
        if value is not None:
            parts.append(f"l.{column} = ?")
            values.append(value)
    for comparison, bound in (("l.first_at >= ?", query.after), ("l.first_at < ?", query.before)):
        if bound is not None:
            parts.append(comparison)
            values.append(bound)
    return " AND ".join(parts), values


def _resolve(connection: Connection, prefix: str) -> str:
    rows = connection.execute(
        "SELECT DISTINCT id FROM letters WHERE id >= ? AND id < ? AND pending IS NULL ORDER BY id LIMIT 2",
        (prefix, prefix + _PREFIX_END),
    )
    return _only(prefix, "dead letter", [identity for (identity,) in rows.fetchall()])


def _resolve_fingerprint(connection: Connection, prefix: str) -> str:
    found: list[str] = []
    while len(found) < 2:  # steps from group to group: a million letters of one cause are not read
        above = found[-1] if found else prefix
        row = connection.execute(
            f"""SELECT fingerprint FROM letters WHERE fingerprint {">" if found else ">="} ? AND fingerprint < ?
                AND pending IS NULL ORDER BY fingerprint LIMIT 1""",  # noqa: S608 - a constant
            (above, prefix + _PREFIX_END),
        ).fetchone()
        if row is None or (found and found[0] == prefix):
            break
        found.append(row[0])
    return _only(prefix, "group of dead letters", found)


def _only(prefix: str, what: str, found: list[str]) -> str:
    if not found:
        raise UsageError("dlq.unknown", f"no {what} begins with {prefix!r}", help="pipe dlq ls, pipe dlq groups list them")
    if len(found) > 1 and found[0] != prefix:
        raise UsageError("dlq.ambiguous", f"more than one {what} begins with {prefix!r}", help="write more of it")
    return found[0]


def _parse_cursor(text: str) -> list[Any]:
    at, _, identity = text.partition("~")
    try:
        return [float.fromhex(at), identity]
    except ValueError as error:
        raise UsageError("dlq.bad_cursor", f"{text!r} is no cursor of this listing", help="take it from `next`") from error


def _letter(pipeline: str, row: tuple[Any, ...]) -> DeadLetter:
    values = dict(zip((*COLUMNS, "record", "original", "source_record"), row, strict=True))
    values["reread"] = bool(values["reread"])
    values["violations"] = _decode_violations(values["violations"])
    values["owed"] = _decode_owed(values["owed"])
    values["delivered"] = _decode_delivered(values["delivered"])
    return DeadLetter(pipeline=pipeline, **values)
