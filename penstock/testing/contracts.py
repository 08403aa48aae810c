"""Contract suites: what every source and every sink must hold to, as tests that a plugin's author subclasses.

    class TestMySource(SourceContract):
        def prepare(self, directory, count): ...
        def build(self, context): ...

A suite says nothing about a connector's own features. Subclass it in a test module under a name that pytest collects; async tests
need `pytest-asyncio` in auto mode. A test that cannot apply is overridden with a `pytest.skip` that carries the reason.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.clock import Clock, SystemClock
from penstock.errors import BatchError, UsageError
from penstock.event import Event
from penstock.faults import Faults
from penstock.spi import (
    Batch,
    Context,
    Expressions,
    FieldsProgram,
    Notes,
    Position,
    Program,
    RangeSource,
    Resume,
    Revertible,
    Sink,
    Source,
    View,
)

DEADLINE = 10.0
"""Seconds that one step of a suite may take."""


class NoExpressions:
    """An `Expressions` for components that use none."""

    def program(self, text: str, view: View) -> Program:
        """:raises UsageError: always."""
        raise UsageError("testing.no_expressions", f"this context compiles no programs: {text!r}")

    def fields(self, fields: Mapping[str, str], view: View) -> FieldsProgram:
        """:raises UsageError: always."""
        raise UsageError("testing.no_expressions", f"this context compiles no programs: {dict(fields)!r}")


def make_context(
    project: Path,
    *,
    pipeline: str = "test",
    component: str = "component",
    expressions: Expressions | None = None,
    clock: Clock | None = None,
    faults: Faults | None = None,
    log: Notes | None = None,
) -> Context:
    """A `Context` whose project and directory are `project`, with the same random numbers every time."""
    context = Context(
        pipeline=pipeline,
        component=component,
        project=project,
        directory=project,
        expressions=expressions or NoExpressions(),
        clock=clock or SystemClock(),
        random=random.Random(0),
        faults=faults or Faults(),
    )
    return context if log is None else replace(context, log=log)


def make_events(count: int, first: int = 0) -> list[Event]:
    """Events with the data `{"n": …}`, ids and positions in order."""
    return [
        Event(str(n), "test:contract", "contract.record", raw=b'{"n":%d}' % n, position=n.to_bytes(8, "big"))
        for n in range(first, first + count)
    ]


async def read_all(source: Source, positions: Mapping[str, Position] | None = None, *, epoch: int = 1) -> list[Batch]:
    """Open the source at these positions, read all that is there now, acknowledge it, close."""
    await source.open(Resume(epoch, positions or {}, once=True))
    try:
        async with asyncio.timeout(DEADLINE):
            batches = [batch async for batch in source.batches()]
            await source.ack([batch.token for batch in batches])
    finally:
        await source.close()
    return batches


def events_of(batches: Sequence[Batch]) -> list[Event]:
    """The events of all batches, in order of reading."""
    return [event for batch in batches for event in batch.events]


def _placed(batches: Sequence[Batch]) -> list[tuple[str, str, str, bytes, Any]]:
    """Events with their partitions and positions, sorted: in which order a range comes is the source's matter."""
    found = [
        (batch.partition, event.source, event.id, event.position, event.data)
        for batch in batches
        for place, event in enumerate(batch.events)
        if place not in batch.rejects
    ]
    return sorted(found, key=lambda each: each[:4])


