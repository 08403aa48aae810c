"""Numbers, durations and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def count(number: int) -> str:
    """`40,000`."""
    return f"{number:,}"


def plural(number: int, word: str, many: str | None = None) -> str:
    """`1 event`, `40,000 events`."""
    return f"{number:,} {word if number == 1 else many or word + 's'}"


def size(count: int) -> str:
    """`812 bytes`, `64.0 KiB`, `1.2 GiB`."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return plural(count, "byte")


def rate(events: int, seconds: float) -> str:
    """`25,000 events/s`."""
    return f"{events / seconds:,.0f} events/s" if seconds > 0 else "- events/s"


def duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `4 min 5 s`, `3 h 20 min`, `12 d 4 h`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def utc(seconds: float) -> str:
    """`2026-11-21 05:00:00Z`, for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def utc_minute(seconds: float) -> str:
    """`2026-11-21 05:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")


def age(seconds: float) -> str:
    """`3 min ago`; one unit is enough."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def countdown(seconds: float) -> str:
    """`0:03`, `12:40`, `3:20:00`."""
    whole = round(max(0.0, seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
