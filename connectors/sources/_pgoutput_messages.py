"""What pgoutput says, as typed messages: transactions, relations, changes of rows. Made by `_pgoutput.Decoder`.

LSNs are integers; times are microseconds since 2000-01-01 UTC (`_pg_replication.time_text`). `xid` is the (sub)transaction of a
message inside a streamed block, else 0.

Source: PostgreSQL manual, "Logical Replication Message Formats".
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

import msgspec

from penstock.errors import Permanent

Row = dict[str, Any]
"""Column → value, in the relation's order, wanted columns only. A TOAST value that was not sent is `UNCHANGED`."""


class Unchanged:
    """The type of `UNCHANGED`. No encoder takes it, so that it cannot slip into an event's data."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNCHANGED"

    def __reduce__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()
"""Stands for a TOAST value that an update left as it was: the server does not send it."""


class ReplicaIdentity(Enum):
    """Which columns of the old row an update or a delete carries."""

    DEFAULT = "d"
    """Those of the primary key."""
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


class Column(msgspec.Struct, frozen=True, gc=False):
    """A published column of a table."""

    name: str
    type_oid: int
    typmod: int
    """-1: none."""
    key: bool
    """Part of the replica identity: every column is, with REPLICA IDENTITY FULL."""


class Relation(msgspec.Struct, frozen=True):
    """A table as the rows that follow have it; valid until the next one with its OID."""

    oid: int
    schema: str
    name: str
    identity: ReplicaIdentity
    columns: tuple[Column, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """Names of the columns of the replica identity."""
        return tuple(column.name for column in self.columns if column.key)

    @property
    def type_oids(self) -> Iterator[int]:
        """For `TypeCatalog.missing`."""
        return (column.type_oid for column in self.columns)


class Drift(msgspec.Struct, frozen=True):
    """How a table differs from what it was. A renamed column is one dropped and one added: names are all the stream has."""

    added: tuple[Column, ...] = ()
    dropped: tuple[Column, ...] = ()
    retyped: tuple[tuple[Column, Column], ...] = ()
    """Before and after, where type or modifier differ."""
    rekeyed: bool = False
    """The replica identity, or the columns that are part of it, differ."""
    renamed: bool = False
    """The table has another name or schema."""
    reordered: bool = False
    """Columns that stayed have another order."""


def drift(before: Relation, after: Relation) -> Drift | None:
    """None where nothing differs: the server describes a table again whenever its cache was reset."""
    old, new = ({column.name: column for column in relation.columns} for relation in (before, after))
    stayed = [name for name in old if name in new]
    found = Drift(
        added=tuple(column for name, column in new.items() if name not in old),
        dropped=tuple(column for name, column in old.items() if name not in new),
        retyped=tuple((old[name], new[name]) for name in stayed if _type(old[name]) != _type(new[name])),
        rekeyed=before.identity != after.identity or any(old[name].key != new[name].key for name in stayed),
        renamed=(before.schema, before.name) != (after.schema, after.name),
        reordered=stayed != [name for name in new if name in old],
    )
    return None if found == Drift() else found


def _type(column: Column) -> tuple[int, int]:
    return column.type_oid, column.typmod


class Begin(msgspec.Struct, frozen=True, gc=False):
    commit_lsn: int
    """LSN of the commit record, which is `Commit.commit_lsn` at the end."""
    time: int
    """When it was committed."""
    xid: int


class Commit(msgspec.Struct, frozen=True, gc=False):
    commit_lsn: int
    end_lsn: int
    """What may be confirmed, once the transaction is durable downstream."""
    time: int


class Origin(msgspec.Struct, frozen=True, gc=False):
    """The transaction came by replication from another server."""

    commit_lsn: int
    """On that server."""
    name: str


class LogicalMessage(msgspec.Struct, frozen=True, gc=False):
    """What `pg_logical_emit_message` wrote."""

    xid: int
    transactional: bool
    """If not, it stands outside every transaction."""
    lsn: int
    prefix: str
    content: bytes


class RelationMessage(msgspec.Struct, frozen=True):
    """Describes a table before its first row, and again after each change of it."""

    xid: int
    relation: Relation
    previous: Relation | None
    """What this decoder knew of the table before."""


class TypeMessage(msgspec.Struct, frozen=True, gc=False):
    """Names a type that is not built in, before the Relation that uses it."""

    xid: int
    oid: int
    schema: str
    name: str


class Insert(msgspec.Struct):
    xid: int
    relation: Relation
    new: Row
    unchanged: tuple[str, ...] = ()
    """Columns of `new` that are UNCHANGED."""
    fault: Permanent | None = None
    """Why a value cannot be had as JSON: the first of the row. Such values stand as PostgreSQL's text instead."""


class Update(msgspec.Struct):
    """`new` has no UNCHANGED value that `old` holds: it is filled in."""

    xid: int
    relation: Relation
    old: Row | None
    """The whole row with REPLICA IDENTITY FULL; the columns of the key alone, where the key changed; else None."""
    old_is_key: bool
    new: Row
    unchanged: tuple[str, ...] = ()
    fault: Permanent | None = None


class Delete(msgspec.Struct):
    xid: int
    relation: Relation
    old: Row
    """The whole row with REPLICA IDENTITY FULL, else the columns of the key alone."""
    old_is_key: bool
    fault: Permanent | None = None


class Truncate(msgspec.Struct, frozen=True):
    xid: int
    relations: tuple[Relation, ...]
    cascade: bool
    restart_identity: bool


class StreamStart(msgspec.Struct, frozen=True, gc=False):
    """A block of a transaction in progress begins."""

    xid: int
    """The top transaction's."""
    first: bool
    """The first block of this transaction."""


class StreamStop(msgspec.Struct, frozen=True, gc=False):
    """The block ends. The transaction does not."""


class StreamCommit(msgspec.Struct, frozen=True, gc=False):
    xid: int
    commit_lsn: int
    end_lsn: int
    time: int


class StreamAbort(msgspec.Struct, frozen=True, gc=False):
    """A streamed transaction, or one of its subtransactions, is rolled back."""

    xid: int
    subxid: int
    """The same as `xid`, where the whole transaction is."""
    abort_lsn: int | None
    """With `streaming 'parallel'` only, as is `time`."""
    time: int | None


Streamed = StreamStart | StreamAbort | StreamCommit
"""What becomes of transactions in progress, told between blocks."""

Message = (
    Begin
    | Commit
    | Origin
    | LogicalMessage
    | RelationMessage
    | TypeMessage
    | Insert
    | Update
    | Delete
    | Truncate
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
)
