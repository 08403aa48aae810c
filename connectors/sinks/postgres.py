"""The postgres sink: rows, dedup keys, checkpoint and epoch check in one transaction, so that effects are exactly once.

Collaborators: `_postgres.config`, `_postgres.events` (what an event asks for), `_postgres.types` and `_postgres.values` (values),
`_postgres.plan` (order), `_postgres.writer` (statements), `_postgres.table` and `_postgres.create` (the table),
`_postgres.ledger` (the ledger's schema), `_postgres.ordering` (which of two rows is the newer). Invariants 2, 4, 6, 7, 12 and 13
are enforced there and here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from connectors._postgres import make_session, parse_table
from connectors.sinks._asked import Asked
from connectors.sinks._postgres import ledger
from connectors.sinks._postgres.columns import types_of
from connectors.sinks._postgres.config import PostgresSinkConfig, declared_schema, needed_privileges, order_of
from connectors.sinks._postgres.create import create
from connectors.sinks._postgres.doctor import WHAT, examine
from connectors.sinks._postgres.events import Shaping, unfit_for_columns
from connectors.sinks._postgres.inspection import inspection
from connectors.sinks._postgres.keys import check_key
from connectors.sinks._postgres.ordering import Ordering, check_order, ordering_of
from connectors.sinks._postgres.refusals import Outdated
from connectors.sinks._postgres.rows import Op
from connectors.sinks._postgres.table import Table, check_columns, check_grants, load, signature_of
from connectors.sinks._postgres.writer import Writer
from connectors.sinks._table_config import reading
from connectors.sinks._table_refusals import refused_without_table
from penstock.errors import BatchError, ComponentError, EnvironmentFault, Fatal, Permanent, Transient
from penstock.event import Event
from penstock.ledger import Claim, Claimant, Commit
from penstock.postgres import Session
from penstock.spi import Context, Finding, Inspection, Position
from penstock.state.dialect import Connection
from penstock.state.ledger_tables import LedgerTables
from penstock.state.postgres_connection import PostgresConnection

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
_Known = tuple[Table | None, Ordering | None]

DEADLINE = 300.0
"""Seconds that one commit may take, waiting for locks included, before its connection is given up and it is tried again."""

_PART = 250
"""Events that are converted while the server works on those before."""

_LOOKS = 3
"""How often a group is prepared anew because its table was altered under it."""


class PostgresSink:
    """Rows into a PostgreSQL table, exactly once: appended, updated, ignored or deleted by key."""

    name: ClassVar[str] = "postgres"
    Config: ClassVar[type[PostgresSinkConfig]] = PostgresSinkConfig

    def __init__(self, config: PostgresSinkConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._table = parse_table(config.table)
        self._key = config.names_of_key
        self._order = order_of(config)
        self._reading = reading(config, context)
        self._schema = declared_schema(config, context)
        self._ledger = LedgerTables(f"{context.pipeline}/{context.component}")
        settings = ledger.settings(config.ledger_schema)
        self._session = make_session(config, context, what=WHAT, settings=settings, deadline=DEADLINE)
        self._reader = make_session(config, context, what=WHAT, settings=settings, deadline=DEADLINE)
        self._reads = False
        self._writer: Writer | None = None
        self._shaping: Shaping | None = None
        self._stale = 0

    @property
    def overwrites(self) -> bool:
        """See `Overwriting`."""
        return self._config.overwrites

    @property
    def stale(self) -> int | None:
        """See `Overwriting`."""
        return None if self._order is None else self._stale

    async def examine(self, checkpoint: Mapping[str, Position]) -> list[Finding]:
        """See `Examined`."""
        return await examine(self._config, self._context)

    def inspection(self) -> AbstractAsyncContextManager[Inspection]:
        """See `Verifying`: rows are looked for by their key, or, without one, by their values."""
        return inspection(self._config, self._context, self._look, self._gone())

    async def open(self, recovered: bytes | None) -> None:
        """Connect, look at the table, and bring the ledger's tables up to date.

        :raises Transient: the server is not there.
        :raises EnvironmentFault: `sink.missing_table`, `sink.unknown_column`, `sink.generated_column`, `sink.no_unique_key`,
            `sink.order_type`, `sink.tombstones`, `sink.rules`, `sink.no_grant`, `postgres.refused` or `state.newer`.
        """
        await self._session.open()
        try:
            self._use(*await self._session.run(self._prepare))
        except BaseException:
            await self._session.close()
            raise

    def _prepare(self, connection: psycopg.Connection[Any]) -> _Known:
        ledger.flush_commits(connection)
        table = self._look(connection)
        if table is None and not self._config.create:  # before the ledger's tables: a wrong database stays as it is
            raise self._missing("there is no", "make it, or set create: true to have it made")
        ledger.prepare(connection, self._config.ledger_schema, self._context.faults)
        return self._with_ordering(connection, table)

    def _look(self, connection: psycopg.Connection[Any]) -> Table | None:
        table = load(connection, self._table)
        if table is None:
            return None
        config, key = self._config, self._key
        wanted = [*key, *(config.columns or ())]
        if self._order is not None:
            check_order(table, self._order)
            wanted.append(self._order.column)
        check_columns(table, wanted, key, config.on_conflict)
        check_grants(connection, table, needed_privileges(config))
        check_key(connection, table, key, config.on_conflict)
        return table

    def _missing(self, what: str, help: str) -> EnvironmentFault:
        return EnvironmentFault("sink.missing_table", f"{what} table {self._table} in {WHAT}", help=help)

    def _gone(self) -> EnvironmentFault:
        return self._missing("somebody has removed", "restore it, or start the pipeline again with create: true")

    def _with_ordering(self, connection: psycopg.Connection[Any], table: Table | None) -> _Known:
        if table is None or self._order is None:
            return table, None
        schema = self._config.ledger_schema
        with ledger.alone(connection, f"penstock ledger {schema}"):
            return table, ordering_of(connection, table, self._key, self._order, schema)

    def _use(self, table: Table | None, ordering: Ordering | None) -> None:
        if table is not None:
            self._writer = Writer(table, self._key, self._config.on_conflict, ordering, self._count_stale)
            self._shaping = Shaping(table, self._key, self._config.on_conflict, ordering)

    def _count_stale(self, count: int) -> None:
        self._stale += count

    async def close(self) -> None:
        """Close the connections; harmless when not open."""
        try:
            await self._reader.close()
        finally:
            await self._session.close()

    # ---- the ledger

    async def claim(self, claimant: Claimant) -> Claim:
        """See `Ledger.claim`."""

        def work(db: Connection) -> Claim:
            claim = self._ledger.claim(db, claimant)
            self._context.faults.hit("mid_claim")
            return claim

        return await self._ask(partial(ledger.within, work=work))

    async def seen(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `Ledger.seen`. On a connection of its own, so that no commit is waited for."""
        if not self._reads:
            await self._reader.open()
            self._reads = True
        work = partial(ledger.look, work=lambda db: self._ledger.seen(db, keys))
        return await _ask(self._reader, work)

    async def committed(self) -> tuple[int, int]:
        """See `Ledger.committed`."""
        return await self._ask(partial(ledger.look, work=self._ledger.committed))  # Invariant 7: behind the ledger's row lock

    async def forget_jobs(self, job: str) -> None:
        """See `Ledger.forget_jobs`."""
        await self._ask(partial(ledger.within, work=lambda db: self._ledger.forget_jobs(db, job)))

    async def commit(self, commit: Commit) -> None:
        """See `Ledger.commit`."""
        await self._ask(partial(ledger.within, work=lambda db: self._settle(db, commit)))

    def _settle(self, db: Connection, commit: Commit) -> None:
        self._ledger.commit(db, commit)  # Invariants 2, 4 and 6: in the transaction of the rows
        self._context.faults.hit("inside_commit")

    async def _ask(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        return await _ask(self._session, work)

    # ---- rows

    async def write_and_commit(self, events: Sequence[Event], commit: Commit) -> None:
        """See `LedgerSink.write_and_commit`."""
        if not events:
            await self.commit(commit)
            return
        asked = self._reading.read(events)
        if self._writer is not None and await self._ask(partial(self._write_parts, self._writer, asked, commit)):
            return
        unaltered = False
        for _ in range(_LOOKS):
            ops = await self._shape(asked)
            try:
                refused = await self._ask(partial(self._write, ops, commit, unaltered))
            except Outdated as error:
                unaltered = await self._ask(partial(self._look_again, error))
                continue
            if refused:
                raise BatchError(refused, nothing_delivered=True)
            return
        raise Transient("sink.table_altered", f"table {self._table} is altered again and again")

    def _write_parts(self, writer: Writer, asked: Sequence[Asked], commit: Commit, connection: psycopg.Connection[Any]) -> bool:
        """Where nothing is wrong, as nearly always: False where something is, and nothing was written."""

        def parts() -> Iterator[list[Op]]:
            size = _PART if writer.divides else len(asked)
            for start in range(0, len(asked), size):
                ops, failed = self._shaped(asked[start : start + size])
                if failed:
                    raise Outdated
                yield ops

        return writer.write_parts(connection, parts(), partial(self._finish, commit, connection))

    def _finish(self, commit: Commit, connection: psycopg.Connection[Any]) -> None:
        self._context.faults.hit("inside_sink_write")
        self._settle(PostgresConnection(connection), commit)

    def _write(
        self, ops: Sequence[Op], commit: Commit, unaltered: bool, connection: psycopg.Connection[Any]
    ) -> dict[int, ComponentError]:
        if self._writer is None:  # every event was refused, or there is nothing to truncate
            ledger.within(connection, lambda db: self._settle(db, commit))
            return {}
        then = partial(self._finish, commit, connection)
        return self._writer.write(connection, ops, then, unaltered=unaltered)

    def _look_again(self, why: Outdated, connection: psycopg.Connection[Any]) -> bool:
        """Go on with the table as it is now.

        :returns: whether nothing has changed: the server refuses a statement for another reason.
        :raises EnvironmentFault: it is gone, or no longer fits.
        """
        table = self._look(connection)
        if table is None:
            raise self._gone()
        unaltered = self._writer is not None and table.is_as(self._writer.table) and why.__cause__ is not None
        self._use(*self._with_ordering(connection, table))
        return unaltered

    async def _shape(self, asked: Sequence[Asked]) -> list[Op]:
        """The operations of all events.

        :raises BatchError: some ask for none.
        """
        if self._shaping is None:
            self._use(*await self._ask(partial(self._create, asked)))
        ops, failed = self._shaped(asked)
        if failed and self._writer is not None:
            known = self._writer.table
            if await self._ask(lambda connection: signature_of(connection, known.oid)) != known.signature:
                await self._ask(partial(self._look_again, Outdated()))  # somebody may have added the column
                ops, failed = self._shaped(asked)
        if failed:
            raise BatchError(failed, nothing_delivered=True)
        return ops

    def _shaped(self, asked: Sequence[Asked]) -> tuple[list[Op], dict[int, ComponentError]]:
        if self._shaping is not None:
            return self._shaping.shape(asked)
        return [], refused_without_table(asked, partial(unfit_for_columns, key=self._key), ordered=self._order is not None)

    def _create(self, asked: Sequence[Asked], connection: psycopg.Connection[Any]) -> _Known:
        """Make the table; None where no event says of which columns."""
        with ledger.alone(connection, f"penstock table {self._table}"):
            types = types_of(asked, self._config, self._schema, self._order)
            if types is not None:
                create(connection, self._table, types, self._key)
            table = self._look(connection)
        return self._with_ordering(connection, table)


async def _ask(session: Session, work: Callable[[psycopg.Connection[Any]], T]) -> T:
    """`work` on the session's thread, after a new connection where the last was lost."""
    if not session.is_open:
        await session.reopen()
        await session.run(ledger.flush_commits)
    try:
        return await session.run(work)
    except BatchError:
        raise
    except Permanent as error:  # of the ledger's own values: no event is to blame
        raise Fatal(error.code, error.message, why=error.why) from error
