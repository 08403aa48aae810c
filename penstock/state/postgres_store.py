"""The state store in PostgreSQL: a schema of its own for each pipeline, shared by all machines that may run it.

Collaborators: `postgres_database` (connections, transactions), `lease` (the one run), `migration`; `sql_store` is the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from penstock.clock import Clock
from penstock.config.secret import Secret
from penstock.errors import EnvironmentFault
from penstock.faults import Faults
from penstock.state.dialect import Connection
from penstock.state.lease import LEASE_SCHEMA, Lease
from penstock.state.ledger_tables import LEDGER_SCHEMA
from penstock.state.migration import migrate, refuse_foreign, stored_version
from penstock.state.pipeline_tables import STORE_SCHEMA
from penstock.state.postgres_database import PostgresDatabase, make_session, schema_of
from penstock.state.sql_store import SqlStateStore

T = TypeVar("T")

_SCHEMAS = (LEASE_SCHEMA, LEDGER_SCHEMA, STORE_SCHEMA)
_RIGHTS = (
    "SELECT current_user, has_database_privilege(current_database(), 'CREATE'), "
    "(SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = ?)"
)
_ANSWERS_WITHIN = 2.0  # seconds: a renewal that hangs for longer is worth a new connection


class PostgresStateStore(SqlStateStore):
    """`StateStore` in the database of `dsn`, schema `penstock_PIPELINE`. The lease ends with `close`, or by itself."""

    def __init__(self, dsn: Secret, pipeline: str, clock: Clock, faults: Faults) -> None:
        self._server = PostgresDatabase(dsn.reveal(), pipeline)
        self._line = make_session(dsn.reveal(), pipeline, "lease", deadline=_ANSWERS_WITHIN)
        self._lease = Lease(self._line, pipeline, clock)
        self._line_up = False
        super().__init__(pipeline, clock, faults, self._server)

    @property
    def _holds(self) -> bool:
        return self._lease.held

    async def _write_once(self, call: object, work: Callable[[Connection], T]) -> T:
        return await self._server.write_once(call, work)

    async def open(self, *, create: bool = True) -> None:
        """See `StateStore.open`; `Transient` where the server cannot be reached. Who only looks has one connection, and another
        one for the lease when it asks about it."""
        try:
            await self._server.open(one=not create)
            if create:
                await self._connect_line()
            await self._prepare(create=create)
        except BaseException:
            await self.close()
            raise

    async def _connect_line(self) -> None:
        if not self._line_up:
            await self._line.open()
            self._line_up = True

    async def _prepare(self, *, create: bool) -> None:
        stored = await self._server.run(lambda db: [stored_version(db, schema) for schema in _SCHEMAS])
        if stored[-1] == 0:
            await self._server.run(lambda db: self._check_rights(db, create=create))
        if stored[-1] == 0 and not create:
            raise EnvironmentFault(
                "state.missing",
                f"there is no state of pipeline {self.pipeline}: the database has no schema {schema_of(self.pipeline)}",
                help="run the pipeline first",
            )
        if stored[-1] == 0:
            await self._server.prepare(self._alone(self._create))
        elif stored != [schema.version for schema in _SCHEMAS]:
            await self._connect_line()
            await self._lease.hold()  # never under an older program that is alive
            await self._server.prepare(self._alone(lambda db: migrate(db, _SCHEMAS, self._faults)))
            await self._lease.release()

    def _check_rights(self, db: Connection, *, create: bool) -> None:
        """Tables in a schema that may not be used cannot be seen, and look like none."""
        user, may_create, usable = db.execute(_RIGHTS, (schema_of(self.pipeline),)).fetchone()
        if usable or (usable is None and (may_create or not create)):
            return
        schema, missing = _quoted(schema_of(self.pipeline)), usable is None
        raise EnvironmentFault(
            "state.no_grant",
            f"{user} may not {'create' if missing else 'use'} the schema {schema}",
            help=f"CREATE SCHEMA {schema} AUTHORIZATION {user}"
            if missing
            else f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}",
        )

    def _create(self, db: Connection) -> None:
        schema = schema_of(self.pipeline)
        if db.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (schema,)).fetchone() is None:
            db.execute(f"CREATE SCHEMA {_quoted(schema)}")
        if stored_version(db, STORE_SCHEMA) == 0:
            refuse_foreign(db, f"schema {schema}")
        migrate(db, _SCHEMAS, self._faults)

    def _alone(self, work: Callable[[Connection], T]) -> Callable[[Connection], T]:
        """With no other program preparing this schema."""
        schema = schema_of(self.pipeline)

        def locked(db: Connection) -> T:
            db.execute("SELECT pg_advisory_lock(hashtextextended(?, 0))", (schema,)).fetchall()
            try:
                return work(db)
            finally:
                db.execute("SELECT pg_advisory_unlock(hashtextextended(?, 0))", (schema,)).fetchall()

        return locked

    async def close(self) -> None:
        """Let go of the pipeline and close the connections; harmless when not open."""
        try:
            await self._lease.release()
        finally:
            self._line_up = False
            await self._line.close()
            await self._server.close()

    async def hold(self, *, wait: bool = False, take_over: bool = False) -> None:
        """See `StateStore.hold`. A holder is known to be alive when its counter moves: after half a second, or three for a
        dead one."""
        await self._connect_line()
        await self._lease.hold(wait=wait, take_over=take_over)

    def check_hold(self) -> None:
        """See `StateStore.check_hold`."""
        self._lease.check()

    async def holder(self) -> int | None:
        """See `StateStore.holder`. It may run on another machine."""
        if self._lease.held:
            return os.getpid()
        await self._connect_line()
        row = await self._lease.holder()
        return row.pid if row else None


def _quoted(name: str) -> str:
    """Invariant 12."""
    return '"' + name.replace('"', '""') + '"'
