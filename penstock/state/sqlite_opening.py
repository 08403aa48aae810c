"""What a file must be before a state store is opened over it, and how it becomes one of today's format (Invariant 11)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from penstock.errors import EnvironmentFault
from penstock.faults import Faults
from penstock.state.ledger_tables import LEDGER_SCHEMA
from penstock.state.lock import PipelineLock
from penstock.state.migration import migrate, refuse_foreign, stored_version
from penstock.state.pipeline_tables import STORE_SCHEMA
from penstock.state.sqlite_database import Naming

NAMING = Naming(
    "state",
    "the state store",
    "restore the file from a backup, or move it away (with its -wal and -shm files): the pipeline then starts anew, and a sink "
    "that holds its own ledger is taken over with `pipe checkpoint adopt`",
)
_SCHEMAS = (LEDGER_SCHEMA, STORE_SCHEMA)


def check_file(path: Path, pipeline: str, lock: PipelineLock, *, create: bool) -> None:
    """Of the file as it is found, before anything opens it.

    :raises EnvironmentFault: `state.missing` (without `create`), `state.damaged`.
    """
    if not create and not path.exists():
        raise EnvironmentFault(
            "state.missing", f"there is no state of pipeline {pipeline}: {path}", help="run the pipeline first"
        )
    # A crash may leave an empty file, but only before anything was held: the lock is made when the tables are.
    if path.is_file() and path.stat().st_size == 0 and lock.path.exists():
        raise EnvironmentFault(
            "state.damaged", f"the state store {path} is empty, and the pipeline has run before", help=NAMING.repair
        )


def prepare(connection: sqlite3.Connection, path: Path, lock: PipelineLock, faults: Faults) -> None:
    """Make the tables, or bring them up to date while nobody uses them.

    :raises EnvironmentFault: `state.foreign`, `state.newer`; `state.held`, where a run of an older program is alive.
    """
    stored = [stored_version(connection, schema) for schema in _SCHEMAS]
    if stored[-1] == 0:
        refuse_foreign(connection, path)
    outdated = any(0 < version < schema.version for version, schema in zip(stored, _SCHEMAS, strict=True))
    if outdated and (pid := lock.acquire()) is not None:  # never under an older program that is alive
        raise EnvironmentFault(
            "state.held",
            f"the state store has an older format, and a run of an older version (process {pid}) is using it",
            help="stop that run first: the format is brought up to date when nobody uses it",
        )
    try:
        migrate(connection, _SCHEMAS, faults)
    finally:
        if outdated:
            lock.release()
