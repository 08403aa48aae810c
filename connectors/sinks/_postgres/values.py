"""A JSON value to PostgreSQL's text of it, for each type: the inverse of `connectors._pg_values`.

A value is stored exactly or refused (Invariant 13). PostgreSQL itself would round a `numeric(p, s)`, a float or a time that has
more digits than its column, drop the offset of a time put into a `timestamp`, the time of day put into a `date`, and what is too
long for a `name` or `"char"`: such values are refused here. All other checks are the server's, which names the column.

Source: PostgreSQL manual, "Data Types" (8.1 numeric, 8.3 character, 8.4 bytea, 8.5 dates) and "hstore".
"""

from __future__ import annotations

import re
import struct
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from penstock.errors import Permanent
from penstock.event import encode

Convert = Callable[[Any], str]

Converters = Mapping[type, Convert | None]
"""By the value's class: what makes its text; None where a string goes in as it is. A class that is missing does not fit."""


class Unfit(Exception):
    """The value cannot be stored in a column of this type as it is."""

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help


_CENTS = re.compile(r"\.\d\d\d", re.ASCII)
_DECIMAL = re.compile(r"\s*[+-]?\d*\.?(?P<fraction>\d*)\s*", re.ASCII)
_OCTAL = re.compile(r"\\[0-3][0-7]{2}", re.ASCII)
_SPECIAL = re.compile(r"\s*[+-]?(nan|inf|infinity)\s*", re.IGNORECASE | re.ASCII)
_INTEGER = re.compile(r"[ \t\n\v\f\r]*[+-]?\d+[ \t\n\v\f\r]*", re.ASCII)
_UNSIGNED = re.compile(r"0|[1-9]\d{0,19}", re.ASCII)
BLANKS = " \t\n\v\f\r"
_TRUE = frozenset(("t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"))
_FALSE = frozenset(("f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"))
_BASED = re.compile(r"[ \t\n\v\f\r]*[+-]?0[xXoObB]", re.ASCII)
_NAME_BYTES = 63


# ---- numbers


def integer(value: int) -> str:
    try:
        return str(value)
    except ValueError as error:
        raise Unfit(f"an integer of {value.bit_length()} bits is too long to be written in digits") from error


def whole(value: float) -> str:
    if not value.is_integer():
        raise Unfit(f"{value!r} is no integer", "round it before, or make the column numeric")
    return integer(int(value))


def integer_text(value: str) -> str:
    """The one text of an integer, for texts of keys are compared."""
    if value.isdigit() and value.isascii() and value[0] != "0":
        return value
    try:
        if _INTEGER.fullmatch(value):
            return str(int(value))
        return str(int(value.strip(BLANKS), 0)) if value.isascii() else value
    except ValueError:
        return value  # the server says what is wrong with it


def unsigned(bits: int) -> tuple[Convert, Convert, Convert]:
    """For text, integers and floats: the server would take a sign or too large a number for another number, and reads digits
    behind a zero as octal in some versions."""

    def number(value: int) -> str:
        if not 0 <= value < 1 << bits:
            raise Unfit(f"{integer(value)[:60]} is no number from 0 to {(1 << bits) - 1}")
        return str(value)

    def text(value: str) -> str:
        if _UNSIGNED.fullmatch(value) is None:
            raise Unfit(f"{value[:60]!r} is no number from 0 to {(1 << bits) - 1}")
        return number(int(value))

    return text, number, lambda value: number(int(whole(value)))


def boolean_text(value: str) -> str:
    """As `t` or `f`, for texts of keys are compared."""
    word = value.strip(BLANKS).lower()
    if word in _TRUE:
        return "t"
    return "f" if word in _FALSE else value


def real(value: float) -> str:
    return repr(value)


def scaled(scale: int) -> tuple[Convert, Convert, Convert]:
    """For text, integers and floats that go into a numeric with a scale, which would round them."""

    def text(value: str) -> str:
        if scale >= 0 and "e" not in value and "E" not in value:  # as nearly always
            point = value.find(".")
            if point < 0 or len(value) - point - 1 <= scale:
                return value
        found = _DECIMAL.fullmatch(value)
        if scale >= 0 and found is not None and len(found["fraction"].rstrip("0")) <= scale:
            return value
        return _exactly(value, value)

    def _exactly(value: str, shown: Any) -> str:
        try:
            number = Decimal(value.strip())
        except InvalidOperation:
            if scale < 0 and _BASED.match(value):
                raise Unfit(f"{value[:60]} is not written in decimal digits") from None
            return value  # the server says what is wrong with it
        if number.is_finite() and _places(number) > scale:
            raise Unfit(f"{str(shown)[:60]} has more digits than the {scale} that the column keeps", "round it before")
        return value

    def number(value: float) -> str:
        shown = repr(value)
        if "e" not in shown and len(shown) - shown.find(".") - 1 <= scale:
            return shown
        return text(shown)

    return text, lambda value: _exactly(integer(value), value) if scale < 0 else integer(value), number


