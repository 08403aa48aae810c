"""Reads tables of a snapshot, one after the other, over a session of its own, ahead of what is given.

What is read is held on the table until it may be given (`_cdc.snapshot_held`).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from connectors._pg_types import TYPES_QUERY, TypeCatalog
from connectors._postgres import TableName
from connectors.sources._cdc.config import PostgresCdcConfig
from connectors.sources._cdc.drift import Look
from connectors.sources._cdc.snapshot_held import Held, ReadAgain, Table
from connectors.sources._cdc.snapshot_positions import INITIAL, Key, Progress
from connectors.sources._cdc.snapshot_reader import (
    begin_alone,
    close_whole,
    end,
    inspect_alone,
    open_whole,
    read_bounds,
    read_bounds_alone,
    read_chunk,
    read_chunk_alone,
    read_whole,
    writers,
)
from connectors.sources._cdc.snapshot_rows import Shape, shape
from connectors.sources._cdc.snapshot_tables import Layout, inspect
from connectors.sources._cdc.snapshot_tap import Listener, Tap
from connectors.sources._cdc.snapshot_touched import Touched
from connectors.sources._cdc.tables import Selection
from penstock.clock import Clock
from penstock.errors import EnvironmentFault, Fatal, Permanent
from penstock.postgres import Session
from penstock.spi import Program

DECLARED = 64
"""Chunks that are declared at a time."""
_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_WAY_ON = "or, to go on without its rows: pipe checkpoint reset PIPELINE --partition '%s'"


class Setup(msgspec.Struct, frozen=True):
    """What all workers need.

    :ivar rows, size: of a batch.
    :ivar opening: of the sequences of events, as `sequence.opening`; None: they have none.
    :ivar judge: of rows of a table with these columns, as `Drift.judge`.
    """

    config: PostgresCdcConfig
    publication: str
    selection: Selection
    where: Program | None
    tap: Tap
    clock: Clock
    rows: int
    size: int
    opening: str | None
    judge: Callable[[str, Look], Permanent | None]


class Worker:
    """One session, over which tables are read.

    :param news: called whenever something is held.
    """

    def __init__(self, setup: Setup, session: Session, news: Callable[[], None]) -> None:
        self._setup = setup
        self._session = session
        self._news = news

    async def read(self, table: Table) -> None:
        """The rest of a table, until all of it was given.

        :raises Transient: `snapshot.table_changed`; the connection was lost.
        :raises EnvironmentFault: `snapshot.key_changed`, or as `inspect` says, of a table of the initial snapshot.
        """
        while not table.is_done:
            try:
                layout, shape, look = await self._look_at(table)
                if layout.key:
                    await self._settle(table, layout)
                    await self._read_chunks(table, layout, shape, look)
                else:
                    await self._read_whole(table, layout, shape, look)
                await table.given()
            except ReadAgain:
                await self._setup.clock.sleep(_PAUSE)
            except Fatal as fault:
                await self._give_up(table, await self._reason(table, fault))

    async def _reason(self, table: Table, fault: Fatal) -> EnvironmentFault:
        """Why a table cannot be read, in the terms of what is wrong with it: it may have been dropped in mid-query."""
        if isinstance(fault, EnvironmentFault):
            return fault
        try:
            await self._session.run(end)
            await self._look_at(table)
        except EnvironmentFault as found:
            return found
        raise fault

    async def _give_up(self, table: Table, fault: EnvironmentFault) -> None:
        """A table that was asked for is refused, and everything else goes on; one of the initial snapshot ends the run.

        :raises EnvironmentFault: how to go on without the table.
        """
        progress = table.progress
        if progress.snapshot.startswith(INITIAL):
            raise EnvironmentFault(fault.code, fault.message, why=fault.why, help=f"{fault.help}; {_WAY_ON % table.partition}")
        table.abandon()
        left = progress.given_up()
        await self._hold(table, Held(left, fault=fault))
        await table.given()

    async def _look_at(self, table: Table) -> tuple[Layout, Shape, str]:
        """The table as it is now; in the exported snapshot as it was then, which nobody has changed since."""
        setup, progress = self._setup, table.progress
        name = TableName(progress.schema, progress.table)
        if table.exported:
            layout, look = await self._session.run(lambda c: inspect(c, setup.config, setup.publication, name)), ""
        else:
            layout, look = await self._session.run(lambda c: inspect_alone(c, setup.config, setup.publication, name))
        known = progress.collations or layout.key_collations
        if (layout.key_names, layout.key_types, layout.key_collations) != (progress.key, progress.types, known):
            raise _key_changed(progress, layout)
        types = TypeCatalog()
        if types.missing(oid for _, oid in layout.columns):
            types = TypeCatalog.of(await self._session.run(lambda c: c.execute(TYPES_QUERY).fetchall()))
        source = setup.selection.source(layout.schema, layout.name)
        config, mask = setup.config, setup.selection.masks.converter
        found = shape(layout, progress.snapshot, source, types, config.numeric, mask, config.include_before, setup.where)
        return layout, found, look

    async def _settle(self, table: Table, layout: Layout) -> None:
        """Listen to the stream, and wait for those who were writing when that began: see `_cdc.snapshot_touched`."""
        if table.exported or table.settled:
            return
        if table.listener is None:
            source = self._setup.selection.source(layout.schema, layout.name)
            types = dict(layout.columns)
            key = tuple((column.name, types[column.name]) for column in layout.key)
            table.listener = Listener(source, key, Touched())
            self._setup.tap.add(table.listener)
        waited = await self._session.run(lambda c: writers(c, layout))
        pause = _PAUSE / 4
        while waited:
            table.waits_for = len(waited)
            await self._setup.clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            waited &= await self._session.run(lambda c: writers(c, layout))
        table.waits_for, table.settled = 0, True

    async def _read_chunks(self, table: Table, layout: Layout, shape: Shape, look: str) -> None:
        setup = self._setup
        rows = layout.chunk_rows(setup.config.snapshot.batch_rows or setup.rows, setup.size)
        ahead = table.progress
        if table.repeat:
            await self._hold(table, Held(ahead))
        while not ahead.done:
            if ahead.bounds:
                ahead, held = await self._read_chunk(table, layout, shape, ahead, look)
            else:
                bounds, complete = await self._read_bounds(table, layout, ahead.after, rows, look)
                ahead = ahead.declared(bounds, complete)
                held = Held(ahead)
            await self._hold(table, held)

    async def _read_bounds(
        self, table: Table, layout: Layout, after: Key | None, rows: int, look: str
    ) -> tuple[tuple[Key, ...], bool]:
        if table.exported:
            return await self._session.run(lambda c: read_bounds(c, layout, after, rows, DECLARED))
        return await self._session.run(lambda c: read_bounds_alone(c, layout, after, rows, DECLARED, look))

    async def _read_chunk(self, table: Table, layout: Layout, shape: Shape, ahead: Progress, look: str) -> tuple[Progress, Held]:
        after, last, passed = ahead.after, ahead.bounds[0], ahead.passed()
        if table.exported:
            result = await self._session.run(lambda c: read_chunk(c, layout, after, last))
            return passed, Held(passed, result, shape)
        result, seen = await self._session.run(lambda c: read_chunk_alone(c, layout, after, last, look))
        return passed, Held(passed, result, shape, seen)

    async def _read_whole(self, table: Table, layout: Layout, shape: Shape, look: str) -> None:
        """A table without a key, in one go."""
        rows = layout.chunk_rows(self._setup.config.snapshot.batch_rows or self._setup.rows, self._setup.size)
        run, progress, seen = self._session.run, table.progress, None
        if not table.exported:
            seen = await run(lambda c: begin_alone(c, layout, look))
        await run(lambda c: open_whole(c, layout))
        while not progress.done:
            result = await run(lambda c: read_whole(c, rows))
            progress = msgspec.structs.replace(progress, done=result.ntuples < rows)
            await self._hold(table, Held(progress, result, shape, seen))
        await run(close_whole if table.exported else end)

    async def _hold(self, table: Table, held: Held) -> None:
        await table.hold(held)
        self._news()


def _key_changed(progress: Progress, layout: Layout) -> EnvironmentFault:
    def listed(names: tuple[str, ...], types: tuple[str, ...], collations: tuple[str, ...]) -> str:
        sortings = [f" COLLATE {collation}" if collation else "" for collation in collations] or [""] * len(names)
        columns = zip(names, types, sortings, strict=True)
        return ", ".join(f"{name} {kind}{sorting}" for name, kind, sorting in columns) or "none"

    return EnvironmentFault(
        "snapshot.key_changed",
        f"the key of {layout.title} was changed while its snapshot {progress.snapshot} was read",
        why=f"it was {listed(progress.key, progress.types, progress.collations)}, and is "
        f"{listed(layout.key_names, layout.key_types, layout.key_collations)}: "
        "what was read cannot be told from what was not",
        help="put the old key back, or the old `mask` of it; or `snapshot: { mode: never }` gives an initial snapshot up, "
        f"and `pipe signal PIPELINE snapshot {layout.title}` asks for another",
    )
