"""How many dead letters stand in which status, of which cause, and since when: counted by the database with every change.

`letter_tally` holds a row for each status, cause, type of event and stretch of first failure: five minutes, an hour, a day.
Triggers keep it in the transaction that changes the letters, so that no writer can forget it; a million letters are counted by
reading a few thousand rows. Rows that fell to zero go with `sweep`. What the table does not know is counted from the letters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from penstock.state.dialect import Connection, dialect_of
from penstock.state.letter_where import Condition, condition
from penstock.state.migration import PerDialect
from penstock.state.records import STATUSES, LetterQuery, Status

BUCKET, HOUR, DAY = 300, 3600, 86_400
"""Seconds of first failure that are counted together."""

_WIDTHS = (BUCKET, HOUR, DAY)
_AXES = "status, fingerprint, code, step, type"
_KEY = f"width, {_AXES}, bucket"

TALLY_TABLE = f"""CREATE TABLE letter_tally (
    width INTEGER NOT NULL, status TEXT NOT NULL, fingerprint TEXT NOT NULL, code TEXT NOT NULL, step TEXT NOT NULL,
    type TEXT NOT NULL, bucket INTEGER NOT NULL, letters INTEGER NOT NULL, repeats INTEGER NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY ({_KEY})) WITHOUT ROWID"""

LETTER_INDEXES = (
    "DROP INDEX letters_cause",
    "DROP INDEX letters_status",
    "DROP INDEX letters_page",
    "DROP INDEX letters_age",
    "CREATE INDEX letters_page ON letters (status, first_at, id) WHERE pending IS NULL",
    "CREATE INDEX letters_cause ON letters (fingerprint, type, status, first_at, id, last_at, repeats, original_length) "
    "WHERE pending IS NULL",
    "CREATE INDEX letters_latest ON letters (fingerprint, type, status, last_at) WHERE pending IS NULL",
    "CREATE INDEX letters_age ON letters (last_at) WHERE pending IS NULL AND status IN ('resolved', 'superseded', 'discarded')",
)
"""`letters_cause` holds all that groups of a range of time ask for; `letters_latest` gives the last failure of a cause."""


def _bucket(dialect: str, column: str = "first_at", width: int | str = BUCKET) -> str:
    if dialect == "sqlite":
        return f"CAST({column} AS INTEGER) / {width} * {width}"
    return f"CAST(floor({column} / {width}) AS BIGINT) * {width}"


def _upsert(sign: str, row: str) -> str:
    axes = ", ".join(f"{row}.{name}" for name in _AXES.split(", "))
    figures = f"{sign}1, {sign}{row}.repeats, {sign}{row}.original_length"
    rows = [f"({width}, {axes}, {_bucket('sqlite', f'{row}.first_at', width)}, {figures})" for width in _WIDTHS]
    return (
        f"INSERT INTO letter_tally VALUES {', '.join(rows)} "  # noqa: S608 - constants
        f"ON CONFLICT ({_KEY}) DO UPDATE SET letters = letters + excluded.letters, repeats = repeats + excluded.repeats, "
        "bytes = bytes + excluded.bytes;"
    )


_CHANGES = "pending, status, fingerprint, code, step, type, first_at, repeats, original_length"
_SQLITE_TRIGGERS = (
    f"CREATE TRIGGER letter_tally_insert AFTER INSERT ON letters WHEN NEW.pending IS NULL BEGIN {_upsert('', 'NEW')} END",
    f"CREATE TRIGGER letter_tally_delete AFTER DELETE ON letters WHEN OLD.pending IS NULL BEGIN {_upsert('-', 'OLD')} END",
    f"CREATE TRIGGER letter_tally_leave AFTER UPDATE OF {_CHANGES} ON letters WHEN OLD.pending IS NULL "
    f"BEGIN {_upsert('-', 'OLD')} END",
    f"CREATE TRIGGER letter_tally_enter AFTER UPDATE OF {_CHANGES} ON letters WHEN NEW.pending IS NULL "
    f"BEGIN {_upsert('', 'NEW')} END",
)


_ALL_WIDTHS = f"(VALUES {', '.join(f'({width})' for width in _WIDTHS)}) AS w(width)"


def _side(table: str, sign: str) -> str:
    columns = f"width, {_AXES}, {_bucket('postgres', width='width')} AS bucket"
    figures = f"{sign}1 AS n, {sign}repeats AS r, {sign}original_length AS b"
    return f"SELECT {columns}, {figures} FROM {table} CROSS JOIN {_ALL_WIDTHS} WHERE pending IS NULL"  # noqa: S608 - constants


def _function(name: str, *sides: str, create: str = "CREATE", unless: str = "") -> str:
    """:param unless: a statement before the counting, that may end it."""
    changes = " UNION ALL ".join(sides)
    return (
        f"{create} FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$ BEGIN {unless}"  # noqa: S608
        f"INSERT INTO letter_tally SELECT {_KEY}, sum(n), sum(r), sum(b) FROM ({changes}) AS c GROUP BY {_KEY} "
        "HAVING sum(n) <> 0 OR sum(r) <> 0 OR sum(b) <> 0 "
        f"ON CONFLICT ({_KEY}) DO UPDATE SET letters = letter_tally.letters + excluded.letters, "
        "repeats = letter_tally.repeats + excluded.repeats, bytes = letter_tally.bytes + excluded.bytes; "
        "RETURN NULL; END $$"
    )


def _trigger(event: str, transitions: str) -> str:
    name = f"letter_tally_{event.lower()}"
    return (
        f"CREATE TRIGGER {name} AFTER {event} ON letters REFERENCING {transitions} FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
    )


_POSTGRES_TRIGGERS = (
    _function("letter_tally_insert", _side("added", "")),
    _function("letter_tally_delete", _side("removed", "-")),
    _function("letter_tally_update", _side("added", ""), _side("removed", "-")),
    _trigger("INSERT", "NEW TABLE AS added"),
    _trigger("DELETE", "OLD TABLE AS removed"),
    _trigger("UPDATE", "OLD TABLE AS removed NEW TABLE AS added"),
)


def _fill(dialect: str) -> tuple[str, ...]:
    return tuple(
        f"INSERT INTO letter_tally SELECT {width}, {_AXES}, {_bucket(dialect, width=width)}, "  # noqa: S608 - constants
        "count(*), sum(repeats), sum(original_length) FROM letters WHERE pending IS NULL GROUP BY 1, 2, 3, 4, 5, 6, 7"
        for width in _WIDTHS
    )


TALLY_SCHEMA = (
    TALLY_TABLE,
    *LETTER_INDEXES,
    PerDialect(sqlite=(*_fill("sqlite"), *_SQLITE_TRIGGERS), postgres=(*_fill("postgres"), *_POSTGRES_TRIGGERS)),
)
"""What leads to it: the table, filled with what there is, and what keeps it."""

LEAN_LETTER_TALLY = PerDialect(
    sqlite=(),
    postgres=(
        _function(
            "letter_tally_insert",
            _side("added", ""),
            create="CREATE OR REPLACE",
            unless="IF NOT EXISTS (SELECT FROM added WHERE pending IS NULL) THEN RETURN NULL; END IF; ",
        ),
    ),
)
"""The same, at less cost for a letter that is not to stand yet (`cheap_writes`)."""


def is_tallied(query: LetterQuery) -> bool:
    """Whether the table knows nearly all that the query asks for: of a bound of time it lacks the stretch that this cuts."""
    return not (query.ids or query.owed or query.sifts or query.seen_after is not None or query.seen_before is not None)


class Figures(NamedTuple):
    """How many letters, how often their events came again, and the bytes of their records as these came."""

    letters: int
    repeats: int
    bytes: int


def counted(
    connection: Connection, query: LetterQuery, columns: Sequence[str], *, stretch: int = 0, origin: int = 0
) -> list[tuple[Any, ...]]:
    """What the query selects, counted by some columns: their values, then `Figures`.

    :param columns: of `status`, `fingerprint`, `code`, `step`, `type`.
    :param stretch: seconds of first failure that are counted together, a multiple of `BUCKET`, from `origin` on, which is
        one too: their beginning is one more value, before the figures. 0: time does not matter.
    :raises ValueError: the query has a part that `letter_sieve` alone can decide.
    :raises UsageError: `dlq.unknown`, `dlq.ambiguous`.
    """
    table, values, chosen = _counted_rows(connection, query, max(w for w in _WIDTHS if stretch % w == origin % w == 0))
    terms = [f"l.{column}" for column in columns]
    if stretch:
        terms.append(f"(l.bucket - {origin}) / {stretch} * {stretch} + {origin}")
    groups = f"GROUP BY {', '.join(str(n + 1) for n in range(len(terms)))}" if terms else ""
    rows = connection.execute(
        f"SELECT {', '.join([*terms, 'sum(l.letters), sum(l.repeats), sum(l.bytes)'])} FROM {table} AS l "  # noqa: S608
        f"WHERE {chosen.text} {groups} HAVING sum(l.letters) > 0",
        [*values, *chosen.values],
    )
    return [(*row[: len(terms)], Figures(*map(int, row[len(terms) :]))) for row in rows.fetchall()]


def span(
    connection: Connection, query: LetterQuery, width: int, known: tuple[int, int, int] | None = None
) -> tuple[int, int] | None:
    """Beginnings of the first and the last stretch of some seconds in which letters of the query failed first.

    :param width: `BUCKET`, `HOUR` or `DAY`: the wider, the cheaper.
    :param known: the same in wider stretches, and their width: only in these two is looked.
    """
    table, values, chosen = _counted_rows(connection, query, width)
    at = f"l.bucket / {width} * {width}"
    ends = "" if known is None else " AND (l.bucket < ? OR l.bucket >= ?)"
    sql = f"SELECT min({at}), max({at}) FROM {table} AS l WHERE {chosen.text}{ends} AND l.letters > 0"  # noqa: S608 - constants
    edges = [] if known is None else [known[0] + known[2], known[1]]
    first, last = connection.execute(sql, [*values, *chosen.values, *edges]).fetchone()
    return None if first is None else (int(first), int(last))


def _counted_rows(connection: Connection, query: LetterQuery, width: int) -> tuple[str, list[Any], Condition]:
    """A table of rows as those of `letter_tally`, its parameters, and what else chooses among them."""
    if query.sifts:
        raise ValueError("what is in events is no business of tables")
    dialect = dialect_of(connection).name
    if not is_tallied(query):
        chosen = condition(connection, query)
        return f"({_each_letter(dialect, chosen.text)})", chosen.values, Condition("1 = 1", [])
    chosen = condition(connection, query.of_counts(), standing=False)
    if not query.is_bounded:
        return "letter_tally", [], Condition(f"l.width = ? AND {chosen.text}", [width, *chosen.values])
    table, values = _cut(dialect, query)
    return table, values, chosen


def _cut(dialect: str, query: LetterQuery) -> tuple[str, list[Any]]:
    """Whole stretches from the tally, and the letters of those that a bound cuts."""
    after, before = (query.after or 0.0), math.inf if query.before is None else query.before
    low = math.ceil(after / BUCKET) * BUCKET
    high = math.inf if query.before is None else math.floor(before / BUCKET) * BUCKET
    statuses = ", ".join(f"'{status}'" for status in STATUSES)
    within = _each_letter(dialect, f"l.pending IS NULL AND l.status IN ({statuses}) AND l.first_at >= ? AND l.first_at < ?")
    if low >= high:
        return f"({within})", [after, before]
    whole = f"SELECT {_AXES}, bucket, letters, repeats, bytes FROM letter_tally WHERE width = ? AND bucket >= ?"  # noqa: S608
    parts, values = [whole, within], [BUCKET, low, after, low]
    if query.before is not None:
        parts, values = [whole + " AND bucket < ?", within, within], [BUCKET, low, high, after, low, high, before]
    return f"({' UNION ALL '.join(parts)})", values


def _each_letter(dialect: str, where: str) -> str:
    axes = ", ".join(f"l.{name}" for name in _AXES.split(", "))
    figures = "1 AS letters, l.repeats AS repeats, l.original_length AS bytes"
    return f"SELECT {axes}, {_bucket(dialect, 'l.first_at')} AS bucket, {figures} FROM letters AS l WHERE {where}"  # noqa: S608


def counts(connection: Connection) -> dict[Status, int]:
    """How many stand in each status."""
    rows = connection.execute(
        "SELECT status, sum(letters) FROM letter_tally WHERE width = ? GROUP BY status HAVING sum(letters) > 0", (DAY,)
    )
    return {status: int(number) for status, number in rows.fetchall()}


class Kind(NamedTuple):
    """What the indexes of letters begin with."""

    fingerprint: str
    type: str
    status: Status


def kinds(connection: Connection, query: LetterQuery, limit: int) -> list[Kind] | None:
    """The kinds of letters that can be among what the query selects; None where there are more than `limit`."""
    chosen = condition(connection, query.of_counts(), standing=False)
    rows = connection.execute(
        f"SELECT DISTINCT l.fingerprint, l.type, l.status FROM letter_tally AS l "  # noqa: S608 - constants
        f"WHERE l.width = ? AND {chosen.text} AND l.letters > 0 LIMIT ?",
        [DAY, *chosen.values, limit + 1],
    ).fetchall()
    return None if len(rows) > limit else [Kind(*row) for row in rows]


def sweep(connection: Connection) -> None:
    """Remove what counts nothing any more."""
    connection.execute("DELETE FROM letter_tally WHERE letters = 0")
