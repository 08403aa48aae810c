"""How fast a job goes, and may go; and how far it is behind a group."""

from __future__ import annotations

import pytest

from penstock.engine.pace import Pace
from penstock.engine.turn import Turn
from penstock.ledger import Counts
from penstock.state.job_records import JobProgress


def test_without_a_limit_nothing_is_waited_for_and_portions_are_whole() -> None:
    pace = Pace(None, 0.0)
    pace.did(500, 1.0)
    assert (pace.wait(1.0), pace.portion(500)) == (0.0, 500)


@pytest.mark.parametrize(("limit", "portion"), [(1000.0, 500), (20.0, 20), (0.5, 1)])
def test_a_limit_bounds_the_portion_and_the_rate_over_time(limit: float, portion: int) -> None:
    pace, now, done = Pace(limit, 100.0), 100.0, 0
    assert pace.portion(500) == portion
    for _ in range(50):
        now += pace.wait(now)
        pace.did(portion, now)
        done += portion
    now += pace.wait(now)
    assert done / (now - 100.0) == pytest.approx(limit, rel=0.05)


def test_what_was_not_used_of_a_limit_is_not_saved_up() -> None:
    pace = Pace(10.0, 0.0)
    pace.did(10, 1000.0)  # long idle before
    pace.did(10, 1000.0)
    assert pace.wait(1000.0) == pytest.approx(1.0)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    pace = Pace(None, 0.0)
    for second in range(20):
        pace.did(100, float(second))
    assert pace.rate == pytest.approx(100.0)
    for second in range(20, 60):
        pace.did(10, float(second))
    assert pace.rate == pytest.approx(10.0, rel=0.05)


def test_the_cursor_goes_with_the_last_part_of_what_was_divided() -> None:
    before = JobProgress("j", b"old", 10, 30, {"received": 10, "delivered": 10})
    turn = Turn(before, b"new", 16, "v1", {"left": 2})
    half = turn.advanced(Counts(2, 1, dead_lettered=1), last=False)
    assert (half.cursor, half.done, half.counts["received"], half.counts["dead_lettered"]) == (b"old", 12, 12, 1)
    turn.progress = half
    whole = turn.advanced(Counts(2, 2), last=True)
    assert (whole.cursor, whole.done, whole.total) == (b"new", 16, 30)
    assert {name: whole.counts[name] for name in ("received", "delivered", "dead_lettered", "left")} == {
        "received": 14, "delivered": 13, "dead_lettered": 1, "left": 2,
    }  # fmt: skip