class SourceContract:
    """What every source holds to. Override `prepare` and `build`."""

    COUNT = 25

    async def prepare(self, directory: Path, count: int) -> None:
        """Make what the source reads, so that it gives `count` good records; called once a test, before `build`."""
        raise AssertionError("a source contract says what there is to read")

    def build(self, context: Context) -> Source:
        """A new source over what was prepared, as if in a new process; with small batches, where it can be told so."""
        raise AssertionError("a source contract builds a source")

    async def _batches(self, directory: Path, positions: Mapping[str, Position] | None = None) -> list[Batch]:
        return await read_all(self.build(make_context(directory, component="source")), positions)

    async def test_every_record_becomes_one_event_with_an_id_of_its_own(self, tmp_path: Path) -> None:
        await self.prepare(tmp_path, self.COUNT)
        events = events_of(await self._batches(tmp_path))
        assert len(events) == self.COUNT
        assert len({(event.source, event.id) for event in events}) == self.COUNT
        assert all(event.type and event.source for event in events)

    async def test_positions_rise_strictly_within_a_partition_and_end_with_the_batch(self, tmp_path: Path) -> None:
        await self.prepare(tmp_path, self.COUNT)
        source = self.build(make_context(tmp_path, component="source"))
        last: dict[str, bytes] = {}
        for batch in await read_all(source):
            if not source.has_positions:
                assert batch.end is None
                assert all(event.position == b"" for event in batch.events)
                continue
            assert batch.end is not None
            for event in batch.events:
                assert last.get(batch.partition, b"") < event.position <= batch.end.order
                last[batch.partition] = event.position
            assert last.get(batch.partition, b"") <= batch.end.order
            last[batch.partition] = batch.end.order

    async def test_reading_again_gives_the_same_events_in_the_same_order(self, tmp_path: Path) -> None:
        await self.prepare(tmp_path, self.COUNT)
        source = self.build(make_context(tmp_path, component="source"))
        first = events_of(await read_all(source))
        if source.has_positions:
            again = events_of(await self._batches(tmp_path))
            assert [(e.source, e.id, e.position, e.data) for e in again] == [(e.source, e.id, e.position, e.data) for e in first]

    async def test_a_range_without_bounds_is_all_that_was_read_under_the_same_ids_and_positions(self, tmp_path: Path) -> None:
        await self.prepare(tmp_path, self.COUNT)
        source = self.build(make_context(tmp_path, component="source"))
        if not isinstance(source, RangeSource):
            return
        whole = await read_all(source)
        again = self.build(make_context(tmp_path, component="source"))
        assert isinstance(again, RangeSource)
        known = {batch.partition: batch.end for batch in whole if batch.end is not None}
        assert _placed([batch async for batch in again.read_range(None, known)]) == _placed(whole)

    async def test_resuming_after_any_batch_gives_exactly_the_rest(self, tmp_path: Path) -> None:
        await self.prepare(tmp_path, self.COUNT)
        source = self.build(make_context(tmp_path, component="source"))
        whole = await read_all(source)
        if not source.has_positions:
            return
        positions: dict[str, Position] = {}
        for done, batch in enumerate(whole, 1):
            assert batch.end is not None
            positions[batch.partition] = batch.end
            rest = events_of(await self._batches(tmp_path, dict(positions)))
            assert [e.id for e in rest] == [e.id for e in events_of(whole[done:])]

    async def test_the_identity_is_the_same_from_run_to_run(self, tmp_path: Path) -> None:
        await self.prepare(tmp_path, 1)
        context = make_context(tmp_path, component="source")
        assert self.build(context).identity == self.build(context).identity

    async def test_a_reader_that_is_cancelled_leaves_a_source_that_closes_and_can_be_read_again(self, tmp_path: Path) -> None:
        await self.prepare(tmp_path, self.COUNT)
        source = self.build(make_context(tmp_path, component="source"))
        await source.open(Resume(1, {}, once=True))
        batches = source.batches()
        await anext(batches)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(DEADLINE):
            await source.close()
        if source.has_positions:
            assert len(events_of(await self._batches(tmp_path))) == self.COUNT

    async def test_release_and_repeated_close_do_no_harm(self, tmp_path: Path) -> None:
        await self.prepare(tmp_path, self.COUNT)
        source = self.build(make_context(tmp_path, component="source"))
        await source.close()
        await source.open(Resume(1, {}, once=True))
        await source.release([], 0.0)
        await source.close()
        await source.close()
        if source.has_positions:
            assert len(events_of(await self._batches(tmp_path))) == self.COUNT


