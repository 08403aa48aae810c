"""Dates and times: PostgreSQL would round them, or drop offset or time of day, to fit a column. Checked here, never changed.

Source: PostgreSQL manual, "Date/Time Types" (8.5.1, date/time input); RFC 3339, 5.6.
"""

from __future__ import annotations

import re
from datetime import datetime

from connectors.sinks._postgres_values import Convert, Unfit

_DATE = r"\d{4,7}-\d\d-\d\d"
_TIME = r"\d\d:\d\d(?::\d\d(?:\.(?P<fraction>\d+))?)?"
_OFFSET = r"(?:[Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)"
_NO_OFFSET = r"(?:[Zz]|[+-]00(?::?00)?)"
DATE = re.compile(rf"{_DATE}(?: BC)?|-?infinity", re.ASCII)
TIME = re.compile(_TIME, re.ASCII)
TIMETZ = re.compile(_TIME + _OFFSET, re.ASCII)
TIMESTAMP = re.compile(rf"{_DATE}(?:[Tt ]{_TIME}{_NO_OFFSET}?)?(?: BC)?|-?infinity", re.ASCII)
TIMESTAMPTZ = re.compile(rf"{_DATE}(?:[Tt ]{_TIME} ?{_OFFSET}?)?(?: BC)?|-?infinity", re.ASCII)
_INTERVAL_FRACTION = re.compile(r"\.(?P<fraction>\d+)", re.ASCII)
_LONGEST_UTC = 27
"""Characters of a time with microseconds."""


def matched(pattern: re.Pattern[str], precision: int, what: str) -> Convert:
    has_fraction = "fraction" in pattern.groupindex

    def check(value: str) -> str:
        found = pattern.fullmatch(value)
        if found is None:
            raise Unfit(f"{value[:60]!r} is no {what}")
        fraction = found["fraction"] if has_fraction else None
        if fraction and len(fraction) > precision and fraction[precision:].strip("0"):
            raise Unfit(f"{value[:60]} has more than {precision} digits of a second", "cut them off before")
        return value

    return check


def utc(otherwise: Convert) -> Convert:
    """Times as most are written, `2026-01-01T10:00:00.123456Z`, at a third of what it takes `otherwise`."""

    def check(value: str) -> str:
        if len(value) <= _LONGEST_UTC and value[-1:] == "Z" and value[16:17] == ":" and value[10:11] == "T":
            try:
                datetime.fromisoformat(value)
            except ValueError:
                return otherwise(value)
            return value
        return otherwise(value)

    return check


def interval(precision: int) -> Convert:
    def check(value: str) -> str:
        for found in _INTERVAL_FRACTION.finditer(value):
            if found["fraction"][precision:].strip("0"):
                raise Unfit(f"{value[:60]} has more than {precision} digits of a second", "cut them off before")
        return value

    return check
