"""Schema versions: a newer program migrates an older file, an older program refuses a newer one, neither damages it.

A database can hold several sets of tables (a ledger inside somebody's own database, the state store's), so each set keeps its own
version in `penstock_meta` instead of using SQLite's `user_version`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import EnvironmentFault
from penstock.faults import Faults
from penstock.state.dialect import Connection, dialect_of, transaction


@dataclass(frozen=True, slots=True)
class PerDialect:
    """Statements that SQLite and PostgreSQL say differently; each is sent to its own as it stands."""

    sqlite: Sequence[str]
    postgres: Sequence[str]


Statement = str | PerDialect


@dataclass(frozen=True, slots=True)
class Schema:
    """One set of tables.

    :ivar name: under which `penstock_meta` keeps its version.
    :ivar steps: the statements that lead from version N to N + 1, for N = 0, 1, …. Never changed once released.
    """

    name: str
    steps: Sequence[Sequence[Statement]]

    @property
    def version(self) -> int:
        """What this program writes."""
        return len(self.steps)


def stored_version(connection: Connection, schema: Schema) -> int:
    """The version that the file holds; 0 where the tables do not exist yet.

    :raises EnvironmentFault: `state.newer`, where this program does not know it.
    """
    query = f"SELECT 1 FROM ({dialect_of(connection).tables}) AS t WHERE name = 'penstock_meta'"  # noqa: S608 - a constant
    if not connection.execute(query).fetchone():
        return 0
    row = connection.execute("SELECT value FROM penstock_meta WHERE name = ?", (schema.name,)).fetchone()
    version = int(row[0]) if row else 0
    if version > schema.version:  # Invariant 11: a newer store is refused before anything in it is touched
        raise EnvironmentFault(
            "state.newer",
            f"the {schema.name} tables have version {version}; this program knows versions up to {schema.version}",
            help="run it with the newer version of penstock that wrote them",
        )
    return version


def refuse_foreign(connection: Connection, path: Path | str) -> None:
    """Of a file that holds no state store yet: it must hold nothing else either.

    :raises EnvironmentFault: `state.foreign`.
    """
    tables = connection.execute(f"{dialect_of(connection).tables} ORDER BY name LIMIT 3").fetchall()
    if tables:
        raise EnvironmentFault(
            "state.foreign",
            f"{path} is a database, but no state store",
            why=f"it holds {', '.join(name for (name,) in tables)}",
            help="give `state:` a directory of its own, or move the file away",
        )


def migrate(connection: Connection, schemas: Sequence[Schema], faults: Faults) -> None:
    """Bring each set of tables to this program's version, a transaction for all steps: after a crash the file is old or new.

    :raises EnvironmentFault: `state.newer`.
    """
    stored = [stored_version(connection, schema) for schema in schemas]
    if stored == [schema.version for schema in schemas]:
        return
    with transaction(connection):  # Invariant 11
        connection.execute("CREATE TABLE IF NOT EXISTS penstock_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        for schema in schemas:
            for step in schema.steps[stored_version(connection, schema) :]:
                for statement in step:
                    _execute(connection, statement)
            faults.hit("mid_migration")
            connection.execute(
                "INSERT INTO penstock_meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (schema.name, str(schema.version)),
            )


def _execute(connection: Connection, statement: Statement) -> None:
    if isinstance(statement, str):
        connection.execute(statement)
        return
    for own in statement.sqlite if dialect_of(connection).name == "sqlite" else statement.postgres:
        connection.execute(own)
