"""Positions of snapshots: how far each table of each snapshot was read, as bytes that sort, and what is kept beside them.

A table of a snapshot is a partition. Its rows are read in chunks by key; the bounds of chunks are *declared*, in a batch without
rows, and acknowledged, before the first row of these chunks is given. So chunk n holds the same range of keys whenever it is
read, and ledgers that stand at different chunks each take what lies behind their own position.

A position is a chunk and a place in it: rows are at 1, 2, …; the end of the chunk is at `END_OF_CHUNK`, and a declaration behind
it at that plus the run's epoch. A run whose beginning is a declaration repeats it under its own epoch: whether the older one
reached every ledger is not known, and one of another content must not stand at the same position. (0, 0) is the plan: the table
belongs to the snapshot, and nothing was declared yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct, error

import msgspec

from connectors._postgres import TableName, sql_name
from penstock.errors import EnvironmentFault
from penstock.spi import Position

VERSION = 1
PREFIX = "snapshot:"
END_OF_CHUNK = 1 << 63
INITIAL = "initial-"
"""What ids of initial snapshots begin with; the LSN that the stream goes on from follows."""

_ORDER = Struct("!QQ")
_FIRST_LSN = 1 << 24  # the WAL begins with its second segment

order = _ORDER.pack
"""(chunk, place) as bytes."""

Key = tuple[str, ...]
"""The values of a key's columns, as PostgreSQL prints them."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a table was read, and what was declared: the detail of a position.

    :ivar snapshot: the snapshot's id.
    :ivar key, types: the columns of the key and their types; none where the table is read in one go. None of them is masked, for
        `after` and `bounds` hold values of them (Invariant 9).
    :ivar collations: by which the key was sorted; none where nothing of it has one, and in positions of older versions.
    :ivar attempt: a table that is read in one go begins anew after a crash, in another partition.
    :ivar after: the key behind which the next chunk begins; None: at the table's beginning.
    :ivar bounds: the last keys of the chunks that were declared and not yet given.
    :ivar complete: nothing lies behind the last of these bounds.
    :ivar refused: why a signal of this id was refused.
    """

    version: int
    snapshot: str
    schema: str
    table: str
    key: Key = ()
    types: tuple[str, ...] = ()
    attempt: int = 1
    after: Key | None = None
    bounds: tuple[Key, ...] = ()
    complete: bool = False
    done: bool = False
    refused: str | None = None
    collations: tuple[str, ...] = ()

    @property
    def partition(self) -> str:
        return partition_of(self.snapshot, self.schema, self.table, self.attempt)

    @property
    def title(self) -> str:
        return sql_name(self.schema, self.table)

    @property
    def name(self) -> TableName:
        return TableName(self.schema, self.table)

    def declared(self, bounds: tuple[Key, ...], complete: bool) -> Progress:
        """These chunks come next."""
        return msgspec.structs.replace(self, bounds=bounds, complete=complete)._settled()

    def passed(self) -> Progress:
        """The first of the declared chunks was given."""
        rest = self.bounds[1:]
        return msgspec.structs.replace(self, after=self.bounds[0], bounds=rest)._settled()

    def _settled(self) -> Progress:
        """Nothing that is not needed any more is kept."""
        done = self.complete and not self.bounds
        return msgspec.structs.replace(self, done=True, after=None, key=(), types=(), collations=()) if done else self


class Reached(msgspec.Struct, frozen=True):
    """Where a table stands: `place` is that of the position."""

    progress: Progress
    chunk: int = 0
    place: int = 0

    @property
    def was_declared(self) -> bool:
        """Whether nothing was given since the last declaration."""
        return self.place > END_OF_CHUNK


_decode = msgspec.json.Decoder(Progress).decode
_encode = msgspec.json.Encoder().encode


def partition_of(snapshot: str, schema: str, table: str, attempt: int = 1) -> str:
    """The partition of a table of a snapshot."""
    return f"{PREFIX}{snapshot}:{sql_name(schema, table)}" + (f"#{attempt}" if attempt > 1 else "")


def position(chunk: int, place: int, progress: Progress) -> Position:
    return Position(order(chunk, place), _encode(progress))


def reached(positions: Mapping[str, Position]) -> list[Reached]:
    """Where each table of each snapshot stands, of a table that was begun several times its last beginning.

    :raises EnvironmentFault: `source.unknown_checkpoint`.
    """
    found: dict[str, Reached] = {}
    for partition, position in positions.items():
        if partition.startswith(PREFIX) and position.order:  # an empty one was reset
            table = _reached(partition, position)
            name = partition_of(table.progress.snapshot, table.progress.schema, table.progress.table)
            if name not in found or table.progress.attempt > found[name].progress.attempt:
                found[name] = table
    return list(found.values())


def order_text(at: bytes) -> str | None:
    """A position of a snapshot in words; None where these bytes are one of the change stream."""
    try:
        chunk, place = _ORDER.unpack(at)
    except error:
        return None
    if chunk >= _FIRST_LSN:
        return None
    if not chunk and not place:
        return "snapshot, planned"
    if place > END_OF_CHUNK:
        return f"snapshot, declared behind chunk {chunk:,}"
    return f"snapshot, chunk {chunk:,}, " + ("its end" if place == END_OF_CHUNK else f"row {place:,}")


def _reached(partition: str, position: Position) -> Reached:
    try:
        chunk, place = _ORDER.unpack(position.order)
        progress = _decode(position.detail)
    except (error, msgspec.MsgspecError) as cause:
        raise _unknown(partition, "it cannot be read", str(cause)) from cause
    if progress.version != VERSION:  # Invariant 11
        raise _unknown(partition, f"it has version {progress.version}, and this program knows {VERSION}", None)
    return Reached(progress, chunk, place)


def _unknown(partition: str, what: str, why: str | None) -> EnvironmentFault:
    return EnvironmentFault(
        "source.unknown_checkpoint",
        f"the checkpoint of a snapshot is unknown: {what}",
        where=f"partition {partition}",
        why=why,
        help="run it with the version of Penstock that wrote it",
    )
