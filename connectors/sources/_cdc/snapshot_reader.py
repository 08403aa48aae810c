"""Reading rows of a table: bounds of chunks, chunks, whole tables; and who is writing to one. Blocking, on a session's thread.

A session either stands in the exported snapshot of a new slot, in one transaction from its first to its last row
(`_cdc.snapshot_export`), or each chunk is a transaction of its own, with a moment of its own (`_cdc.snapshot_touched`), and the
table is locked against DDL before the snapshot is taken: one that rewrites a table leaves nothing in it for older snapshots, and
would lose every row unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from connectors._pg_types import SESSION_SETTINGS
from connectors._pg_values import timestamp_utc
from connectors._postgres import TableName
from connectors.sources._cdc.config import PostgresCdcConfig
from connectors.sources._cdc.snapshot_positions import Key
from connectors.sources._cdc.snapshot_tables import Layout, inspect
from connectors.sources._cdc.snapshot_touched import Moment, moment
from penstock.errors import EnvironmentFault, Transient

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGresult

SETTINGS = {**SESSION_SETTINGS, "row_security": "off"}
"""Of a session that reads rows; none may be left out without a word."""
FIRST = (
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN "
    "('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')",
)
"""Timeouts of the role or database are meant for those who hold locks that others wait for."""

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_LOOK = """
SELECT concat_ws(';',
    (SELECT string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod, attcollation, attnotnull), ',' ORDER BY attnum)
     FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
    (SELECT string_agg(concat_ws(' ', indkey, indcollation, indclass, indisprimary, indisreplident), ','
     ORDER BY indkey::text, indcollation::text, indclass::text, indisprimary, indisreplident)
     FROM pg_index WHERE indrelid = c.oid AND indisunique AND indisvalid))
FROM pg_class AS c WHERE c.oid = %s
"""
_MOMENT = "SELECT txid_current_snapshot()::text, (pg_current_wal_insert_lsn() - '0/0')::int8, clock_timestamp()::text"
_WRITERS = """
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND granted AND relation = ANY(%s::oid[]) AND pid IS DISTINCT FROM pg_backend_pid()
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""
_CURSOR = "penstock_rows"


def begin(connection: psycopg.Connection[Any], tables: Sequence[Layout] = ()) -> None:
    """Begin a transaction that keeps these tables as they are, and has no snapshot yet."""
    connection.execute("; ".join((_BEGIN, *map(_lock, tables))).encode())


def lock(connection: psycopg.Connection[Any], tables: Sequence[Layout]) -> None:
    """Keep these tables as they are, in the transaction under way."""
    if tables:
        connection.execute("; ".join(map(_lock, tables)).encode())


def adopt(connection: psycopg.Connection[Any], snapshot: str) -> None:
    """Stand in an exported snapshot, in the transaction that was begun. The one who exported it may go then."""
    connection.execute(b"SET TRANSACTION SNAPSHOT '" + snapshot.replace("'", "''").encode() + b"'")


def _lock(table: Layout) -> str:
    return f"LOCK TABLE {table.relation} IN ACCESS SHARE MODE"


def now(connection: psycopg.Connection[Any]) -> Moment:
    """The moment of the transaction under way, which begins with it."""
    row = connection.execute(_MOMENT).fetchone()
    if row is None:
        raise AssertionError("a SELECT without FROM has a row")
    return moment(row[0], row[1], timestamp_utc(row[2].encode()))


def end(connection: psycopg.Connection[Any]) -> None:
    """End the transaction, if the connection is there."""
    if not connection.closed:
        connection.execute(b"ROLLBACK")


def look_of(connection: psycopg.Connection[Any], oid: int) -> str:
    """The columns of a table and what sorts its rows, to be compared."""
    row = connection.execute(_LOOK, (oid,)).fetchone()
    return str(row[0]) if row else ""


def writers(connection: psycopg.Connection[Any], layout: Layout) -> set[str]:
    """The transactions that have written to the table, or could have, and whose end is not seen yet.

    A transaction gives up its locks only after others see that it has ended, whatever its COMMIT waits for in between.
    """
    return {str(name) for (name,) in connection.execute(_WRITERS, (list(layout.parts),))}