def _places(number: Decimal) -> int:
    """Digits behind the point up to the last that is not zero; negative for zeros before it."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if not any(digits):
        return -(1 << 30)
    zeros = next(n for n, digit in enumerate(reversed(digits)) if digit)
    return -exponent - zeros


def double_from_integer(value: int) -> str:
    try:
        exact = int(float(value)) == value
    except OverflowError:
        exact = False
    if not exact:
        raise Unfit(f"the integer {integer(value)[:60]} cannot be kept exactly in a double", "make the column numeric")
    return str(value)


def double_from_text(value: str) -> str:
    if _SPECIAL.fullmatch(value):
        return value
    if _BASED.match(value):
        raise Unfit(f"{value[:60]} is not written in decimal digits")
    try:
        number = float(value)
        exact = Decimal(value.strip()) == Decimal(repr(number))
    except (ValueError, InvalidOperation):
        return value  # the server says what is wrong with it
    if not exact:
        raise Unfit(f"{value[:60]} has more digits than a double keeps", "make the column numeric")
    return value


def single(value: float) -> str:
    try:
        (near,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return repr(value)  # out of range: the server says so
    if value == value and near != value and not any(float(f"{near:.{digits}g}") == value for digits in (6, 7, 8, 9)):
        raise Unfit(f"{value!r} has more digits than a float4 keeps", "make the column float8 or numeric")
    return repr(value)


def single_from_integer(value: int) -> str:
    if abs(value) > 1 << 127 or int(struct.unpack("f", struct.pack("f", value))[0]) != value:
        raise Unfit(f"the integer {integer(value)[:60]} cannot be kept exactly in a float4", "make the column numeric")
    return str(value)


def single_from_text(value: str) -> str:
    double_from_text(value)
    try:
        single(float(value))
    except ValueError:
        return value  # the server says what is wrong with it
    return value


# ---- text


def json(value: Any) -> str:
    try:
        return encode(value).decode()
    except Permanent as error:
        raise Unfit(error.message) from error


def at_most(length: int) -> Convert:
    def check(value: str) -> str:
        if len(value) > length:
            raise Unfit(f"the text has {len(value)} characters, {length} at most fit")
        return value

    return check


def bits(length: int, *, varying: bool) -> Convert:
    """Not longer than the column's; without `varying`, neither shorter."""

    def check(value: str) -> str:
        if len(value) > length or (len(value) < length and not varying):
            raise Unfit(f"{len(value)} bits, where {length}{' at most' if varying else ''} fit")
        return value

    return check


def name(value: str) -> str:
    if len(value.encode(errors="replace")) > _NAME_BYTES:
        raise Unfit(f"a name has {_NAME_BYTES} bytes at most")
    return value


def char(value: str) -> str:
    if len(value.encode(errors="replace")) > 1 and not _OCTAL.fullmatch(value):
        raise Unfit('the type "char" holds one byte')
    return value


def binary(value: str) -> str:
    if value.startswith("\\x"):
        return value
    try:
        return "\\x" + a2b_base64(value.encode(errors="replace"), strict_mode=True).hex()
    except Base64Error as error:
        raise Unfit(f"the text is no Base64: {error}") from error


def money(value: str) -> str:
    if _CENTS.search(value):
        raise Unfit(f"{value[:60]} has more digits than money keeps")
    return value


def hstore(value: dict[str, Any]) -> str:
    return ", ".join(f"{quote(key)}=>{_hstore_value(item)}" for key, item in value.items())


def _hstore_value(item: Any) -> str:
    return "NULL" if item is None else quote(item if isinstance(item, str) else json(item))


def quote(text: str) -> str:
    """As an element of an array, or in an hstore."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# ---- by class


def convert(converters: Converters, value: Any) -> str:
    """The text of one value that is not None.

    :raises Unfit: it does not fit.
    """
    function = converter_of(converters, type(value))
    return value if function is None else function(value)


def converter_of(converters: Converters, kind: type) -> Convert | None:
    """What makes the text of values of this class; None where they are it."""
    try:
        return converters[kind]
    except KeyError:
        return _unfit


def _unfit(value: Any) -> str:
    names = {dict: "an object", list: "a list", tuple: "a list", bool: "true or false", int: "a number", float: "a number"}
    what = names.get(type(value), f"a value of type {type(value).__name__}")
    raise Unfit(f"{what} does not fit the column's type", "send PostgreSQL's text of the value")
