"""The `postgres` source: rows of a table or query, in the order of a cursor column and a key, once or followed.

A round: the last row there is now is looked up; what might still commit a row before it is waited for (`_query_settling`); then
rows up to it are read, a transaction a read (`_query_reader`). A position is the cursor and key of the last row
(`_query_order`). A row that is changed is read again only if its cursor rises; deletions are not seen: that is what
`postgres_cdc` is for.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from connectors._pg_types import NumericMode
from connectors._postgres import PostgresFields, TableField, make_session, parse_table, quoted
from connectors.sources._query_doctor import examine
from connectors.sources._query_order import order_text, values_of
from connectors.sources._query_reader import PARTITION, Labels, Reader, batches
from connectors.sources._query_settling import Running, Settling, running
from connectors.sources._query_shape import Ask, Shape, check_cursor, check_sequence, look
from penstock.config.base import Duration
from penstock.errors import EnvironmentFault
from penstock.spi import Batch, Context, Finding, Position, Resume, Token

if TYPE_CHECKING:
    import psycopg

WHAT = "the source's database"
DEADLINE = 300.0
"""Seconds that one read may take before its connection is given up."""

CLOCK_MARGIN = 0.1
"""Seconds between the looks at the last row and at what runs: the server takes `now()` just before a transaction begins."""

_LOOK_AGAIN = (0.05, 1.0)
"""Seconds between looks at transactions that are waited for: first, and at most."""


def _to_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_to_tuple),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}}]}
    ),
]


class PostgresConfig(PostgresFields):
    """Fields of the `postgres` source."""

    table: TableField | None = Field(
        None,
        description="What is read, as `schema.table`; without a schema in `public`. Beside a `query` it only names its events.",
    )
    query: str | None = Field(
        None,
        min_length=1,
        description="A SELECT whose rows are read, its tables named with their schema. It is run again for each read, with "
        "conditions on cursor and key around it.",
        examples=["SELECT * FROM public.orders WHERE status = 'paid'"],
    )
    columns: Names = Field((), description="Columns that the data has. Default: all.", examples=[["id", "total"]])
    cursor: Names = Field(
        (),
        description="The column whose values rise from row to row, and that no later transaction gives again (a number from a "
        "sequence, a time of creation or change with microseconds), or several. "
        "Without one the rows are read in the order of their key.",
        examples=["updated_at"],
    )
    key: Names = Field(
        (), description="Columns that, together with `cursor`, are unique. Default: the table's primary key.", examples=["id"]
    )
    follow: bool = Field(False, description="Go on reading as rows are added behind the last one. Needs `cursor`.")
    poll: Duration = Field(5.0, gt=0, description="Time between two looks for new rows.", examples=["5s"])
    lag: Duration | None = Field(
        None,
        ge=0,
        description="A row becomes visible only when its transaction commits, while its number or time was taken before. By "
        "default rows are read when every transaction has ended that was running in the database when they were first seen, so "
        "that none is overtaken. A duration bounds this wait: for databases with transactions that stay open, it declares that "
        "no transaction commits a row later than this after it took the row's cursor; what does so is missed. `0s` is for tables "
        "with one writer. A hot standby cannot see what runs: there a duration is needed, and waited for.",
        examples=["30s"],
    )
    time: str | None = Field(
        None,
        min_length=1,
        description="A `timestamptz` column: the time of the events, and what ranges of time are read by. Infinity and NULL make "
        "events without a time.",
        examples=["created_at"],
    )
    numeric: NumericMode = Field(
        "string", description="`string`: a `numeric` keeps every digit. `number`: it is a JSON number, where that is exact."
    )
    batch_rows: int = Field(5000, ge=1, description="Rows that one read asks for at most; fewer where rows are large.")

    @model_validator(mode="after")
    def _goes_together(self) -> PostgresConfig:
        if self.table is None and self.query is None:
            raise ValueError("`table` or `query` says what is read")
        if self.query is not None and not self.key:
            raise ValueError("a `query` needs `key`: the columns that are unique in it")
        if self.follow and not self.cursor:
            raise ValueError("`follow` needs `cursor`: the column that tells new rows from old ones")
        return self


class PostgresSource:
    """Reads rows of a PostgreSQL table or query in the order of a column, once or followed; also by ranges of time."""

    name: ClassVar[str] = "postgres"
    Config: ClassVar[type[PostgresConfig]] = PostgresConfig
    has_positions = True

    def __init__(self, config: PostgresConfig, context: Context) -> None:
        self.config = config
        self.context = context
        self.batch_count = 500
        self.batch_bytes = 1 << 20
        self._table = parse_table(config.table) if config.table else None
        self._ask = Ask(
            None if config.query else self._table,
            config.query,
            config.columns,
            config.cursor,
            config.key,
            config.time,
            config.numeric,
        )
        self._session = make_session(config, context, what=WHAT, deadline=DEADLINE)
        self._once = True
        self._shape: Shape | None = None
        self._labels = Labels("", "")
        self._after: tuple[str, ...] = ()
        self._waiting: Settling | None = None

    @staticmethod
    def position_text(order: bytes) -> str:
        """See `Legible`."""
        return order_text(order)

    @property
    def identity(self) -> str:
        return "postgres:" + self._what()

    async def identify(self) -> str:
        """See `Identifying`: the server's system identifier, the database, and what is read in which order."""
        session = make_session(self.config, self.context, what=WHAT, deadline=DEADLINE)
        await session.open()
        try:
            system, database = await session.run(_server)
        finally:
            await session.close()
        return f"postgres:{system}/{database}/{self._what()}"

    def _what(self) -> str:
        order = ",".join((*self.config.cursor, "|", *self.config.key))
        if self._ask.table is not None:
            return f"{self._ask.table}({order})"
        return hashlib.blake2b(f"{self.config.query}({order})".encode(), digest_size=16).hexdigest()

    async def examine(self, checkpoint: Mapping[str, Position]) -> list[Finding]:
        """See `Examined`."""
        return await examine(self.config, self.context, self._ask, waits=bool(self.config.cursor) and self.config.lag is None)

    async def open(self, resume: Resume) -> None:
        """Connects, and looks at columns, key and order.

        :raises EnvironmentFault: `source.unknown_column`, `source.no_key`, `source.key_not_unique`, `source.unordered_type`,
            `source.cursor_type`, `source.cached_sequence`, `source.standby`, `source.unknown_checkpoint`.
        """
        self._once = resume.once or not self.config.follow
        await self._session.open()
        try:
            self._shape = shape = await self._session.run(self._survey)
            if (stored := resume.positions.get(PARTITION)) is not None:
                self._after = values_of(stored, shape.order)
        except BaseException:
            await self._session.close()
            raise

    async def batches(self) -> AsyncIterator[Batch]:
        """Batches in the order of cursor and key.

        :raises EnvironmentFault: `source.null_cursor`.
        :raises Fatal: `source.key_not_unique`, `source.changed_columns`.
        """
        if not self._session.is_open:
            await self._session.reopen()
        while True:
            self._shape = await self._session.run(self._survey)  # columns that were added are read from the next round on
            async for batch in self._round(self._reader(self._shape)):
                yield batch
            if self._once:
                return
            await self.context.clock.sleep(self.config.poll)

    async def read_range(self, span: tuple[datetime, datetime] | None, known: Mapping[str, Position]) -> AsyncIterator[Batch]:
        """See `RangeSource`: rows with their `time` in the span, in its order, and those of one moment by cursor and key; then
        those without one. Without a span all rows by cursor and key.

        :raises EnvironmentFault: `source.no_time`, where no `time` column is declared; `source.null_cursor`.
        """
        if span is not None and self.config.time is None:
            raise EnvironmentFault(
                "source.no_time", "rows have no time to choose them by", help="name the column: time: created_at"
            )
        await self._session.open()
        try:
            shape = await self._session.run(self._survey)
            if not await self._session.run(self._reader(shape).bound):
                return
            for reader in [self._reader(shape)] if span is None else self._span_readers(shape, *span):
                done = False
                while not done:
                    rows, done = await self._session.run(reader.read)
                    for batch in batches(rows, self.batch_count, self.batch_bytes):
                        yield batch
        finally:
            await self._session.close()

    async def ack(self, tokens: Sequence[Token]) -> None:
        """Nothing to do: the table keeps its rows, and the ledger holds the position."""

    async def release(self, tokens: Sequence[Token], delay: float) -> None:
        """Nothing to do: the next run reads on from the ledger's position."""

    async def close(self) -> None:
        self._waiting = None
        await self._session.close()

    def health(self) -> str | None:
        """What rows wait for; see `Healthy`."""
        return None if self._waiting is None else str(self._waiting)

    async def _round(self, reader: Reader) -> AsyncIterator[Batch]:
        reader.upto = await self._session.run(reader.bound)
        if not reader.upto or reader.upto == reader.after:
            return
        if self.config.cursor:
            await self._settle()
        done = False
        while not done:
            rows, done = await self._session.run(reader.read)
            for batch in batches(rows, self.batch_count, self.batch_bytes):
                if batch.end is not None:
                    self._after = values_of(batch.end, reader.columns)
                yield batch

    async def _settle(self) -> None:
        """Wait until nothing can commit any more below the bound, or `lag` has passed."""
        lag, clock = self.config.lag, self.context.clock
        if lag == 0:
            return
        begun = clock.monotonic()
        await clock.sleep(CLOCK_MARGIN)
        self._waiting = settling = Settling(await self._running())
        pause, longest = _LOOK_AGAIN
        try:
            while not await self._settled(settling):
                if lag is not None and clock.monotonic() - begun >= lag:
                    return
                await clock.sleep(pause)
                pause = min(2 * pause, longest)
        finally:
            self._waiting = None

    async def _settled(self, settling: Settling) -> bool:
        return settling.look(await self._running()) and not await self._session.run(_in_recovery)

    async def _running(self) -> Running:
        return await self._session.run(running)

    def _survey(self, connection: psycopg.Connection[Any]) -> Shape:
        shape = look(connection, self._ask)
        _, database = _server(connection)
        name, short = (self.context.pipeline,) * 2 if self._table is None else (str(self._table), self._table.table)
        self._labels = Labels(f"postgres:{database}/{name}", f"{short}.row")
        if self.config.cursor:
            check_cursor(shape, self._ask)
            self._check_visibility(connection)
        return shape

    def _check_visibility(self, connection: psycopg.Connection[Any]) -> None:
        if self.config.lag is not None:
            return
        check_sequence(connection, self._ask)
        if _in_recovery(connection):
            raise EnvironmentFault(
                "source.standby",
                "the server is a hot standby, which does not know what runs on its primary",
                help="declare how long a transaction may take after it took its cursor's value: lag: 30s",
            )

    def _reader(self, shape: Shape) -> Reader:
        return Reader(shape, self._labels, shape.order, self.config.batch_rows, self._after)

    def _span_readers(self, shape: Shape, start: datetime, end: datetime) -> list[Reader]:
        """Of the rows of a span, and of those whose time is none."""
        if shape.time is None or start.tzinfo is None or end.tzinfo is None:
            raise EnvironmentFault("source.no_time", "a range needs a `time` column, and bounds with a time zone")
        time = f"q.{quoted(shape.time.name)}"
        limits = tuple(
            (f"{time} {sign} {{}}::pg_catalog.timestamptz".replace(time, time.replace("{", "{{").replace("}", "}}")), bound)
            for sign, bound in ((">=", _iso(start)), ("<", _iso(end)))
        )
        columns = tuple(dict.fromkeys((shape.time, *shape.order)))
        timeless = self._reader(shape)
        timeless.also = (f"({time} IS NULL OR NOT pg_catalog.isfinite({time}))",)
        return [Reader(shape, self._labels, columns, self.config.batch_rows, limits=limits), timeless]


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _server(connection: psycopg.Connection[Any]) -> tuple[str, str]:
    sql = b"SELECT system_identifier::text, pg_catalog.current_database()::text FROM pg_catalog.pg_control_system()"
    row = connection.execute(sql).fetchone()
    return ("", "") if row is None else (row[0], row[1])


def _in_recovery(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(b"SELECT pg_catalog.pg_is_in_recovery()").fetchone()
    return bool(row and row[0])
