"""Which columns can order rows, and how two of their values compare: here, within a batch, as the server compares them.

| type | order |
| --- | --- |
| `smallint`, `integer`, `bigint`, `numeric`, `double precision` | numbers, exactly; neither `NaN` nor an infinity |
| `timestamptz` | the instant, whatever the offset and the precision it is written with |
| `timestamp`, `date` | the time, the day |
| `pg_lsn` | the position in the log, such as `.lsn` of the records of `postgres_cdc` |
| `text`, `varchar` | the code points; a time or a position in the log is refused, for as text they are misplaced |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from math import isfinite
from types import MappingProxyType
from typing import Any

from connectors.sinks._order import LSN
from connectors.sinks._postgres.rows import Column
from connectors.sinks._postgres.values import Unfit
from penstock.cloudevents import is_time

Parse = Callable[[str], Any]
"""PostgreSQL's text of a value as what compares with others of the same column. Raises `Unfit`."""

TEXT_TYPES = frozenset((25, 1043))


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _unfit(text, "an integer") from None


def _numeric(text: str) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise _unfit(text, "a number") from None
    if not number.is_finite():
        raise _unfit(text, "a finite number")
    return number


def _double(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise _unfit(text, "a number") from None
    if not isfinite(number):
        raise _unfit(text, "a finite number")
    return number


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.upper())
    except ValueError:
        raise _unfit(text, "a time of the years 1 to 9999") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)  # as the session's, in which the server reads it


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _unfit(text, "a day of the years 1 to 9999") from None


def _lsn(text: str) -> int:
    found = LSN.fullmatch(text.upper())
    if found is None:
        raise _unfit(text, "a position in the log")
    return int(found[1], 16) << 32 | int(found[2], 16)


def _text(text: str) -> str:
    return text


def _plain(text: str) -> str:
    kind = "timestamptz" if is_time(text) else "pg_lsn" if LSN.fullmatch(text) else None
    if kind is not None:
        raise Unfit(
            f"{text[:60]!r} would be compared as text here, and so be misplaced among others",
            f"ALTER TABLE … ALTER COLUMN … TYPE {kind} USING …::{kind}",
        )
    return text


def _unfit(text: str, what: str) -> Unfit:
    return Unfit(f"{text[:60]!r} is not {what}, by which rows could be ordered")


_PARSERS: Mapping[int, Parse] = MappingProxyType(
    {
        **dict.fromkeys((20, 21, 23), _integer),
        1700: _numeric,
        701: _double,
        1082: _day,
        1114: _instant,
        1184: _instant,
        3220: _lsn,
        **dict.fromkeys(TEXT_TYPES, _text),
    }
)


def orderable(column: Column) -> tuple[Column, Parse] | None:
    """The column as it takes orders, and what compares them; None where its type has no order that can be relied on."""
    parse = _PARSERS.get(column.oid)
    if parse is None:
        return None
    if column.oid in TEXT_TYPES:  # of a number or an object, it would be the order of its digits
        known = column.converters[str]
        check = _plain if known is None else lambda text: known(_plain(text))
        return replace(column, converters={str: check}), parse
    return column, parse


def type_for_orders(values: list[Any]) -> str:
    """The type of a column that is made for these orders."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "numeric"
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values):
        return "text"
    return "timestamptz" if all(map(is_time, texts)) else "pg_lsn" if all(map(LSN.fullmatch, texts)) else "text"
