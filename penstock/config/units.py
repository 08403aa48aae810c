"""Durations, sizes and rates as people write them: `500ms`, `10MiB`, `5000/s`. A missing unit is refused, not guessed."""

from __future__ import annotations

import math
import re
from decimal import Decimal

DURATION_PATTERN = r"^(0|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+)$"
SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)?(B|KiB|MiB|GiB|TiB)$"
RATE_PATTERN = r"^[0-9]+(\.[0-9]+)?/(s|m|h)$"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DECIMAL_BYTES = {"K": "KiB", "KB": "KiB", "M": "MiB", "MB": "MiB", "G": "GiB", "GB": "GiB", "T": "TiB", "TB": "TiB"}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(/?[A-Za-z]*)")


def parse_duration(value: object) -> float:
    """`500ms`, `30s`, `5m`, `24h`, `7d` or `1h30m` to seconds; a bare `0` needs no unit.

    :raises ValueError: anything else; the message says what to write.
    """
    if value == 0 and not isinstance(value, bool):
        return 0.0
    if isinstance(value, str) and value and re.fullmatch(DURATION_PATTERN, value):
        return _finite(math.fsum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(value)))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise _no_unit(f"a duration needs a unit: write '{value:g}s' or '{value:g}ms'")
    raise ValueError("a duration was expected, such as 500ms, 30s, 5m, 24h or 7d")


def parse_size(value: object) -> int:
    """`512B`, `64KiB`, `10MiB`, `1GiB` to bytes; a bare integer is bytes.

    :raises ValueError: anything else; the message says what to write.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match and match[2] in _BYTES:
        return round(_finite(float(match[1]) * _BYTES[match[2]]))
    if match and (binary := _DECIMAL_BYTES.get(match[2].upper())):
        raise ValueError(f"sizes are in binary units: write '{match[1]}{binary}'")
    raise ValueError("a size was expected, such as 512B, 64KiB, 10MiB or 1GiB")


def parse_rate(value: object) -> float:
    """`5000/s`, `100/m`, `10/h` to a number per second, above zero.

    :raises ValueError: anything else; the message says what to write.
    """
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match and match[2] in ("/s", "/m", "/h"):
        rate = _finite(float(match[1]) / _SECONDS[match[2][1]])
        if rate <= 0:
            raise ValueError("a rate must be above zero; leave it out for no limit")
        return rate
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise _no_unit(f"a rate needs a unit: write '{value:g}/s'")
    raise ValueError("a rate was expected, such as 5000/s, 100/m or 10/h")


def format_duration(seconds: float) -> str:
    """The shortest exact writing, in one unit: `parse_duration(format_duration(x)) == x`."""
    for unit in ("d", "h", "m", "s"):
        number = seconds / _SECONDS[unit]
        if number >= 1 and number == int(number):
            return f"{int(number)}{unit}"
    milliseconds = round(seconds * 1000)
    if milliseconds > 0 and milliseconds * 0.001 == seconds:
        return f"{milliseconds}ms"
    return f"{_plain(seconds)}s"


def format_size(size: int) -> str:
    """The shortest exact writing, in one unit."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def format_rate(rate: float) -> str:
    """The rate per second."""
    return f"{_plain(rate)}/s"


def _no_unit(message: str) -> ValueError:
    return ValueError(message)


def _plain(number: float) -> str:
    """Decimal digits without an exponent, which the grammar does not know."""
    return format(Decimal(repr(float(number))), "f").removesuffix(".0")


def _finite(number: float) -> float:
    if not math.isfinite(number) or number > 2**62:
        raise ValueError("the value is too large")
    return number
