"""The log of one component: lines that name it, and of which nobody can write too many."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from penstock.clock import Clock
from penstock.observe.log import Incident, Log

PERIOD = 60.0
"""Seconds in which at most `LINES` lines of a code are written."""
LINES = 10


@dataclass(slots=True)
class _Period:
    begun: float
    written: int = 0
    left_out: int = 0


@dataclass(slots=True)
class ComponentLog:
    """`penstock.spi.Notes` over a run's log. The first line after some were left out says how many.

    :ivar component: stands in the incident's `where`.
    """

    log: Log
    clock: Clock
    pipeline: str
    component: str
    _periods: dict[str, _Period] = field(default_factory=dict)

    def __call__(
        self,
        code: str,
        message: str,
        *,
        level: Literal["debug", "info", "warning"] = "info",
        why: str | None = None,
        help: str | None = None,
    ) -> None:
        """See `penstock.spi.Notes`."""
        now = self.clock.monotonic()
        period = self._periods.setdefault(code, _Period(now))
        left_out = 0
        if now - period.begun >= PERIOD:
            left_out = period.left_out
            period.begun, period.written, period.left_out = now, 0, 0
        if period.written >= LINES:
            period.left_out += 1
            return
        period.written += 1
        more = f" (and {left_out:,} more lines of this code before, which were left out)" if left_out else ""
        self.log(Incident(level, code, message + more, help, self.pipeline, self.component, why))
