"""Exponential backoff with full jitter, bounded by attempts and by elapsed time.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (full jitter: a uniform share of the exponential delay).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from penstock.clock import Clock
from penstock.config.model import Retry
from penstock.errors import EnvironmentFault, Transient, Unavailable

T = TypeVar("T")

PATIENT = Retry(max_attempts=1 << 62, initial_delay=0.1, max_delay=5.0, max_elapsed=float("inf"))
"""For what is retried without limit: a full disk, a busy database."""


def delays(retry: Retry, rng: random.Random, clock: Clock) -> Iterator[float]:
    """Seconds to wait before the second, third, … attempt; ends when `retry` allows no further one."""
    start = clock.monotonic()
    for attempt in range(retry.max_attempts - 1):
        growth = 1 if retry.backoff == "constant" else 2.0 ** min(attempt, 60)
        ceiling = min(retry.max_delay, retry.initial_delay * growth)
        delay = rng.uniform(0, ceiling)
        if clock.monotonic() - start + delay > retry.max_elapsed:
            return
        yield delay


class Waits:
    """How long one operation waits before each further attempt: as `retry` says, and for what is `Unavailable` without limit."""

    def __init__(self, retry: Retry, rng: random.Random, clock: Clock) -> None:
        self._bounded, self._patient = delays(retry, rng, clock), delays(PATIENT, rng, clock)

    def after(self, error: Transient, *, patient: bool = True) -> float | None:
        """Seconds to wait after this failure; None where no further attempt is allowed.

        :param patient: False: `retry` alone decides.
        """
        return next(self._patient if patient and isinstance(error, Unavailable) else self._bounded, None)


async def persistently(
    action: Callable[[], Awaitable[T]],
    retry: Retry,
    rng: random.Random,
    clock: Clock,
    tell: Callable[[Transient], None],
    where: str | None = None,
) -> T:
    """The action's result: a transient failure is retried as `retry` says, an `Unavailable` without limit; `tell` hears of each.

    :param where: the component that is asked.
    :raises EnvironmentFault: `retry` allows no further attempt.
    """
    waits = Waits(retry, rng, clock)
    while True:
        try:
            return await action()
        except Transient as error:
            delay = waits.after(error)
            if delay is None:
                raise gave_up(error, where) from error
            tell(error)
            await clock.sleep(delay)


def gave_up(error: Transient, where: str | None = None) -> EnvironmentFault:
    """The reason of a run that stops because trying again did not help."""
    return EnvironmentFault(error.code, error.message, where=where or error.where, why=error.why, help=error.help)
