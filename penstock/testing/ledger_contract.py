"""The contract suite of sinks that keep the ledger themselves (`LedgerSink`): rows and ledger are one, whatever happens.

    class TestMySink(LedgerSinkContract):
        def build(self, context): ...
        async def delivered(self, directory): ...

As the suites of `penstock.testing.contracts`: subclass it in a test module, with `pytest-asyncio` in auto mode.

Source: docs/guarantees.md, rules 1 to 6 and 10; `penstock.ledger`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from penstock.errors import BatchError, EnvironmentFault, Fatal, Fenced, PenstockError, Transient
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Claim, Claimant, Commit, Counts, JobRecord, Key, LedgerSink
from penstock.spi import Context, Position
from penstock.testing.contracts import DEADLINE, make_context, make_events

SCOPE = "test/sink"


def make_claimant(epoch: int = 1, *, source: str = "test:contract", instance: str | None = None) -> Claimant:
    """Of the scope that the suite uses, with dedup keys."""
    return Claimant(epoch, SCOPE, source, key_space="k", window=3600.0, instance=instance)


def make_commit(group: int, *, epoch: int = 1, keys: Sequence[int] = (), jobs: Sequence[JobRecord] = ()) -> Commit:
    """The group behind the one before it, at a position of its own."""
    held = [Key(key.to_bytes(16, "big"), b"%08d" % key) for key in keys]
    position = {"p": Position(group.to_bytes(8, "big"), b"detail")}
    return Commit(epoch, group - 1, group, position, Counts(received=group, delivered=group), held, float(group), jobs=jobs)


class LedgerSinkContract:
    """What every sink holds to that keeps its own ledger. Override `build` and `delivered`; `poison` where there is any."""

    crash_points: Sequence[str] = ("inside_sink_write", "inside_commit")
    """Names that the sink gives to `Context.faults` between its first row and the end of its transaction."""

    def build(self, context: Context) -> LedgerSink:
        """A new sink over the same target, as if in a new process."""
        raise AssertionError("a sink contract builds a sink")

    async def delivered(self, directory: Path) -> list[Any]:
        """The data that arrived, in the order of `n`, whether sinks are open or not; empty where there is no target yet."""
        raise AssertionError("a sink contract says what was delivered")

    def poison(self) -> Event | None:
        """An event that this sink can never take; None where there is none."""
        return None

    @asynccontextmanager
    async def _opened(self, directory: Path, *, faults: Faults | None = None) -> AsyncIterator[LedgerSink]:
        sink = self.build(make_context(directory, component="sink", faults=faults))
        await sink.open(None)
        try:
            yield sink
        finally:
            async with asyncio.timeout(DEADLINE):
                await sink.close()

    @asynccontextmanager
    async def _claimed(self, directory: Path, epoch: int = 1, *, faults: Faults | None = None) -> AsyncIterator[LedgerSink]:
        async with self._opened(directory, faults=faults) as sink:
            await sink.claim(make_claimant(epoch))
            yield sink

    async def test_rows_keys_and_checkpoint_go_in_together(self, tmp_path: Path) -> None:
        async with self._claimed(tmp_path) as sink:
            assert isinstance(sink, LedgerSink)
            for group in (1, 2, 3):
                await sink.write_and_commit(make_events(10, 10 * group - 10), make_commit(group, keys=[group]))
                assert await sink.committed() == (1, group)
            assert await self.delivered(tmp_path) == [{"n": n} for n in range(30)]
            wanted = [n.to_bytes(16, "big") for n in (1, 3, 9)]
            assert await sink.seen(wanted) == {wanted[0]: b"00000001", wanted[1]: b"00000003"}

    async def test_a_new_process_finds_what_was_committed(self, tmp_path: Path) -> None:
        record = JobRecord("job", "event")
        async with self._opened(tmp_path) as sink:
            first = await sink.claim(make_claimant())
            await sink.write_and_commit(make_events(3), make_commit(1, jobs=[record]))
        async with self._opened(tmp_path) as sink:
            again = await sink.claim(make_claimant(2, instance=first.instance))
            position = {"p": Position((1).to_bytes(8, "big"), b"detail")}
            assert again == Claim(first.instance, 1, 1, position, Counts(1, 1), {}, [record], again.keys_high)
            await sink.forget_jobs("job")
            assert (await sink.claim(make_claimant(3))).jobs == []

    async def test_a_commit_without_events_moves_the_ledger_alone(self, tmp_path: Path) -> None:
        async with self._claimed(tmp_path) as sink:
            await sink.write_and_commit(make_events(3), make_commit(1))
            await sink.write_and_commit([], make_commit(2))
            await sink.commit(make_commit(3))
            assert await sink.committed() == (1, 3)
        assert await self.delivered(tmp_path) == [{"n": n} for n in range(3)]

    async def test_a_run_whose_epoch_was_overtaken_is_fenced_and_writes_nothing(self, tmp_path: Path) -> None:
        async with self._claimed(tmp_path) as old, self._opened(tmp_path) as new:
            await old.write_and_commit(make_events(3), make_commit(1))
            await new.claim(make_claimant(2))
            for attempt in (old.write_and_commit(make_events(3, 100), make_commit(2)), old.commit(make_commit(2))):
                assert isinstance(await _failure(attempt), Fenced)
            assert await new.committed() == (2, 1)
            await new.write_and_commit(make_events(3, 3), make_commit(2, epoch=2))
        assert await self.delivered(tmp_path) == [{"n": n} for n in range(6)]

    async def test_a_group_that_is_not_the_next_is_fenced_and_writes_nothing(self, tmp_path: Path) -> None:
        async with self._claimed(tmp_path) as sink:
            await sink.write_and_commit(make_events(3), make_commit(1))
            for group in (1, 3):
                assert isinstance(await _failure(sink.write_and_commit(make_events(3, 100), make_commit(group))), Fenced)
            assert await sink.committed() == (1, 1)
        assert await self.delivered(tmp_path) == [{"n": n} for n in range(3)]

    async def test_a_claim_that_is_refused_stores_nothing(self, tmp_path: Path) -> None:
        async with self._claimed(tmp_path, 5) as sink, self._opened(tmp_path) as other:
            assert isinstance(await _failure(other.claim(make_claimant(4))), Fenced)
            mismatch = await _failure(other.claim(make_claimant(6, source="test:another")))
            assert isinstance(mismatch, EnvironmentFault)
            assert mismatch.code == "ledger.mismatch"
            await sink.write_and_commit(make_events(3), make_commit(1, epoch=5))
        assert await self.delivered(tmp_path) == [{"n": n} for n in range(3)]

    async def test_a_key_that_is_held_already_stops_the_commit_and_its_rows(self, tmp_path: Path) -> None:
        async with self._claimed(tmp_path) as sink:
            await sink.write_and_commit(make_events(3), make_commit(1, keys=[1, 2]))
            conflict = await _failure(sink.write_and_commit(make_events(3, 100), make_commit(2, keys=[3, 2])))
            assert (type(conflict), conflict.code) == (Fatal, "ledger.conflict")
            assert await sink.committed() == (1, 1)
        assert await self.delivered(tmp_path) == [{"n": n} for n in range(3)]

    async def test_a_crash_in_the_middle_leaves_neither_rows_nor_ledger(self, tmp_path: Path) -> None:
        for group, point in enumerate(self.crash_points, 1):
            crashes: list[str] = []
            faults = Faults({point: [(1, partial(_crash, crashes))]})
            async with self._claimed(tmp_path, 2 * group, faults=faults) as sink:
                failed = await _failure(
                    sink.write_and_commit(make_events(3, 100), make_commit(group, epoch=2 * group, keys=[group]))
                )
                assert (failed.code, crashes) == ("testing.crash", [point])
            async with self._claimed(tmp_path, 2 * group + 1) as again:
                assert await again.committed() == (2 * group + 1, group - 1)
                assert await again.seen([group.to_bytes(16, "big")]) == {}
                events = make_events(3, 3 * group - 3)
                await again.write_and_commit(events, make_commit(group, epoch=2 * group + 1, keys=[group]))
        assert await self.delivered(tmp_path) == [{"n": n} for n in range(3 * len(self.crash_points))]

    async def test_of_a_commit_whose_outcome_is_unknown_the_ledger_says_what_became_of_it(self, tmp_path: Path) -> None:
        async with self._claimed(tmp_path) as sink:
            await sink.write_and_commit(make_events(3), make_commit(1))
            writing = asyncio.ensure_future(sink.write_and_commit(make_events(3, 3), make_commit(2)))
            await asyncio.sleep(0)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        async with self._opened(tmp_path) as again:
            await again.claim(make_claimant(2))
            _, group = await again.committed()
            assert await self.delivered(tmp_path) == [{"n": n} for n in range(3 * group)]
            if group == 1:
                await again.write_and_commit(make_events(3, 3), make_commit(2, epoch=2))
        assert await self.delivered(tmp_path) == [{"n": n} for n in range(6)]

    async def test_an_event_that_cannot_be_taken_is_named_and_the_others_go_in_with_the_same_commit(self, tmp_path: Path) -> None:
        poison = self.poison()
        if poison is None:
            return
        async with self._claimed(tmp_path) as sink:
            events = make_events(5)
            refused = await _failure(sink.write_and_commit([*events[:2], poison, *events[2:]], make_commit(1, keys=[1])))
            assert isinstance(refused, BatchError)
            assert (set(refused.failed), refused.nothing_delivered) == ({2}, True)
            assert await sink.committed() == (1, 0)
            assert await self.delivered(tmp_path) == []
            await sink.write_and_commit(events, make_commit(1, keys=[1]))
        assert await self.delivered(tmp_path) == [{"n": n} for n in range(5)]

    async def test_closing_twice_or_unopened_does_no_harm(self, tmp_path: Path) -> None:
        sink = self.build(make_context(tmp_path, component="sink"))
        await sink.close()
        await sink.open(None)
        await sink.close()
        await sink.close()
        async with self._claimed(tmp_path) as again:
            assert await again.committed() == (1, 0)


def _crash(crashes: list[str], name: str) -> None:
    crashes.append(name)
    raise Transient("testing.crash", f"the sink died at {name}")


async def _failure(attempt: Any) -> PenstockError:
    try:
        await attempt
    except PenstockError as error:
        return error
    raise AssertionError("the sink took what it should have refused")
