"""The contract of sinks that can say what they lack (`penstock.inspection`), as tests that a plugin's author subclasses.

    class TestMySinkInspected(VerifyingContract):
        def build(self, context): ...
        async def deliver(self, directory, events): ...
        async def lose(self, directory, n): ...

See `penstock.testing.contracts` for how suites are used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.event import Event
from penstock.inspection import Absence, Verifying
from penstock.spi import Context
from penstock.testing.contracts import DEADLINE, make_context, make_events


async def inspect(
    sink: Verifying, tokens: Sequence[int], events: Sequence[Event], later: Sequence[Event] = (), *, most: int = 1000
) -> tuple[int, list[Absence]]:
    """What is absent of these, expected one after the other in two calls, as `pipe verify` asks for it."""
    half = len(events) // 2
    async with asyncio.timeout(DEADLINE), sink.inspection() as inspection:
        await inspection.expect(tokens[:half], events[:half])
        await inspection.expect(tokens[half:], events[half:])
        if later and await inspection.absent() and inspection.removes:
            await inspection.later(later)
        count = await inspection.absent()
        told = await inspection.absences(most)
        assert told[0] == count
        return told


def contents_of(directory: Path) -> dict[Path, bytes]:
    """All files below the directory."""
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


class VerifyingContract:
    """What every `Verifying` sink holds to. Override all three methods below; events have the data `{"n": …}`."""

    COUNT = 40

    def build(self, context: Context) -> Verifying:
        """A new sink over the same target, as if in a new process."""
        raise AssertionError("a sink contract builds a sink")

    async def deliver(self, directory: Path, events: Sequence[Event]) -> None:
        """Have the sink take these, behind those of earlier calls; afterwards it is closed."""
        raise AssertionError("a contract of inspections delivers events")

    async def lose(self, directory: Path, n: int) -> None:
        """Take what the event with this number left out of the target, by hand and not through the sink."""
        raise AssertionError("a contract of inspections removes by hand what was delivered")

    async def snapshot(self, directory: Path) -> Any:
        """Everything that an inspection must leave as it is; here all files."""
        return contents_of(directory)

    def _sink(self, directory: Path) -> Verifying:
        return self.build(make_context(directory, component="sink"))

    async def _inspect(self, directory: Path, numbers: Sequence[int], **options: Any) -> tuple[int, list[int]]:
        events = make_events(max(numbers) + 1)
        tokens = [10 * n for n in numbers]
        count, absences = await inspect(self._sink(directory), tokens, [events[n] for n in numbers], **options)
        assert all(absence.why and "\n" not in absence.why for absence in absences)
        return count, [absence.token for absence in absences]

    async def test_everything_that_was_delivered_is_found(self, tmp_path: Path) -> None:
        await self.deliver(tmp_path, make_events(self.COUNT))
        assert await self._inspect(tmp_path, range(self.COUNT)) == (0, [])

    async def test_a_part_of_what_was_delivered_is_found_among_the_rest(self, tmp_path: Path) -> None:
        await self.deliver(tmp_path, make_events(self.COUNT))
        await self.lose(tmp_path, 3)
        assert await self._inspect(tmp_path, range(10, 20)) == (0, [])

    async def test_what_was_lost_is_named_by_its_token(self, tmp_path: Path) -> None:
        await self.deliver(tmp_path, make_events(self.COUNT))
        for n in (0, 17, self.COUNT - 1):
            await self.lose(tmp_path, n)
        assert await self._inspect(tmp_path, range(self.COUNT)) == (3, [0, 170, 10 * self.COUNT - 10])

    async def test_what_was_never_delivered_is_named(self, tmp_path: Path) -> None:
        await self.deliver(tmp_path, make_events(5))
        assert await self._inspect(tmp_path, range(8)) == (3, [50, 60, 70])

    async def test_all_are_counted_and_the_first_of_them_are_named(self, tmp_path: Path) -> None:
        await self.deliver(tmp_path, make_events(2))
        assert await self._inspect(tmp_path, range(self.COUNT), most=3) == (self.COUNT - 2, [20, 30, 40])

    async def test_what_is_delivered_later_and_removes_nothing_excuses_nothing(self, tmp_path: Path) -> None:
        await self.deliver(tmp_path, make_events(self.COUNT))
        await self.lose(tmp_path, 3)
        later = make_events(self.COUNT)[10:]
        assert await self._inspect(tmp_path, range(10), later=later) == (1, [30])

    async def test_nothing_expected_is_nothing_absent(self, tmp_path: Path) -> None:
        await self.deliver(tmp_path, make_events(3))
        assert await inspect(self._sink(tmp_path), [], []) == (0, [])

    async def test_an_inspection_changes_nothing(self, tmp_path: Path) -> None:
        await self.deliver(tmp_path, make_events(self.COUNT))
        before = await self.snapshot(tmp_path)
        await self._inspect(tmp_path, range(self.COUNT + 5))
        assert await self.snapshot(tmp_path) == before

    async def test_a_run_goes_on_beside_an_inspection(self, tmp_path: Path) -> None:
        await self.deliver(tmp_path, make_events(10))
        async with asyncio.timeout(DEADLINE), self._sink(tmp_path).inspection() as inspection:
            await inspection.expect(range(10), make_events(10))
            await self.deliver(tmp_path, make_events(10, 10))
            assert await inspection.absent() == 0
        assert await self._inspect(tmp_path, range(20)) == (0, [])

    async def test_two_inspections_of_one_sink_know_nothing_of_each_other(self, tmp_path: Path) -> None:
        await self.deliver(tmp_path, make_events(3))
        sink = self._sink(tmp_path)
        for _ in range(2):
            count, absences = await inspect(sink, range(5), make_events(5))
            assert (count, [absence.token for absence in absences]) == (2, [3, 4])
