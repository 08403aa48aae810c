"""Times on the command line: RFC 3339, `2026-11-01`, `-2h`, `yesterday`. Nothing about them is guessed.

A time without an offset is in the zone of `--tz`; one that this zone's clocks showed twice, or never, is refused.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from penstock.config.units import parse_duration
from penstock.errors import UsageError

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)([Zz]|[+-]\d{2}:\d{2})?")
_HELP = "RFC 3339 (2026-11-01T08:30:00Z), a day (2026-11-01), -2h, now, today or yesterday"


def find_zone(name: str | None) -> tzinfo | None:
    """The zone called so; None is this machine's own.

    :raises UsageError: `time.unknown_zone`.
    """
    if name is None or name == "local":
        return None
    if name.upper() in ("UTC", "Z"):
        return UTC
    import difflib
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        close = difflib.get_close_matches(name, available_timezones(), 1)
        help = f"did you mean {close[0]!r}?" if close else "a name of the IANA time zone database, such as Europe/Berlin"
        raise UsageError("time.unknown_zone", f"there is no time zone {name!r}", help=help) from error


def parse_time(text: str, now: datetime, zone: tzinfo | None) -> datetime:
    """A time as people write it, in UTC.

    :param now: with an offset; what `-2h` and `yesterday` count from.
    :param zone: of a time without an offset; None is this machine's.
    :raises UsageError: `time.invalid`, `time.ambiguous`.
    """
    text = text.strip()
    if text == "now":
        return now.astimezone(UTC)
    if text in ("today", "yesterday"):
        return _start_of(now.astimezone(zone).date() - timedelta(days=text == "yesterday"), zone)
    if text.startswith("-"):
        return _before(text, now)
    try:
        return _absolute(text, zone)
    except (ValueError, OverflowError) as error:
        raise UsageError("time.invalid", f"{text!r} is no time", why=str(error), help=_HELP) from error


def parse_range(start: str, end: str, tz: str | None, now: datetime) -> tuple[float, float]:
    """Both ends of a range, in seconds since 1970.

    :param tz: name of the zone of times without an offset; None is this machine's.
    :raises UsageError: as `find_zone` and `parse_time`.
    """
    zone = find_zone(tz)
    return parse_time(start, now, zone).timestamp(), parse_time(end, now, zone).timestamp()


def _before(text: str, now: datetime) -> datetime:
    try:
        return now.astimezone(UTC) - timedelta(seconds=parse_duration(text[1:]))
    except (ValueError, OverflowError) as error:
        raise UsageError("time.invalid", f"{text!r} is no time", why=str(error), help=_HELP) from error


def _absolute(text: str, zone: tzinfo | None) -> datetime:
    if _DATE.fullmatch(text):
        return _start_of(date.fromisoformat(text), zone)
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("it has none of the forms that are known")
    day, clock, offset = match.groups()
    if offset is not None:
        return datetime.fromisoformat(f"{day}T{clock}{offset.upper().replace('Z', '+00:00')}").astimezone(UTC)
    return _in_zone(text, datetime.fromisoformat(f"{day}T{clock}"), zone)


def _in_zone(text: str, naive: datetime, zone: tzinfo | None) -> datetime:
    """:raises UsageError: the zone's clocks showed this time twice, or never (Invariant 13: not guessed)."""
    first, second = (_utc(naive.replace(fold=fold), zone) for fold in (0, 1))
    if first != second:
        happened = first.astimezone(zone).replace(tzinfo=None, fold=0) == naive
        how = "twice" if happened else "never"
        raise UsageError(
            "time.ambiguous",
            f"clocks {'here' if zone is None else f'in {zone}'} showed {text!r} {how}, as summer time changed",
            help=f"write it with its offset, such as {first.isoformat().replace('+00:00', 'Z')}",
        )
    return first


def _start_of(day: date, zone: tzinfo | None) -> datetime:
    """The first instant of the day, also where midnight came twice or not at all."""
    return _utc(datetime.combine(day, time()), zone)


def _utc(naive: datetime, zone: tzinfo | None) -> datetime:
    local = naive if zone is None else naive.replace(tzinfo=zone)  # a naive one is taken in the machine's zone
    return local.astimezone(UTC)
