"""Backoff: exponential with full jitter, bounded by attempts and by time."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from state_builders import HandClock

from penstock.config.model import Retry
from penstock.engine.retry import PATIENT, delays


class Top(random.Random):
    """Always draws the greatest delay."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        (Retry(max_attempts=6, initial_delay=0.5, max_delay=3.0), [0.5, 1.0, 2.0, 3.0, 3.0]),
        (Retry(max_attempts=4, initial_delay=0.5, max_delay=3.0, backoff="constant"), [0.5, 0.5, 0.5]),
        (Retry(max_attempts=1), []),
        (Retry(max_attempts=9, initial_delay=10.0, max_delay=60.0, max_elapsed=0.0), []),
    ],
    ids=["exponential", "constant", "one attempt", "no time"],
)
def test_the_greatest_delays(retry: Retry, expected: list[float]) -> None:
    assert list(delays(retry, Top(), HandClock())) == expected


def test_delays_are_spread_over_the_whole_interval() -> None:
    retry = Retry(max_attempts=2, initial_delay=1.0, max_delay=1.0)
    drawn = [next(delays(retry, random.Random(seed), HandClock())) for seed in range(200)]
    assert min(drawn) < 0.1
    assert max(drawn) > 0.9
    assert max(drawn) <= 1.0


def test_elapsed_time_ends_them() -> None:
    clock, taken = HandClock(), []
    for delay in delays(Retry(max_attempts=100, initial_delay=10.0, max_delay=10.0, max_elapsed=35.0), Top(), clock):
        taken.append(delay)
        clock.time += delay
    assert taken == [10.0, 10.0, 10.0]


def test_patience_has_no_end() -> None:
    found = list(islice(delays(PATIENT, Top(), HandClock()), 5000))
    assert (len(found), max(found)) == (5000, 5.0)
