"""How fast a job goes, and may go; and how far it is behind a group."""

from __future__ import annotations

import asyncio

import pytest

from penstock.config.model import Limits
from penstock.engine.flow import Flow
from penstock.engine.in_flight import InFlight
from penstock.engine.pace import LEAST, Pace, Size
from penstock.engine.turn import Turn
from penstock.ledger import Counts
from penstock.observe.status import RunStatus
from penstock.state.job_records import JobProgress
from penstock.testing.clock import FakeClock


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


def sizes(size: Size, step: float, commit: float, number: int) -> list[int]:
    """Of so many portions, where each event takes `step`, and each commit `commit` seconds."""
    found = []
    for _ in range(number):
        found.append(size.events)
        size.took(size.events, step * size.events, commit)
    return found


def test_a_portion_begins_with_one_event_and_doubles_until_it_takes_as_long_as_it_may() -> None:
    found = sizes(Size(0.03, 500), 0.0002, 0.005, 20)
    assert (found[:8], found[-1]) == ([1, 2, 4, 8, 16, 32, 64, 107], 124)  # 124 * 0.0002 + 0.005 is 0.0298
    assert sizes(Size(0.03, 500), 0.0, 0.0, 11)[-2:] == [500, 500]


def test_portions_of_slow_steps_have_one_event_and_become_so_at_once() -> None:
    size = Size(0.03, 500)
    assert set(sizes(size, 0.5, 0.005, 10)) == {1}
    size = Size(0.03, 500)
    sizes(size, 0.00001, 0.005, 20)
    assert sizes(size, 0.5, 0.005, 3) == [500, 1, 1]


def test_a_slow_commit_is_not_repeated_for_fewer_events_than_the_least() -> None:
    assert sizes(Size(0.03, 500), 0.0001, 0.5, 20)[-1] == LEAST
    assert sizes(Size(0.03, 500), 0.001, 0.5, 20)[-1] == 30  # the steps alone allow no more
    assert sizes(Size(0.03, 20), 0.0001, 0.5, 20)[-1] == 20


def test_a_portion_of_nothing_tells_nothing() -> None:
    size = Size(0.03, 500, 8)
    size.took(0, 10.0, 10.0)
    assert size.events == 8


async def test_what_a_job_waits_for_the_keys_of_live_batches_is_told_apart() -> None:
    clock = FakeClock()
    keys = InFlight(Flow(Limits(), RunStatus("orders", "v1")), clock)
    await keys.enter({b"a", b"b"})
    assert (await keys.reserve({b"c"}), keys.waited) == (False, 0.0)
    waiting = asyncio.create_task(keys.reserve({b"a"}))
    await clock.advance(2.0)
    assert not waiting.done()
    keys.leave({b"a", b"b"})
    await keys.flow.tell()
    assert (await waiting, keys.waited) == (True, 2.0)


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
