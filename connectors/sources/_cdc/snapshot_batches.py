"""What is given of a table of a snapshot: its plan, declarations of chunks, rows, or why it is read no further."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from connectors.sources._cdc.sequence import sequenced_rows
from connectors.sources._cdc.snapshot_held import Held, Table, Token
from connectors.sources._cdc.snapshot_positions import END_OF_CHUNK
from connectors.sources._cdc.snapshot_rows import Taken, events_of, keys_of
from connectors.sources._cdc.snapshot_worker import Setup
from penstock.errors import EnvironmentFault, Permanent
from penstock.event import Event
from penstock.spi import Batch


class Batches:
    """Makes batches of one run, in the order in which they are given.

    :param setup: what stands only once the source is put together.
    """

    def __init__(self, setup: Callable[[], Setup]) -> None:
        self._setup = setup

    def plan(self, table: Table) -> Batch:
        """The table belongs to its snapshot; `Table.planned` acknowledges it."""
        table.planned = Token()
        return Batch(table.partition, [], table.position(0, table.progress), table.planned)

    def next(self, table: Table, held: Held, epoch: int, exported: Taken | None) -> Batch:
        """What was held, which moves the table on.

        :param exported: the moment of rows that have none of their own.
        """
        if held.fault is not None:
            batch = self._refusal(table, held, held.fault)
        elif held.result is None:
            table.declared, table.repeat = Token(), False
            batch = Batch(table.partition, [], table.position(END_OF_CHUNK + epoch, held.progress), table.declared)
        else:
            batch = self._rows(table, held, exported)
        table.progress = held.progress
        return batch

    def _refusal(self, table: Table, held: Held, fault: EnvironmentFault) -> Batch:
        """A table that was asked for and cannot be read any more: a dead letter in the place of its rows (Invariant 13)."""
        table.chunk += 1
        progress = held.progress
        told = {"snapshot": progress.snapshot, "table": progress.title}
        source = self._setup().selection.source(progress.schema, progress.table)
        event = Event(progress.snapshot, source, f"{progress.table}.signal", decoded=told)
        event.position = table.row_order(1, event)
        error = Permanent(fault.code, fault.message, why=fault.why, help=fault.help)
        return Batch(table.partition, [event], table.position(END_OF_CHUNK, progress), None, rejects={0: error})

    def _rows(self, table: Table, held: Held, exported: Taken | None) -> Batch:
        result, shape, seen = held.result, held.shape, held.seen
        taken = exported if seen is None else Taken(seen.end, seen.time)
        if result is None or shape is None or taken is None:
            raise AssertionError("rows have a shape, and a moment: their own, or that of the exported snapshot")
        table.chunk += 1
        keys = keys_of(result, shape) if shape.key else []
        older: set[int] = set()
        if seen is not None and table.listener is not None:
            older = table.listener.touched.older(seen, keys)
        setup = self._setup()
        refused = setup.judge(table.progress.title, shape.look)
        taken = replace(taken, extensions=sequenced_rows(setup.opening, taken.lsn))
        at = table.generation, table.chunk
        events, rejects, size = events_of(result, shape, at, taken, keys, older, refused)
        return Batch(table.partition, events, table.position(END_OF_CHUNK, held.progress), None, size, rejects)
