"""The ledger's tables beside the rows: in a schema of their own, which the sink's connection sees alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from connectors._pg_types import SESSION_SETTINGS
from connectors._postgres import quoted
from penstock.errors import EnvironmentFault
from penstock.faults import Faults
from penstock.state.dialect import Connection, transaction
from penstock.state.ledger_tables import LEDGER_SCHEMA
from penstock.state.migration import migrate
from penstock.state.postgres_connection import PostgresConnection

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

IDLE_TIMEOUT = 3.0
"""Seconds that a transaction may stand still between two statements: a run that was stopped in the middle of one keeps the
ledger's lock no longer from the run that takes over."""

_SCHEMA = """
SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_schema_privilege(n.oid, 'CREATE'),
       ARRAY(SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class AS c
             WHERE c.relnamespace = n.oid AND c.relname = ANY (%s) AND EXISTS (
                 SELECT FROM pg_catalog.unnest('{SELECT,INSERT,UPDATE,DELETE}'::pg_catalog.text[]) AS p
                 WHERE NOT pg_catalog.has_table_privilege(c.oid, p)))
FROM pg_catalog.pg_namespace AS n WHERE n.nspname = %s
"""
_TABLES = (
    "penstock_meta",
    "penstock_ledgers",
    "penstock_positions",
    "penstock_sink_states",
    "penstock_job_records",
    "penstock_key_generations",
)
_DURABLY = (
    "SELECT pg_catalog.set_config('synchronous_commit', 'on', false) "
    "WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"
)


def settings(schema: str) -> Mapping[str, str]:
    """Of a connection that sees this schema alone."""
    return {
        **SESSION_SETTINGS,
        "search_path": quoted(schema),
        "default_transaction_read_only": "off",
        "default_transaction_isolation": "read committed",  # a statement sees the table as it is once its lock is granted
        "array_nulls": "on",  # the NULLs of parameters that are arrays
        "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT:g}s",
    }


def flush_commits(connection: psycopg.Connection[Any]) -> None:
    """A commit that returns is on disk, whatever the user's default is."""
    connection.execute(_DURABLY).fetchall()


@contextmanager
def alone(connection: psycopg.Connection[Any], name: str) -> Iterator[None]:
    """Inside, no other program does this."""
    connection.execute("SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended(%s, 0))", (name,)).fetchall()
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended(%s, 0))", (name,)).fetchall()


def prepare(connection: psycopg.Connection[Any], schema: str, faults: Faults) -> None:
    """Schema and tables of the ledger, made or brought up to date.

    :raises EnvironmentFault: `sink.no_grant`, with the SQL that gives what is missing; `state.newer`.
    """
    with alone(connection, f"penstock ledger {schema}"):
        _check_schema(connection, schema)
        migrate(PostgresConnection(connection), [LEDGER_SCHEMA], faults)


def _check_schema(connection: psycopg.Connection[Any], schema: str) -> None:
    from psycopg import errors

    user, name = quoted(connection.info.user), quoted(schema)
    found = connection.execute(_SCHEMA, (list(_TABLES), schema)).fetchone()
    if found is None:
        try:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        except errors.InsufficientPrivilege as error:
            raise _no_grant(connection, schema, f"CREATE SCHEMA {name} AUTHORIZATION {user}") from error
        return
    usable, closed = found
    if not usable:
        raise _no_grant(connection, schema, f"GRANT USAGE, CREATE ON SCHEMA {name} TO {user}")
    if closed:
        tables = ", ".join(quoted(schema, table) for table in closed)
        raise _no_grant(connection, schema, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {user}")


def _no_grant(connection: psycopg.Connection[Any], schema: str, sql: str) -> EnvironmentFault:
    return EnvironmentFault(
        "sink.no_grant",
        f"user {connection.info.user} may not keep the ledger in schema {schema}",
        why="checkpoint and dedup keys are written there, in the transaction of the rows",
        help=f"{sql}; or name another schema: ledger_schema",
    )


def within(connection: psycopg.Connection[Any], work: Callable[[Connection], T]) -> T:
    """`work` in a transaction of its own."""
    db = PostgresConnection(connection)
    with transaction(db):
        return work(db)


def look(connection: psycopg.Connection[Any], work: Callable[[Connection], T]) -> T:
    """`work` in a transaction that is undone: it may lock, and changes nothing."""
    db = PostgresConnection(connection)
    db.execute("BEGIN")
    try:
        return work(db)
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
