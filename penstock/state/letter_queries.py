"""How dead letters are read: pages and the lookups of a run. Provisional letters are listed nowhere, but a run knows them by key.

Collaborators: `letter_where` (what a query means), `letter_tally` (counts), `letter_sieve` (what only events tell).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from penstock.errors import UsageError, Violation
from penstock.state.dialect import Connection, dialect_of
from penstock.state.letter_tables import COLUMNS, FLAGS
from penstock.state.letter_tally import kinds
from penstock.state.letter_where import KEEPS_KEY, LIVE, condition
from penstock.state.records import STATUSES, DeadLetter, Delivered, LetterQuery, OpenLetter

LETTER_COUNTING_INDEXES = (
    "CREATE INDEX letters_cause ON letters (fingerprint, first_at, last_at, repeats, status) WHERE pending IS NULL",
    "CREATE INDEX letters_status ON letters (status) WHERE pending IS NULL",
)
"""Of an older format; `letter_tally` brings others."""

_FIELDS = ", ".join(f'l."{column}"' for column in COLUMNS)
_BODIES = ("record", "original", "source_record", "edited")
_MOST_BRANCHES = 64
_decode_violations = msgspec.json.Decoder(list[Violation]).decode
_decode_delivered = msgspec.json.Decoder(list[Delivered]).decode
_decode_owed = msgspec.json.Decoder(list[str]).decode


def page(
    connection: Connection, pipeline: str, query: LetterQuery, after: str | None, limit: int, bodies: bool
) -> tuple[list[DeadLetter], str | None]:
    """See `StateStore.letters`, for a query that does not sift.

    :raises UsageError: `dlq.ambiguous`, `dlq.unknown` (a prefix of several ids, or of none), `dlq.bad_cursor`.
    """
    found = _places(connection, query, after, limit + 1)
    letters = _load(connection, pipeline, [seq for _, _, seq in found[:limit]], bodies)
    return letters, cursor_of(letters[-1]) if len(found) > limit and letters else None


def cursor_of(letter: DeadLetter) -> str:
    """Of the page behind this letter."""
    return f"{letter.first_at.hex()}~{letter.id}"


def by_ids(connection: Connection, pipeline: str, ids: Sequence[str], bodies: bool) -> list[DeadLetter]:
    """Standing letters with these whole ids, in order of first failure."""
    rows = connection.execute(
        "SELECT seq FROM letters WHERE pending IS NULL AND id IN (SELECT value FROM json_each(?))",
        (dialect_of(connection).among(ids),),
    )
    return _load(connection, pipeline, [seq for (seq,) in rows.fetchall()], bodies)


def _places(connection: Connection, query: LetterQuery, after: str | None, limit: int) -> list[tuple[float, str, int]]:
    """First failure, id and row of the first letters, in order: each branch follows an index, and ends at the limit."""
    chosen = condition(connection, query)
    behind, cursor = ("", []) if after is None else (" AND (l.first_at, l.id) > (?, ?)", _parse_cursor(after))
    selects, values = [], []
    for extra, own in _branches(connection, query):
        selects.append(
            "SELECT * FROM (SELECT l.first_at AS a, l.id AS i, l.seq AS s FROM letters AS l "  # noqa: S608 - constants
            f"WHERE {extra}{chosen.text}{behind} ORDER BY l.first_at, l.id LIMIT ?) AS b"
        )
        values += [*own, *chosen.values, *cursor, limit]
    if not selects:
        return []
    rows = connection.execute(f"SELECT a, i, s FROM ({' UNION ALL '.join(selects)}) AS u ORDER BY a, i LIMIT ?", [*values, limit])  # noqa: S608
    return [(at, identity, seq) for at, identity, seq in rows.fetchall()]


def _branches(connection: Connection, query: LetterQuery) -> list[tuple[str, list[Any]]]:
    """Conditions that together hold for all that is selected, each for one stretch of an index."""
    if query.ids:
        return [("", [])]
    if query.fingerprint is not None or query.code is not None or query.step is not None or query.type is not None:
        found = kinds(connection, query, _MOST_BRANCHES)
        if found is not None:
            return [("l.fingerprint = ? AND l.type = ? AND l.status = ? AND ", list(kind)) for kind in found]
    return [("l.status = ? AND ", [status]) for status in query.status or STATUSES]


def _load(connection: Connection, pipeline: str, seqs: Sequence[int], bodies: bool) -> list[DeadLetter]:
    where, value = numbered(connection, seqs)
    if bodies:
        return read_letters(connection, pipeline, where, [value], "ORDER BY l.first_at, l.id")
    rows = connection.execute(
        f"""SELECT {_FIELDS}, x'', NULL, NULL, CASE WHEN e.letter IS NULL THEN NULL ELSE x'' END
            FROM letters AS l LEFT JOIN letter_edits AS e ON e.letter = l.id
            WHERE {where} ORDER BY l.first_at, l.id""",  # noqa: S608 - constants
        [value],
    )
    return [_letter(pipeline, row) for row in rows.fetchall()]


def read_letters(connection: Connection, pipeline: str, condition: str, values: Sequence[Any], order: str) -> list[DeadLetter]:
    """Whole letters, with their bodies. `condition` and `order` are constants over `letters AS l` (Invariant 12)."""
    rows = connection.execute(
        f"""SELECT {_FIELDS}, b.record, b.original, b.source_record, e.record
            FROM letters AS l JOIN bodies AS b ON b.letter = l.seq LEFT JOIN letter_edits AS e ON e.letter = l.id
            WHERE {condition} {order}""",  # noqa: S608 - constants
        values,
    )
    return [_letter(pipeline, row) for row in rows.fetchall()]


def numbered(connection: Connection, seqs: Iterable[int]) -> tuple[str, Any]:
    """A condition for these rows of `letters AS l`, and its parameter."""
    value = dialect_of(connection).among(map(str, seqs))
    if dialect_of(connection).name == "postgres":
        return "l.seq = ANY(CAST(? AS BIGINT[]))", value
    return "l.seq IN (SELECT CAST(value AS INTEGER) FROM json_each(?))", value


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
            WHERE l.key IS NOT NULL AND {KEEPS_KEY} ORDER BY l.seq""",  # noqa: S608 - a constant
        {"blob": b"".join(keys)},
    )
    return _latest_of_each(rows.fetchall())