def inspect_alone(
    connection: psycopg.Connection[Any], config: PostgresCdcConfig, publication: str, table: TableName
) -> tuple[Layout, str]:
    """As `inspect`, and how the table looks at that moment."""
    begin(connection)
    try:
        layout = inspect(connection, config, publication, table)
        return layout, look_of(connection, layout.oid)
    finally:
        end(connection)


def begin_alone(connection: psycopg.Connection[Any], layout: Layout, look: str) -> Moment:
    """Begin a transaction in which the table still looks like that, and its moment. Ended by the caller, also where this fails.

    :param look: of the table, when its layout was asked for.
    :raises Transient: `snapshot.table_changed`.
    """
    begin(connection, (layout,))
    seen = now(connection)
    if look_of(connection, layout.oid) != look:
        raise Transient("snapshot.table_changed", f"columns of {layout.title} were changed while its rows were read")
    return seen


def read_bounds_alone(
    connection: psycopg.Connection[Any], layout: Layout, after: Key | None, rows: int, count: int, look: str
) -> tuple[tuple[Key, ...], bool]:
    """As `read_bounds`, in a transaction of its own. Raises as `begin_alone`."""
    try:
        begin_alone(connection, layout, look)
        return read_bounds(connection, layout, after, rows, count)
    finally:
        end(connection)


def read_bounds(
    connection: psycopg.Connection[Any], layout: Layout, after: Key | None, rows: int, count: int
) -> tuple[tuple[Key, ...], bool]:
    """The last keys of the next chunks behind `after`, and whether nothing lies behind these.

    :raises EnvironmentFault: `snapshot.key_text`.
    """
    result = _raw(connection, layout.bounds_sql(rows, count, behind=after is not None), after or ())
    width = len(layout.key)
    keys = tuple(tuple(_text(layout, result.get_value(n, place)) for place in range(width)) for n in range(result.ntuples))
    return keys, not keys or result.get_value(result.ntuples - 1, width) == b"t"


def read_chunk(connection: psycopg.Connection[Any], layout: Layout, after: Key | None, last: Key) -> PGresult:
    """The rows behind `after` up to `last`, in order."""
    return _raw(connection, layout.rows_sql(behind=after is not None), (*(after or ()), *last))


def read_chunk_alone(
    connection: psycopg.Connection[Any], layout: Layout, after: Key | None, last: Key, look: str
) -> tuple[PGresult, Moment]:
    """The same in a transaction of its own, and its moment. Raises as `begin_alone`."""
    try:
        seen = begin_alone(connection, layout, look)
        return read_chunk(connection, layout, after, last), seen
    finally:
        end(connection)


def open_whole(connection: psycopg.Connection[Any], layout: Layout) -> None:
    """Begin to read all rows, in the transaction under way."""
    connection.execute(f"DECLARE {_CURSOR} NO SCROLL CURSOR FOR {layout.whole_sql()}".encode())


def read_whole(connection: psycopg.Connection[Any], rows: int) -> PGresult:
    """The next rows; fewer are the last."""
    return _raw(connection, f"FETCH {rows} FROM {_CURSOR}", ())


def close_whole(connection: psycopg.Connection[Any]) -> None:
    connection.execute(f"CLOSE {_CURSOR}".encode())


def _raw(connection: psycopg.Connection[Any], sql: str, parameters: Sequence[str]) -> PGresult:
    """A result whose values are PostgreSQL's text."""
    from psycopg import RawCursor

    with RawCursor(connection) as cursor:
        cursor.execute(sql.encode(), tuple(parameters), prepare=False)
        result = cursor.pgresult
    if result is None:
        raise AssertionError("a SELECT has a result")
    return result


def _text(layout: Layout, value: bytes | None) -> str:
    try:
        return (value or b"").decode()
    except UnicodeDecodeError as error:
        raise EnvironmentFault(
            "snapshot.key_text",
            f"a key of {layout.title} is not UTF-8, so that no checkpoint can hold it",
            help="`snapshot: { mode: never }`, or a database with an encoding other than SQL_ASCII",
        ) from error
