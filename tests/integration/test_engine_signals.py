"""Signals to a run: the source takes them one by one beside its batches; none is lost, decided twice, or ends a run for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from engine_parts import Feed, ListSource, Shelf, finish, make_pipeline, numbers, open_store, part, run_once, sink
from engine_parts import parts as parts
from engine_signal_parts import outcome, running, signals_of
from engine_signal_parts import quick_looks as quick_looks
from waiting import until_async

from penstock import builtins
from penstock.config.model import Pipeline
from penstock.engine.run import Run, RunOptions
from penstock.errors import Fatal, Fenced, Permanent, Transient
from penstock.observe.log import Incident
from penstock.spi import Batch, Signal
from penstock.state.pipeline_records import Version


@dataclass
class Desk(Feed):
    """A feed whose source takes snapshots.

    :ivar answer: what the source does about a signal.
    :ivar ending: where given, waited for when all has been read, before that is said.
    """

    answer: Callable[[Signal], Awaitable[None]] | None = None
    asked: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    ending: asyncio.Event | None = None


class TakingSource(ListSource):
    """Takes `snapshot`."""

    name = "taking"
    signals: ClassVar[frozenset[str]] = frozenset({"snapshot"})
    feed: Desk

    async def batches(self) -> AsyncIterator[Batch]:
        async for batch in super().batches():
            yield batch
        if self.feed.ending is not None:
            await self.feed.ending.wait()

    async def signal(self, signal: Signal) -> None:
        assert signal.kind == "snapshot"
        self.feed.asked.append((signal.id, signal.arguments))
        if self.feed.answer is not None:
            await self.feed.answer(signal)


@pytest.fixture(autouse=True)
def taking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(builtins.SOURCES, "taking", "test_engine_signals:TakingSource")


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def desk() -> Desk:
    return Desk.of(*numbers(4))


@pytest.fixture
def pipeline(tmp_path: Path, desk: Desk, shelf: Shelf) -> Pipeline:
    return make_pipeline(tmp_path, desk, sink("shelf", shelf), source=part("taking", desk))


async def test_signals_are_taken_in_order_one_at_a_time_while_batches_go_on(pipeline: Pipeline, desk: Desk, shelf: Shelf) -> None:
    first = asyncio.Event()

    async def answer(signal: Signal) -> None:
        if signal.arguments == ("a",):
            await first.wait()

    desk.answer = answer
    async with running(pipeline), signals_of(pipeline) as box:
        ids = [await box.send("snapshot", [name], "ann@here") for name in "ab"]
        async with asyncio.timeout(20):
            while not desk.asked:
                await asyncio.sleep(0.01)
        desk.add({"n": 4})
        async with asyncio.timeout(20):
            while len(shelf.ids) < 5:
                await asyncio.sleep(0.01)
        assert desk.asked == [(ids[0], ("a",))]
        waiting = (await box.inbox()).waiting
        assert [(one.id, one.taken_at is not None) for one in waiting] == [(ids[0], True), (ids[1], False)]
        first.set()
        assert [(await outcome(box, identity)).outcome for identity in ids] == ["accepted", "accepted"]
    assert desk.asked == [(ids[0], ("a",)), (ids[1], ("b",))]


async def test_a_refusal_says_why_and_the_run_goes_on(pipeline: Pipeline, desk: Desk) -> None:
    said: list[Incident] = []

    async def answer(signal: Signal) -> None:
        raise Permanent("source.no_table", "there is no table t", why="not in the publication", help="ALTER PUBLICATION …")

    desk.answer = answer
    async with running(pipeline, log=said.append), signals_of(pipeline) as box:
        refused = await outcome(box, await box.send("snapshot", ["t"], "ann@here"))
        desk.answer = None
        accepted = await outcome(box, await box.send("snapshot", ["u"], "ann@here"))
    why = "there is no table t; not in the publication; ALTER PUBLICATION …"
    assert (refused.outcome, refused.why, accepted.outcome) == ("refused", why, "accepted")
    assert [(one.code, one.why) for one in said] == [("signal.refused", why), ("signal.accepted", None)]


@pytest.mark.parametrize(
    ("source", "takes"), [("taking", "the source taking takes snapshot;"), ("list", "the source list takes no signals;")]
)
async def test_what_nobody_takes_is_refused_and_says_what_is_taken(
    pipeline: Pipeline, desk: Desk, source: str, takes: str
) -> None:
    pipeline = make_pipeline(pipeline.project, desk, *pipeline.sinks, source=part(source, desk))
    async with running(pipeline), signals_of(pipeline) as box:
        refused = await outcome(box, await box.send("snapshots", ["t"], "ann@here"))
    assert (refused.outcome, refused.why) == ("refused", f"{takes} every pipeline takes pause and resume")
    assert desk.asked == []


async def test_a_source_that_cannot_take_it_now_is_asked_again(pipeline: Pipeline, desk: Desk) -> None:
    said: list[Incident] = []
    blips = [Transient("server.gone", "reset by peer")] * 2

    async def answer(signal: Signal) -> None:
        if blips:
            raise blips.pop()

    desk.answer = answer
    async with running(pipeline, log=said.append) as run, signals_of(pipeline) as box:
        identity = await box.send("snapshot", ["t"], "ann@here")
        assert (await outcome(box, identity)).outcome == "accepted"
        assert run.status.waiting is None
    assert desk.asked == [(identity, ("t",))] * 3
    assert [one.code for one in said] == ["server.gone", "signal.accepted"]


@pytest.mark.parametrize("error", [Fatal("slot.lost", "the slot is lost"), LookupError("no such thing")])
async def test_one_that_ends_the_run_is_refused_so_that_the_next_run_goes_on(
    pipeline: Pipeline, desk: Desk, error: Exception
) -> None:
    async def answer(signal: Signal) -> None:
        raise error

    desk.answer = answer
    task = asyncio.create_task(Run(pipeline, RunOptions()).execute())
    await until_async(lambda: desk.resumed, task)
    async with signals_of(pipeline) as box:
        await box.send("snapshot", ["t"], "ann@here")
        with pytest.raises(Fatal, match=str(error.args[0])):
            await finish(task)
        [refused] = await box.latest()
    assert (refused.outcome, str(error.args[0]) in (refused.why or "")) == ("refused", True)
    await run_once(pipeline)
    assert len(desk.asked) == 1


async def test_one_that_is_being_taken_when_the_run_ends_is_taken_again_by_the_next(pipeline: Pipeline, desk: Desk) -> None:
    async def answer(signal: Signal) -> None:
        await asyncio.Event().wait()

    desk.answer = answer
    async with running(pipeline) as run, signals_of(pipeline) as box:
        identity = await box.send("snapshot", ["t"], "ann@here")
        async with asyncio.timeout(20):
            while not desk.asked:
                await asyncio.sleep(0.01)
        assert run.status.phase == "running"
    async with signals_of(pipeline) as box:
        assert [one.id for one in (await box.inbox()).waiting] == [identity]
    desk.answer = None
    await run_once(pipeline)
    async with signals_of(pipeline) as box:
        assert [one.outcome for one in await box.latest()] == ["accepted"]
    assert desk.asked == [(identity, ("t",))] * 2


async def test_a_run_that_drains_takes_all_that_waits_and_reads_what_they_ask_for(
    pipeline: Pipeline, desk: Desk, shelf: Shelf
) -> None:
    await run_once(pipeline)

    async def answer(signal: Signal) -> None:
        await asyncio.sleep(0.02)
        desk.add({"table": signal.arguments[0]})

    desk.answer = answer
    async with signals_of(pipeline) as box:
        ids = [await box.send("snapshot", [name], "ann@here") for name in "ab"]
        summary = await run_once(pipeline)
        assert [one.outcome for one in await box.latest()] == ["accepted", "accepted"]
    assert (summary.counts.delivered, len(shelf.ids)) == (2, 6)
    assert [identity for identity, _ in desk.asked] == ids


async def test_a_run_that_drains_reads_what_was_asked_for_just_before_its_end(
    pipeline: Pipeline, desk: Desk, shelf: Shelf
) -> None:
    async def answer(signal: Signal) -> None:
        desk.add({"table": "t"})

    desk.answer, desk.ending = answer, asyncio.Event()
    task = asyncio.create_task(run_once(pipeline))
    await until_async(lambda: len(shelf.ids) == 4, task)
    async with signals_of(pipeline) as box:
        assert (await outcome(box, await box.send("snapshot", ["t"], "ann@here"))).outcome == "accepted"
    desk.ending.set()
    await finish(task)
    assert len(shelf.ids) == 5


async def test_a_run_that_was_fenced_leaves_signals_to_the_newer_one(pipeline: Pipeline, desk: Desk) -> None:
    run = Run(pipeline, RunOptions())
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.phase == "running", task)
    async with open_store(pipeline) as store:
        await store.issue_epoch(Version("v1", "{}", {}, {}, 1.0), above=run.status.epoch)
        identity = await store.signals.send("snapshot", ["t"], "ann@here")
        with pytest.raises(Fenced):
            await finish(task)
        assert [(one.id, one.taken_at) for one in (await store.signals.inbox()).waiting] == [(identity, None)]
    assert desk.asked == []
    await run_once(pipeline)
    assert desk.asked == [(identity, ("t",))]
