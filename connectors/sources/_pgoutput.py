"""pgoutput, decoded: bytes of one message in, one typed message out. No I/O, and no state but what tables look like.

Of logical replication protocol versions 1 to 4, without what has to be asked for and is not: binary values and two-phase commit.

    decoder = Decoder(types, wanted=lambda relation: None)
    message = decoder.decode(payload)                   # outside of streamed blocks
    message = decoder.decode(payload, streamed=True)    # what stood between StreamStart and StreamStop

What a streamed block holds is decoded when its transaction commits, and only then, the Relations and Types of aborted
subtransactions included: so tables change their looks in the order of commits. Until then `xid_of` tells whose a message is.
Between a RelationMessage and its first row the caller may give the decoder a newer `types`.

Source: PostgreSQL manual, "Logical Streaming Replication Protocol" and "Logical Replication Message Formats".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from struct import Struct
from typing import NamedTuple

from connectors._pg_types import NumericMode, TypeCatalog
from connectors._pg_values import Converter
from connectors.sources._pg_replication import ProtocolError, protocol_error
from connectors.sources._pgoutput_cursor import Cursor
from connectors.sources._pgoutput_messages import (
    UNCHANGED,
    Column,
    Delete,
    Insert,
    Message,
    Relation,
    RelationMessage,
    ReplicaIdentity,
    Row,
    Truncate,
    Update,
)
from connectors.sources._pgoutput_plain import PLAIN_READERS, Reader, header
from connectors.sources._pgoutput_rows import Plan, decode_row, end_of_row
from penstock.errors import Permanent

Wanted = Callable[[Relation], Collection[str] | None]
"""Names of the columns of a relation whose values are wanted; None: all. The others are skipped, and not even looked at."""

INSERT = b"I"

Inserted = tuple[Relation, Row, tuple[str, ...], Permanent | None]
"""Of an insert: its table, `new`, `unchanged` and `fault`."""

_u4 = Struct("!I").unpack_from
_NEW, _KEY, _OLD = b"NKO"
_CASCADE, _RESTART_IDENTITY = 1, 2
_WITH_XID = frozenset(b"MRYIUDT")
_TWO_PHASE = frozenset(b"bPKrp")


def xid_of(message: bytes) -> int | None:
    """The (sub)transaction of a message inside a streamed block; None for kinds that carry none.

    :raises ProtocolError: the message is too short.
    """
    if len(message) < 5:
        raise protocol_error(f"a message of a streamed transaction has {len(message)} bytes")
    return _u4(message, 1)[0] if message[0] in _WITH_XID else None


class Plans(NamedTuple):
    """How the rows of a relation are read: whole ones, and those that hold only the key."""

    relation: Relation
    whole: Plan
    key: Plan


class Decoder:
    """Decodes the messages of one replication stream, in their order. Not for several threads at once.

    :param types: the database's types.
    :param numeric: whether `numeric` becomes text or a number.
    :param wanted: asked once for each relation, and again when it or `types` changes.
    :param converter: what converts a column's values, by its name and the converter of its type. Asked as often as `wanted`.
    """

    def __init__(
        self,
        types: TypeCatalog,
        *,
        numeric: NumericMode = "string",
        wanted: Wanted = lambda relation: None,
        converter: Callable[[str, Converter], Converter] = lambda column, plain: plain,
    ) -> None:
        self._converter = converter
        self._types = types
        self._numeric: NumericMode = numeric
        self._wanted = wanted
        self._relations: dict[int, Relation] = {}
        self._plans: dict[int, Plans] = {}
        self._readers: dict[int, Reader] = {
            **PLAIN_READERS,
            ord("R"): self._relation,
            ord("I"): self._insert,
            ord("U"): self._update,
            ord("D"): self._delete,
            ord("T"): self._truncate,
        }

    @property
    def types(self) -> TypeCatalog:
        return self._types

    @types.setter
    def types(self, types: TypeCatalog) -> None:
        self._types = types
        self._plans.clear()

    @property
    def relations(self) -> Mapping[int, Relation]:
        """What tables look like, by OID. Goes with the connection: a new one describes every table again."""
        return self._relations

    def decode(self, message: bytes, streamed: bool = False) -> Message:
        """One message.

        :param message: `bytes`, and no memoryview: converters take slices of it.
        :param streamed: it stands between StreamStart and StreamStop, so that it carries the transaction's number.
        :raises ProtocolError: it is malformed, of an unknown kind, or about a table that was not described.
        """
        try:
            return self._readers[message[0]](message, streamed)
        except (IndexError, KeyError, ValueError, struct.error) as error:
            raise self._malformed(message, error) from error

    def insert(self, message: bytes, streamed: bool = False) -> Inserted:
        """What `decode` would give of an insert (`message[:1] == INSERT`), without the message around it: for the hot path.

        :raises ProtocolError: as `decode`.
        """
        try:
            at = 9 if streamed else 5
            (oid,) = _u4(message, at - 4)
            plans = self._plans.get(oid) or self._resolve(oid)
            if message[at] != _NEW:
                raise protocol_error(f"an insert holds a row of the unknown kind {message[at]}")
            row, end, unchanged, fault = decode_row(message, at + 1, plans[1])
        except (IndexError, KeyError, ValueError, struct.error) as error:
            raise self._malformed(message, error) from error
        if end != len(message):
            end_of_row(message, end)
        return plans[0], row, unchanged, fault

    def plans(self, oid: int) -> Plans:
        """How the rows of a table are read from now on.

        :raises ProtocolError: it was not described.
        """
        return self._plans.get(oid) or self._resolve(oid)

    def _insert(self, data: bytes, streamed: bool) -> Insert:
        relation, row, unchanged, fault = self.insert(data, streamed)
        return Insert(_u4(data, 1)[0] if streamed else 0, relation, row, unchanged, fault)

    def _update(self, data: bytes, streamed: bool) -> Update:
        xid, at = header(data, streamed)
        plans = self._plans_of(data, at)
        at += 4
        kind = data[at]
        old, fault = None, None
        if kind in (_KEY, _OLD):
            old, at, _, fault = decode_row(data, at + 1, plans.key if kind == _KEY else plans.whole)
        if data[at] != _NEW:
            raise protocol_error(f"an update holds a row of the unknown kind {data[at]}")
        new, at, unchanged, new_fault = decode_row(data, at + 1, plans.whole)
        end_of_row(data, at)
        if unchanged and old is not None:
            unchanged = _fill(new, old, unchanged)
        return Update(xid, plans.relation, old, kind == _KEY, new, unchanged, new_fault or fault)

    def _delete(self, data: bytes, streamed: bool) -> Delete:
        xid, at = header(data, streamed)
        plans = self._plans_of(data, at)
        kind = data[at + 4]
        if kind not in (_KEY, _OLD):
            raise protocol_error(f"a delete holds a row of the unknown kind {kind}")
        old, at, _, fault = decode_row(data, at + 5, plans.key if kind == _KEY else plans.whole)
        end_of_row(data, at)
        return Delete(xid, plans.relation, old, kind == _KEY, fault)

    def _truncate(self, data: bytes, streamed: bool) -> Truncate:
        cursor = Cursor(data, *header(data, streamed))
        count, flags = cursor.u4(), cursor.u1()
        relations = tuple(self._relation_of(cursor.u4()) for _ in range(min(count, len(data))))
        cursor.end()
        return Truncate(cursor.xid, relations, bool(flags & _CASCADE), bool(flags & _RESTART_IDENTITY))

    def _relation(self, data: bytes, streamed: bool) -> RelationMessage:
        cursor = Cursor(data, *header(data, streamed))
        oid, schema, name = cursor.u4(), cursor.text() or "pg_catalog", cursor.text()
        identity = ReplicaIdentity(chr(cursor.u1()))
        columns = tuple(_column(cursor) for _ in range(cursor.u2()))
        cursor.end()
        relation = Relation(oid, schema, name, identity, columns)
        previous = self._relations.get(oid)
        self._relations[oid] = relation
        self._plans.pop(oid, None)
        return RelationMessage(cursor.xid, relation, previous)

    def _plans_of(self, data: bytes, at: int) -> Plans:
        (oid,) = _u4(data, at)
        return self._plans.get(oid) or self._resolve(oid)

    def _resolve(self, oid: int) -> Plans:
        relation = self._relation_of(oid)
        wanted = self._wanted(relation)
        whole = [
            (
                column.name,
                self._converter(column.name, self._types.converter(column.type_oid, numeric=self._numeric))
                if wanted is None or column.name in wanted
                else None,
            )
            for column in relation.columns
        ]
        key = [(name, convert if column.key else None) for (name, convert), column in zip(whole, relation.columns, strict=True)]
        plans = self._plans[oid] = Plans(relation, whole, key)
        return plans

    def _relation_of(self, oid: int) -> Relation:
        relation = self._relations.get(oid)
        if relation is None:
            raise protocol_error(f"a change of a table that was not described, with the OID {oid}")
        return relation

    def _malformed(self, message: bytes, error: Exception) -> ProtocolError:
        if not message:
            return protocol_error("a message of the replication stream is empty")
        kind = message[0]
        if kind in _TWO_PHASE:
            return protocol_error("a message about a two-phase commit, which was not asked for")
        if kind not in self._readers:
            return protocol_error(f"a message of the replication stream is of the unknown kind {kind}")
        return protocol_error(f"a message of the kind {chr(kind)} cannot be read", why=f"{type(error).__name__}: {error}")


def _column(cursor: Cursor) -> Column:
    flags, name = cursor.u1(), cursor.text()
    return Column(name, cursor.u4(), cursor.i4(), bool(flags & 1))


def _fill(new: Row, old: Row, unchanged: tuple[str, ...]) -> tuple[str, ...]:
    """Put the old row's values where the new one has none; the columns that are left."""
    for name in unchanged:
        new[name] = old.get(name, UNCHANGED)
    return tuple(name for name in unchanged if new[name] is UNCHANGED)
