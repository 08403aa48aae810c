"""How the orders of rows compare: numbers with numbers, exactly; RFC 3339 times with times, as instants; other texts with texts,
by code point. Two of different kinds do not compare, and which is the newer is never guessed (Invariant 13).

SQLite's columns do not say which of these they hold, so each value is looked at. Source: RFC 3339, 5.6.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from connectors.sinks._order import LSN
from connectors.sinks._sqlite.rows import Column, is_number_text
from penstock.cloudevents import is_time
from penstock.errors import Permanent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_PARTS = re.compile(r"(.{10}).(\d\d:\d\d):(\d\d)(?:\.(\d+))?(.+)")


class Order(NamedTuple):
    """Compares with others of its kind."""

    kind: str
    value: Any


def order_of(value: Any, column: Column) -> Order:
    """Of a value on its way into the column.

    :raises Permanent: `sink.order`: it has none there.
    """
    if isinstance(value, str) and column.affinity in ("INTEGER", "REAL", "NUMERIC") and is_number_text(value):
        raise _refuse(column, f"the text {value[:40]!r} would become a number", "send it as a number: '.NAME | tonumber'")
    if isinstance(value, int | float) and not isinstance(value, bool) and column.affinity == "TEXT":
        raise _refuse(column, "a number would be kept and compared as text", "declare the column INTEGER, REAL or NUMERIC")
    if isinstance(value, str) and LSN.fullmatch(value):
        raise _refuse(column, f"{value!r} is a position in PostgreSQL's log, which as text would be misplaced among others")
    found = stored_order(value)
    if found is None:
        raise _refuse(column, "neither a finite number nor a text, so that nothing is older or newer than it")
    return found


def stored_order(value: Any) -> Order | None:
    """Of a value as SQLite gives it; None where it has none."""
    if isinstance(value, str):
        seconds = _instant(value) if is_time(value) else None
        return Order("text", value) if seconds is None else Order("time", seconds)
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        return None
    return Order("number", value)


def newer(new: Order, old: Order, column: Column) -> bool:
    """Whether it is newer, or as new.

    :raises Permanent: `sink.order`: they do not compare.
    """
    if new.kind != old.kind:
        raise _refuse(column, f"a {new.kind} does not compare with the {old.kind} that stands there")
    return bool(new.value >= old.value)


def refuse_stored(column: Column) -> Permanent:
    """What stands there has no order."""
    return _refuse(column, "what stands there is neither a finite number nor a text, so that nothing compares with it")


def _instant(text: str) -> tuple[int, str] | None:
    """Seconds since 1970, and the digits of the fraction; a leap second is the first one of the next minute."""
    day, minute, second, fraction, offset = _PARTS.fullmatch(text).groups()  # type: ignore[union-attr]  # every time has this form
    try:
        start = datetime.fromisoformat(f"{day}T{minute}:00{offset.upper()}")
    except ValueError:  # the year 0
        return None
    return (start - _EPOCH) // _SECOND + int(second), (fraction or "").rstrip("0")


def _refuse(column: Column, message: str, help: str | None = None) -> Permanent:
    return Permanent("sink.order", f"column {column.name}, which orders the rows: {message}", help=help)