class SinkContract:
    """What every sink holds to that keeps no ledger of its own. Override `build` and `delivered`; `poison` where there is any.

    `durable` is False for sinks that cannot take back what was written (a pipe), or show it again in a new process.
    """

    durable = True

    def build(self, context: Context) -> Sink:
        """A new sink over the same target, as if in a new process."""
        raise AssertionError("a sink contract builds a sink")

    async def delivered(self, sink: Sink, directory: Path) -> list[Any]:
        """The data that arrived, in order. The sink may be open or closed."""
        raise AssertionError("a sink contract says what was delivered")

    def poison(self) -> Event | None:
        """An event that this sink can never take; None where there is none."""
        return None

    def _sink(self, directory: Path) -> Sink:
        return self.build(make_context(directory, component="sink"))

    async def test_events_arrive_once_and_in_order(self, tmp_path: Path) -> None:
        sink = self._sink(tmp_path)
        await sink.open(None)
        await sink.flush()
        for first in range(0, 30, 10):
            await sink.write(make_events(10, first))
            await sink.flush()
        assert await self.delivered(sink, tmp_path) == [{"n": n} for n in range(30)]
        await sink.close()

    async def test_an_empty_write_and_a_repeated_flush_change_nothing(self, tmp_path: Path) -> None:
        sink = self._sink(tmp_path)
        await sink.open(None)
        await sink.write(make_events(3))
        state = await sink.flush()
        await sink.write([])
        assert await sink.flush() == state
        assert await self.delivered(sink, tmp_path) == [{"n": n} for n in range(3)]
        await sink.close()

    async def test_a_new_process_takes_back_what_was_never_committed(self, tmp_path: Path) -> None:
        if not self.durable:
            return
        first = self._sink(tmp_path)
        await first.open(None)
        await first.write(make_events(5))
        committed = await first.flush()
        await first.write(make_events(5, 5))
        await first.flush()
        await first.close()
        second = self._sink(tmp_path)
        await second.open(committed)
        assert await self.delivered(second, tmp_path) == [{"n": n} for n in range(5)]
        await second.write(make_events(5, 5))
        await second.flush()
        assert await self.delivered(second, tmp_path) == [{"n": n} for n in range(10)]
        await second.close()

    async def test_rollback_takes_back_everything_since_the_last_flush(self, tmp_path: Path) -> None:
        sink = self._sink(tmp_path)
        if not isinstance(sink, Revertible):
            return
        await sink.open(None)
        await sink.write(make_events(5))
        await sink.flush()
        await sink.write(make_events(5, 100))
        await sink.rollback()
        await sink.rollback()
        await sink.write(make_events(5, 5))
        await sink.flush()
        assert await self.delivered(sink, tmp_path) == [{"n": n} for n in range(10)]
        await sink.close()

    async def test_an_event_that_cannot_be_taken_is_named_and_costs_no_other(self, tmp_path: Path) -> None:
        poison = self.poison()
        if poison is None:
            return
        sink = self._sink(tmp_path)
        await sink.open(None)
        events = make_events(5)
        events[2] = poison
        error = await self._failure(sink, events)
        assert set(error.failed) == {2}
        assert set(error.not_attempted) <= {3, 4}
        left = range(5) if error.nothing_delivered else error.not_attempted
        await sink.write([events[n] for n in left if n != 2])
        await sink.flush()
        assert await self.delivered(sink, tmp_path) == [{"n": n} for n in (0, 1, 3, 4)]
        await sink.close()

    async def _failure(self, sink: Sink, events: Sequence[Event]) -> BatchError:
        try:
            await sink.write(events)
        except BatchError as error:
            return error
        raise AssertionError("the sink took an event that it should have refused")

    async def test_a_write_that_is_cancelled_leaves_a_sink_that_closes(self, tmp_path: Path) -> None:
        sink = self._sink(tmp_path)
        await sink.open(None)
        await sink.write(make_events(3))
        committed = await sink.flush()
        writing = asyncio.ensure_future(sink.write(make_events(3, 3)))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        async with asyncio.timeout(DEADLINE):
            await sink.close()
        if self.durable:
            again = self._sink(tmp_path)
            await again.open(committed)
            assert await self.delivered(again, tmp_path) == [{"n": n} for n in range(3)]
            await again.close()

    async def test_closing_twice_or_unopened_does_no_harm(self, tmp_path: Path) -> None:
        sink = self._sink(tmp_path)
        await sink.close()
        await sink.open(None)
        await sink.close()
        await sink.close()
        assert await self.delivered(sink, tmp_path) == []
