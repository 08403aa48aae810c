"""Positions of snapshots: how far each table of each snapshot was read, as bytes that sort, and what is kept beside them.

A table that is read is a partition, which later snapshots of the table use again once all of it was given: so a checkpoint grows
with the tables, and not with the snapshots of them. Where one is asked for before the last is done, the table has another one.

A position is a generation, a chunk and a place in it. Each use of a partition is a generation, greater than any that a ledger may
have of it: it holds the run's epoch, for the next run does not know whether all that this one planned has reached every ledger.

Rows are read in chunks by key; the bounds of chunks are *declared*, in a batch without rows, and acknowledged, before the first
row of these chunks is given. So chunk n holds the same range of keys whenever it is read, and ledgers that stand at different
chunks each take what lies behind their own position.

Rows of a chunk are at 1, 2, …, each with a digest of its event's id behind that: a chunk that is read again holds the rows as
they are then, so that another one may be in a row's place. The chunk's end is at `END_OF_CHUNK`, and a declaration behind it at
that plus the run's epoch. A run that begins at a declaration repeats it under its own epoch: whether the older one reached every
ledger is not known, and one of another content must not stand at the same position. Chunk 0, place 0 is the plan: the table
belongs to the snapshot, and nothing was declared yet. A run that begins there plans the table again, as another generation, for
the same reason; and a table that is read in one go begins anew after every crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from struct import Struct, error

import msgspec

from connectors._postgres import TableName, sql_name
from penstock.errors import EnvironmentFault
from penstock.spi import Position

VERSION = 1
PREFIX = "snapshot:"
END_OF_CHUNK = 1 << 63
_PER_RUN = 32
"""Bits of the generations that a run may begin."""
INITIAL = "initial-"
"""What ids of initial snapshots begin with; the LSN that the stream goes on from follows."""

_ORDER = Struct("!QQQ")

order = _ORDER.pack
"""(generation, chunk, place) as bytes."""

Key = tuple[str, ...]
"""The values of a key's columns, as PostgreSQL prints them."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a table was read, and what was declared: the detail of a position.

    :ivar snapshot: the snapshot's id.
    :ivar key, types: the columns of the key and their types; none where the table is read in one go. None of them is masked, for
        `after` and `bounds` hold values of them (Invariant 9).
    :ivar collations: by which the key was sorted; none where nothing of it has one, and in positions of older versions.
    :ivar after: the key behind which the next chunk begins; None: at the table's beginning.
    :ivar bounds: the last keys of the chunks that were declared and not yet given.
    :ivar complete: nothing lies behind the last of these bounds.
    """

    version: int
    snapshot: str
    schema: str
    table: str
    key: Key = ()
    types: tuple[str, ...] = ()
    after: Key | None = None
    bounds: tuple[Key, ...] = ()
    complete: bool = False
    done: bool = False
    collations: tuple[str, ...] = ()

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

    def given_up(self) -> Progress:
        """Nothing more of it is read."""
        return msgspec.structs.replace(self, bounds=(), complete=True)._settled()

    def _settled(self) -> Progress:
        """Nothing that is not needed any more is kept."""
        done = self.complete and not self.bounds
        return msgspec.structs.replace(self, done=True, after=None, key=(), types=(), collations=()) if done else self


class Reached(msgspec.Struct, frozen=True):
    """Where a partition stands: `place` is that of the position."""

    partition: str
    progress: Progress
    generation: int
    chunk: int = 0
    place: int = 0

    @property
    def was_declared(self) -> bool:
        """Whether nothing was given since the last declaration."""
        return self.place > END_OF_CHUNK


_decode = msgspec.json.Decoder(Progress).decode
_encode = msgspec.json.Encoder().encode


def partition_of(schema: str, table: str, number: int = 1) -> str:
    """A partition of a table: one after the other, as far as the ones before are in use."""
    return f"{PREFIX}{sql_name(schema, table)}" + (f"#{number}" if number > 1 else "")


def next_generation(before: int, epoch: int) -> int:
    """Of a partition that is used again.

    :param before: its last one, as far as this run knows; 0 where there was none.
    """
    return max(before + 1, epoch << _PER_RUN)


def position(generation: int, chunk: int, place: int, progress: Progress) -> Position:
    return Position(order(generation, chunk, place), _encode(progress))


def row_order(generation: int, chunk: int, place: int, identity: str) -> bytes:
    """The position of the event with this id, at a row's place. No other event ever has it, so that it may stand for the id
    (rule 5)."""
    return order(generation, chunk, place) + blake2b(identity.encode(), digest_size=8).digest()


def reached(positions: Mapping[str, Position]) -> list[Reached]:
    """Where each partition of a table stands.

    :raises EnvironmentFault: `source.unknown_checkpoint`.
    """
    return [
        _reached(partition, position)
        for partition, position in positions.items()
        if partition.startswith(PREFIX) and position.order  # an empty one was reset
    ]


def generation_of(at: bytes) -> int:
    """Of a position's order."""
    generation: int = _ORDER.unpack(at)[0]
    return generation


def order_text(at: bytes) -> str | None:
    """A position of a snapshot in words; None where these bytes are one of the change stream."""
    try:
        _, chunk, place = _ORDER.unpack(at[: _ORDER.size])
    except error:
        return None
    if not chunk and place <= 1:
        return "snapshots asked for" if place else "snapshot, planned"
    if place > END_OF_CHUNK:
        return f"snapshot, declared behind chunk {chunk:,}"
    return f"snapshot, chunk {chunk:,}, " + ("its end" if place == END_OF_CHUNK else f"row {place:,}")


def _reached(partition: str, position: Position) -> Reached:
    try:
        generation, chunk, place = _ORDER.unpack(position.order)
        progress = _decode(position.detail)
    except (error, msgspec.MsgspecError) as cause:
        raise unknown(partition, "it cannot be read", str(cause)) from cause
    if progress.version != VERSION:  # Invariant 11
        raise unknown(partition, f"it has version {progress.version}, and this program knows {VERSION}", None)
    return Reached(partition, progress, generation, chunk, place)


def unknown(partition: str, what: str, why: str | None) -> EnvironmentFault:
    """Of a position that this program cannot go on from."""
    return EnvironmentFault(
        "source.unknown_checkpoint",
        f"the checkpoint of a snapshot is unknown: {what}",
        where=f"partition {partition}",
        why=why,
        help="run it with the version of Penstock that wrote it",
    )
