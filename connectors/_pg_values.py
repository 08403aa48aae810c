"""PostgreSQL's text of a value to the value as JSON has it: one function a type, bytes in.

What these functions take is what the types' output functions print under `SESSION_SETTINGS` (`connectors._pg_types`). Each
raises ValueError for text that its type never prints, and `Permanent` for a value that JSON cannot hold (Invariant 13).

Source: PostgreSQL manual, "Data Types" (8.1 numeric, 8.4 bytea, 8.5 dates, 8.15.6 arrays) and "hstore".
"""

from __future__ import annotations

import re
from binascii import a2b_hex, b2a_base64
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from penstock.errors import Permanent

Converter = Callable[[bytes], Any]
"""Makes a JSON value of PostgreSQL's text of a value. NULL never gets here."""

text: Converter = bytes.decode
"""The text as it is. Fails with UnicodeDecodeError, which a database in SQL_ASCII can bring about."""

_QUOTED = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_HSTORE_PAIR = re.compile(_QUOTED + rb"=>(?:" + _QUOTED + rb"|NULL)(?:, |\Z)", re.DOTALL).match
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_SPECIAL = frozenset((b"NaN", b"Infinity", b"-Infinity"))
_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?").fullmatch
_EXACT_AS_FLOAT = 16
"""Bytes of a number with a point of which a double keeps every digit: 15 digits and the point."""
_LONGEST_INTEGER = 4300
"""Digits that Python converts between text and int; beyond these neither the encoder nor a reader would take the number."""
_MOST_DIMENSIONS = 6


def boolean(data: bytes) -> bool:
    if data == b"t":
        return True
    if data == b"f":
        return False
    raise ValueError("neither t nor f")


def floating(data: bytes) -> float | str:
    """A number, or `NaN`, `Infinity`, `-Infinity` as text: JSON has no numbers for these."""
    return data.decode() if data in _SPECIAL else float(data)


def exact_number(data: bytes) -> int | float | str:
    """A `numeric` as the JSON number of the same value; `NaN` and the infinities as text.

    An integer where no fraction is printed; else a double, if its shortest text is the same number (zeros at the end of the
    fraction aside); else an integer, if the fraction is nought.

    :raises Permanent: `decode.number_inexact`, where only a rounded number could be given; `decode.number_out_of_range`.
    """
    if data in _SPECIAL:
        return data.decode()
    found = _NUMBER(data)
    if found is None:
        raise ValueError("not a number")
    if len(data) > _LONGEST_INTEGER:
        raise Permanent("decode.number_out_of_range", "a number is too long to be kept", why=f"it has {len(data)} digits")
    if found[1] is None:
        return int(data)
    number = float(data)
    return number if len(data) <= _EXACT_AS_FLOAT else _exactly(data, number)


def _exactly(data: bytes, number: float) -> int | float:
    value = Decimal(data.decode())
    if Decimal(repr(number)) == value:
        return number
    if value == value.to_integral_value():
        return int(value)
    raise Permanent(
        "decode.number_inexact",
        "a numeric has more digits than a JSON number with a fraction can keep",
        why="readers of JSON hold such numbers as doubles, of 15 to 17 digits",
        help="`numeric: string` keeps every digit",
    )


def timestamp(data: bytes) -> str:
    """ISO 8601 without a zone; infinity, years before 1 and beyond 9999 as PostgreSQL prints them."""
    value = data.decode()
    if value[10:11] != " " or value[-1] == "C":
        return value
    return value[:10] + "T" + value[11:]


def timestamp_utc(data: bytes) -> str:
    """RFC 3339 with `Z`; infinity, years before 1 and beyond 9999 as PostgreSQL prints them."""
    if data[-3:] != b"+00" or data[10:11] != b" ":
        return data.decode()
    return data[:-3].replace(b" ", b"T").decode() + "Z"


def binary(data: bytes) -> str:
    """A `bytea` in hexadecimal, as Base64."""
    if data[:2] != b"\\x":
        raise ValueError("a bytea that is not in hexadecimal")
    return b2a_base64(a2b_hex(data[2:]), newline=False).decode()


def hstore(data: bytes) -> dict[str, str | None]:
    """An object of strings and nulls."""
    pairs: dict[str, str | None] = {}
    at = 0
    while at < len(data):
        found = _HSTORE_PAIR(data, at)
        if found is None:
            raise ValueError("not an hstore")
        key, value = found.groups()
        pairs[_unescape(key).decode()] = None if value is None else _unescape(value).decode()
        at = found.end()
    return pairs


def array(convert: Converter, delimiter: bytes = b",") -> Converter:
    """The converter of arrays whose elements `convert` takes.

    :param delimiter: what stands between elements: `;` for boxes.
    :returns: a converter to (nested) lists. An array with lower bounds other than 1 stays text, which alone can say so.
    """
    element = re.compile(_QUOTED + rb'|([^{}"\\' + re.escape(delimiter) + rb"]+)", re.DOTALL).match

    def read(data: bytes) -> Any:
        if data[:1] == b"[":
            return data.decode()
        if data[:1] != b"{":
            raise ValueError("not an array")
        items, end = read_items(data, 1, _MOST_DIMENSIONS)
        if end != len(data):
            raise ValueError("text behind an array")
        return items

    def read_items(data: bytes, at: int, dimensions: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        if not dimensions:
            raise ValueError("an array of too many dimensions")
        if data[at : at + 1] == b"}":
            return items, at + 1
        while True:
            if data[at : at + 1] == b"{":
                item, at = read_items(data, at + 1, dimensions - 1)
            else:
                item, at = read_element(data, at)
            items.append(item)
            mark = data[at : at + 1]
            at += 1
            if mark == b"}":
                return items, at
            if mark != delimiter:
                raise ValueError("neither a delimiter nor the end of an array")

    def read_element(data: bytes, at: int) -> tuple[Any, int]:
        found = element(data, at)
        if found is None:
            raise ValueError("not an element of an array")
        quoted, plain = found.groups()
        if quoted is not None:
            return convert(_unescape(quoted)), found.end()
        return (None if plain == b"NULL" else convert(plain)), found.end()

    return read


def _unescape(quoted: bytes) -> bytes:
    return _ESCAPE.sub(rb"\1", quoted) if b"\\" in quoted else quoted
