"""Dates and times: PostgreSQL would round them, or drop offset or time of day, to fit a column. Checked here, never changed.

Source: PostgreSQL manual, "Date/Time Types" (8.5.1, date/time input); RFC 3339, 5.6.
"""

from __future__ import annotations

import re
from datetime import datetime
from fractions import Fraction

from connectors.sinks._postgres.values import Convert, Unfit

_DATE = r"\d{4,7}-\d\d-\d\d"
_TIME = r"\d\d:\d\d(?::[0-5]\d(?:\.(?P<fraction>\d+))?)?"
_OFFSET = r"(?:[Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)"
_NO_OFFSET = r"(?:[Zz]|[+-]00(?::?00)?)"
DATE = re.compile(rf"{_DATE}(?: BC)?|-?infinity", re.ASCII)
TIME = re.compile(_TIME, re.ASCII)
TIMETZ = re.compile(_TIME + _OFFSET, re.ASCII)
TIMESTAMP = re.compile(rf"{_DATE}(?:[Tt ]{_TIME}{_NO_OFFSET}?)?(?: BC)?|-?infinity", re.ASCII)
TIMESTAMPTZ = re.compile(rf"{_DATE}(?:[Tt ]{_TIME} ?{_OFFSET}?)?(?: BC)?|-?infinity", re.ASCII)
_INTERVAL_FRACTION = re.compile(r"[.,](?P<fraction>\d+)\s*(?P<unit>[^\W\d_]*)", re.ASCII)
_EXPONENT = re.compile(r"\d\.?[eE][+-]?\d", re.ASCII)
FIELDS = ("years", "months", "days", "hours", "minutes")
_PART = r"([+-]?\d+(?:\.\d*)?)"
_ISO_INTERVAL = re.compile(rf"P(?:{_PART}Y)?(?:{_PART}M)?(?:{_PART}D)?(?:T(?:{_PART}H)?(?:{_PART}M)?(?:{_PART}S)?)?", re.ASCII)
_UNITS = (
    (r"|s|secs?|seconds?", 10**6),
    (r"ms|m(illi)?sec(ond)?s?", 10**3),
    (r"us|(u|micro)sec(ond)?s?", 1),
    (r"m|mins?|minutes?", 60 * 10**6),
    (r"h|hrs?|hours?", 3600 * 10**6),
    (r"d|days?", 86400 * 10**6),
    (r"w|weeks?", 7 * 86400 * 10**6),
)
"""Units whose fractions are times, in microseconds; of years and months they would be rounded."""
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


def interval(precision: int, fields: int = 0) -> Convert:
    """What would be rounded or cut is refused.

    :param fields: number of the column's smallest field in `FIELDS`, from 1 on; 0: it keeps all.
    """

    def check(value: str) -> str:
        if _EXPONENT.search(value):
            raise Unfit(f"{value[:60]!r} is no interval whose digits can be checked", "write it without an exponent")
        for found in _INTERVAL_FRACTION.finditer(value):
            if found["fraction"].strip("0") and not _is_kept(value, found, precision):
                raise Unfit(
                    f"{value[:60]} has more digits than an interval with {precision} of a second keeps", "round it before"
                )
        if fields and not _is_within(value, fields):
            raise Unfit(
                f"{value[:60]!r} has, or may have, smaller parts than {FIELDS[fields - 1]}, which the column cuts off",
                "write it as ISO 8601 without them (P1Y2M3DT4H5M6S), or make the column a plain interval",
            )
        return value

    return check


def _is_kept(value: str, found: re.Match[str], precision: int) -> bool:
    unit = found["unit"].lower()
    if unit == "m" and value.lstrip(" -+").upper().startswith("P") and "T" not in value[: found.start()].upper():
        unit = "mon"
    microseconds = next((size for names, size in _UNITS if re.fullmatch(names, unit)), None)
    if microseconds is None:
        return False
    return bool((Fraction(f"0.{found['fraction']}") * microseconds * 10**precision / 10**6).denominator == 1)


def _is_within(value: str, fields: int) -> bool:
    found = _ISO_INTERVAL.fullmatch(value)
    return found is not None and not any(part and part.strip("+-0.") for part in found.groups()[fields:])