def open_by_id(connection: Connection, ids: Sequence[str]) -> list[OpenLetter]:
    """See `StateStore.standing_letters`. One statement; the latest of an id only."""
    rows = connection.execute(
        f"""SELECT id, ifnull(key, x''), brought_by, data_digest, owed FROM letters
            WHERE id IN (SELECT value FROM json_each(?)) AND {LIVE} ORDER BY seq""",  # noqa: S608 - a constant
        (dialect_of(connection).among(ids),),
    )
    return _latest_of_each(rows.fetchall())


def _latest_of_each(rows: Iterable[tuple[Any, ...]]) -> list[OpenLetter]:
    """:param rows: oldest first."""
    found = {
        identity: OpenLetter(identity, key, brought_by, data_digest, tuple(_decode_owed(owed)))
        for identity, key, brought_by, data_digest, owed in rows
    }
    return list(found.values())


def _parse_cursor(text: str) -> list[Any]:
    at, _, identity = text.partition("~")
    try:
        return [float.fromhex(at), identity]
    except ValueError as error:
        raise UsageError("dlq.bad_cursor", f"{text!r} is no cursor of this listing", help="take it from `next`") from error


def _letter(pipeline: str, row: tuple[Any, ...]) -> DeadLetter:
    values = dict(zip((*COLUMNS, *_BODIES), row, strict=True))
    values |= {name: bool(values[name]) for name in FLAGS}
    values["violations"] = _decode_violations(values["violations"])
    values["owed"] = _decode_owed(values["owed"])
    values["delivered"] = _decode_delivered(values["delivered"])
    return DeadLetter(pipeline=pipeline, **values)
