"""Events to rows of one SQLite table: which columns, and which values go in as they are.

A value is stored exactly or refused (Invariant 13). Null, integers of 64 bits, finite numbers and text go in as they are, true
and false as 1 and 0, objects and lists as JSON text. SQLite would convert on its own what does not fit a column's affinity; where
that would change the value, the value is refused here, or, a number in a TEXT column, stored as its JSON text.

Source: sqlite.org, "Datatypes In SQLite", sections 3.1 (affinity) and 3 (conversions).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from penstock.errors import Permanent
from penstock.event import encode

Affinity = Literal["INTEGER", "TEXT", "BLOB", "REAL", "NUMERIC"]
Convert = Callable[[Any, "Column"], Any]
Plan = tuple[Sequence[tuple[int, Convert, "Column"]], Sequence[tuple[int, Convert, "Column"]]]
"""By place in the row: values that are only looked at, and values that are replaced."""

_LARGEST = (1 << 63) - 1
_EXACT_DIGITS = 15  # that SQLite keeps when it converts between text and REAL
_NUMBER = re.compile(r"[ \t-\r]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ \t-\r]*", re.ASCII)
_PLAIN_INTEGER = re.compile(r"-?\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Column:
    """One column as the table has it.

    :ivar declared: its type as it was written.
    """

    name: str
    affinity: Affinity
    declared: str = ""


def affinity_of(declared: str) -> Affinity:
    """SQLite's own rules, in its order (section 3.1)."""
    upper = declared.upper()
    rules: Sequence[tuple[Sequence[str], Affinity]] = (
        (("INT",), "INTEGER"),
        (("CHAR", "CLOB", "TEXT"), "TEXT"),
        (("BLOB",), "BLOB"),
        (("REAL", "FLOA", "DOUB"), "REAL"),
    )
    for parts, affinity in rules:
        if any(part in upper for part in parts):
            return affinity
    return "NUMERIC" if upper else "BLOB"


def type_for(value: Any) -> str:
    """The type declared for a column whose first value this is; none after a null, which lets it hold anything."""
    if value is None:
        return ""
    if isinstance(value, bool | int):
        return "INTEGER"
    return "REAL" if isinstance(value, float) else "TEXT"


def is_number_text(text: str) -> bool:
    """Whether SQLite makes a number of it in a column of numbers."""
    return _NUMBER.fullmatch(text) is not None


class Rows:
    """Converts rows of one shape: the same columns in the same order. Remembers what each combination of types needs.

    :ivar has_key: the columns of the table's key are among these.
    """

    def __init__(self, columns: Sequence[Column], *, has_key: bool = True) -> None:
        self.has_key = has_key
        self._columns = tuple(columns)
        self._plans: dict[tuple[type, ...], Plan] = {}

    def convert(self, values: Sequence[Any]) -> Sequence[Any]:
        """The values as they are bound.

        :raises Permanent: `sink.value`, naming the column.
        """
        classes = tuple(map(type, values))
        plan = self._plans.get(classes)
        if plan is None:
            plan = self._plan(classes)
        checks, changes = plan
        for index, check, column in checks:
            check(values[index], column)
        if not changes:
            return values
        row = list(values)
        for index, change, column in changes:
            row[index] = change(row[index], column)
        return row

    def _plan(self, classes: tuple[type, ...]) -> Plan:
        if len(self._plans) > 256:  # types that vary in every column: start over instead of growing with the data
            self._plans.clear()
        steps = [
            (index, convert, column)
            for index, (kind, column) in enumerate(zip(classes, self._columns, strict=True))
            if (convert := _converter(kind, column.affinity)) is not None
        ]
        plan = [step for step in steps if step[1] in _CHECKS], [step for step in steps if step[1] not in _CHECKS]
        self._plans[classes] = plan
        return plan


def _converter(kind: type, affinity: Affinity) -> Convert | None:
    if kind is str:
        return _text_in_number if affinity in ("INTEGER", "REAL", "NUMERIC") else None
    if kind is bool or kind is type(None):
        return None
    choose = _CONVERTERS.get(kind)
    return choose(affinity) if choose else _foreign


def _refuse(column: Column, message: str, help: str | None = None) -> Permanent:
    return Permanent("sink.value", f"column {column.name}: {message}", help=help)


def _integer(value: int, column: Column) -> int:
    if not -_LARGEST - 1 <= value <= _LARGEST:
        raise _refuse(column, f"an integer of {value.bit_length()} bits; SQLite holds 64", "send it as text: '.NAME | tostring'")
    return value


def _integer_as_text(value: int, column: Column) -> str:
    return str(_integer(value, column))


def _integer_as_real(value: int, column: Column) -> int:
    _integer(value, column)
    if int(float(value)) != value:
        raise _refuse(column, f"the integer {value} cannot be kept exactly in a column of type REAL", "declare it INTEGER")
    return value


def _finite(value: float, column: Column) -> float:
    if value - value != 0:  # NaN and the infinities; half the time of math.isfinite
        raise _refuse(column, f"{value} is no number that can be stored")
    return value


def _real_as_text(value: float, column: Column) -> str:
    return encode(_finite(value, column)).decode()  # SQLite itself would keep 15 digits


def _text_in_number(value: str, column: Column) -> str:
    """Text that looks like a number becomes one in such a column: let it, where the number is written just so and exact."""
    if _NUMBER.fullmatch(value) and not _reads_the_same(value, column.affinity):
        raise _refuse(column, f"the text {value[:40]!r} would become a number that reads otherwise", "declare the column TEXT")
    return value


def _reads_the_same(text: str, affinity: Affinity) -> bool:
    if len(text) > 20:
        return False
    if not _PLAIN_INTEGER.fullmatch(text):
        return repr(float(text)) == text and sum(character.isdigit() for character in text) <= _EXACT_DIGITS
    number = int(text)
    exact = int(float(number)) == number if affinity == "REAL" else -_LARGEST - 1 <= number <= _LARGEST
    return str(number) == text and exact


def _nested(value: Any, column: Column) -> str:
    try:
        return encode(value).decode()
    except Permanent as error:
        raise _refuse(column, error.message) from error


def _foreign(value: Any, column: Column) -> Any:
    raise _refuse(column, f"a value of type {type(value).__name__} has no form in a table", "make it text or a number before")


_CONVERTERS: Mapping[type, Callable[[Affinity], Convert]] = {
    int: lambda affinity: {"TEXT": _integer_as_text, "REAL": _integer_as_real}.get(affinity, _integer),
    float: lambda affinity: _real_as_text if affinity == "TEXT" else _finite,
    dict: lambda affinity: _nested,
    list: lambda affinity: _nested,
    tuple: lambda affinity: _nested,
}

_CHECKS = frozenset({_integer, _finite, _integer_as_real, _text_in_number})
"""Converters that hand back what they were given, or refuse it."""
