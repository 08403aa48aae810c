"""Columns that rows are read in the order of, and positions that sort as bytes in the same order. No I/O.

A position's `order` is a tagged field a column: 1 a number, 2 a time, both as 8 bytes with the sign bit turned; 3 a UUID; 4 text
or bytes, ended by two zero bytes and with each zero byte inside followed by 0xFF. Its `detail` is a JSON array of the values'
text, which is what goes back to the server.

Source: PostgreSQL manual, "Row and Array Comparison"; the binary forms of the types (`timestamptz_send` gives microseconds since
2000-01-01, with the ends of the range for infinity).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

import msgspec

from connectors._postgres import quoted
from penstock.errors import EnvironmentFault
from penstock.spi import Position

NUMBER, TIME, UUID_TAG, BYTES = 1, 2, 3, 4
_SIGN = 1 << 63
_FIRST, _LAST = -(1 << 63), (1 << 63) - 1
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class OrderType(NamedTuple):
    """How values of a type are compared, and how they are asked for.

    :ivar tag: of the field in a position.
    :ivar send: SQL of the bytes that `field` makes a field of.
    :ivar cast: the type that a parameter is cast to.
    :ivar collation: put behind the column, where it would else sort by the rules of a language.
    """

    tag: int
    send: str
    cast: str
    collation: str = ""


_WHOLE = "pg_catalog.int8send({}::pg_catalog.int8)"
_TEXT = OrderType(BYTES, "pg_catalog.textsend({}::pg_catalog.text)", "pg_catalog.text", ' COLLATE "C"')
_TYPES: Mapping[int, OrderType] = MappingProxyType(
    {
        17: OrderType(BYTES, "{}", "pg_catalog.bytea"),
        19: _TEXT._replace(cast="pg_catalog.name"),
        20: OrderType(NUMBER, _WHOLE, "pg_catalog.int8"),
        21: OrderType(NUMBER, _WHOLE, "pg_catalog.int2"),
        23: OrderType(NUMBER, _WHOLE, "pg_catalog.int4"),
        25: _TEXT,
        26: OrderType(NUMBER, _WHOLE, "pg_catalog.oid"),
        1043: _TEXT,
        1114: OrderType(TIME, "pg_catalog.timestamp_send({})", "pg_catalog.timestamp"),
        1184: OrderType(TIME, "pg_catalog.timestamptz_send({})", "pg_catalog.timestamptz"),
        2950: OrderType(UUID_TAG, "pg_catalog.uuid_send({})", "pg_catalog.uuid"),
    }
)
"""By OID. Of other types no bytes sort as PostgreSQL sorts them, or not yet."""


class OrderColumn(NamedTuple):
    """A column of the order."""

    name: str
    type: OrderType

    @property
    def sql(self) -> str:
        """The column, to be compared and sorted by."""
        return f"q.{quoted(self.name)}{self.type.collation}"

    @property
    def send(self) -> str:
        """The column's bytes."""
        return self.type.send.format(f"q.{quoted(self.name)}")


def order_column(name: str, oid: int, type_name: str) -> OrderColumn:
    """:raises EnvironmentFault: `source.unordered_type`."""
    found = _TYPES.get(oid)
    if found is None:
        raise EnvironmentFault(
            "source.unordered_type",
            f"rows cannot be read in the order of {name}: its type is {type_name}",
            why="a position has to sort as its rows do: integers, oid, text, varchar, name, bytea, uuid, timestamp, timestamptz",
            help="choose another column, or cast it in `query`",
        )
    return OrderColumn(name, found)


def field(tag: int, data: bytes) -> bytes:
    """One field of a position, of the bytes that `OrderType.send` gave."""
    if tag == BYTES:
        return b"\x04" + data.replace(b"\0", b"\0\xff") + b"\0\0"
    if tag == UUID_TAG:
        return b"\x03" + data
    return bytes((tag, data[0] ^ 0x80)) + data[1:]


def position(order: bytes, values: Sequence[str]) -> Position:
    """Of a row whose fields are joined in `order`, and whose values print like this."""
    return Position(order, msgspec.json.encode(list(values)))


def values_of(stored: Position, columns: Sequence[OrderColumn]) -> tuple[str, ...]:
    """The values that a stored position holds.

    :raises EnvironmentFault: `source.unknown_checkpoint`.
    """
    try:
        values = msgspec.json.decode(stored.detail, type=tuple[str, ...])
    except msgspec.MsgspecError as error:
        raise _unknown() from error
    if len(values) != len(columns):
        raise _unknown()
    return values


def _unknown() -> EnvironmentFault:
    return EnvironmentFault(
        "source.unknown_checkpoint",
        "the checkpoint is not one of these columns",
        help="start over: pipe checkpoint reset PIPELINE",
    )


def order_text(order: bytes) -> str:
    """The values of a position in words.

    :raises ValueError: these bytes are no position.
    """
    words = []
    at = 0
    while at < len(order):
        text, at = _word(order, at)
        words.append(text)
    if not words:
        raise ValueError("an empty position")
    return ", ".join(words)


def _word(order: bytes, at: int) -> tuple[str, int]:
    tag, at = order[at], at + 1
    if tag == BYTES:
        end = at
        while order[end : end + 2] != b"\0\0":
            if end >= len(order):
                raise ValueError("a position that is cut off")
            end += 2 if order[end] == 0 else 1
        return order[at:end].replace(b"\0\xff", b"\0").decode(errors="backslashreplace"), end + 2
    size = 16 if tag == UUID_TAG else 8
    data = order[at : at + size]
    if tag not in (NUMBER, TIME, UUID_TAG) or len(data) < size:
        raise ValueError("no position of rows")
    if tag == UUID_TAG:
        return str(UUID(bytes=data)), at + size
    number = int.from_bytes(data, "big") - _SIGN
    return (str(number) if tag == NUMBER else _time(number)), at + size


def _time(microseconds: int) -> str:
    if microseconds in (_FIRST, _LAST):
        return "infinity" if microseconds > 0 else "-infinity"
    try:
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return f"{microseconds} microseconds from 2000-01-01"
