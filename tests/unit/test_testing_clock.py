"""`FakeClock`: time moves only when it is told to."""

from __future__ import annotations

import asyncio

import pytest

from penstock.testing import FakeClock


async def test_a_sleeper_wakes_when_the_clock_has_been_advanced_far_enough() -> None:
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.until_sleeping()
    await clock.advance(9.5)
    assert not sleeper.done()
    await clock.advance(0.5)
    await asyncio.wait_for(sleeper, 1)
    assert clock.sleeping == 0


async def test_sleepers_wake_in_the_order_of_their_times_each_at_its_own_time() -> None:
    clock = FakeClock(now=100.0)
    start = clock.monotonic()
    woken: list[tuple[str, float, float]] = []

    async def sleep(name: str, seconds: float, times: int = 1) -> None:
        for _ in range(times):
            await clock.sleep(seconds)
            woken.append((name, clock.monotonic() - start, clock.now()))

    tasks = [asyncio.create_task(sleep("late", 5)), asyncio.create_task(sleep("often", 2, times=2))]
    await clock.until_sleeping(2)
    await clock.advance(60)
    await asyncio.gather(*tasks)
    assert woken == [("often", 2, 102), ("often", 4, 104), ("late", 5, 105)]
    assert clock.now() == 160


async def test_a_jump_of_the_wall_clock_wakes_nobody_and_leaves_monotonic_time_alone() -> None:
    clock = FakeClock(now=100.0)
    before = clock.monotonic()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.until_sleeping()
    clock.jump(-3600)
    await clock.advance(0)
    assert (clock.now(), clock.monotonic(), sleeper.done()) == (-3500, before, False)
    sleeper.cancel()
    await asyncio.gather(sleeper, return_exceptions=True)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.until_sleeping()
    sleeper.cancel()
    await asyncio.gather(sleeper, return_exceptions=True)
    assert clock.sleeping == 0
    await clock.advance(20)


async def test_sleeping_for_nothing_needs_no_advance() -> None:
    await asyncio.wait_for(FakeClock().sleep(0), 1)


async def test_time_does_not_advance_backwards() -> None:
    with pytest.raises(ValueError, match="forward"):
        await FakeClock().advance(-1)
