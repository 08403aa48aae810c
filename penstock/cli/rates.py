"""Rates on the command line: `1000/s`."""

from __future__ import annotations

from penstock.config.units import parse_rate
from penstock.errors import UsageError


def rate_of(text: str | None) -> float | None:
    """Events a second; None where none was given.

    :raises UsageError: `usage.bad_rate`.
    """
    if text is None:
        return None
    try:
        return parse_rate(text)
    except ValueError as error:
        raise UsageError("usage.bad_rate", f"{text!r} is no rate", why=str(error), help="--rate 1000/s, 30/min") from error
