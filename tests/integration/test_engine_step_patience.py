"""A step whose resource is gone for now is waited for, however long; nothing is lost or passed by meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_parts import PLACE, Feed, Shelf, kept, make_pipeline, numbers, pass_time, run_once, sink, step
from engine_parts import parts as parts
from waiting import until_async

from penstock.config.model import Component, Limits, Retry, Step
from penstock.engine.preview import try_event
from penstock.engine.run import Run, RunOptions
from penstock.errors import Transient, Unavailable
from penstock.event import Event
from penstock.ledger import Counts
from penstock.observe.log import Incident
from penstock.testing.clock import FakeClock
from transforms.python import PythonConfig

SHORT = Retry(max_attempts=2, initial_delay=1.0)


class Lookup:
    """A step that needs a file which is not always there: `gone` says how many more calls find nothing, for which events."""

    def __init__(self, gone: int, *ids: str, raises: bool = False) -> None:
        self.gone, self.ids, self.raises = gone, ids, raises
        self.calls: list[list[str]] = []

    def __call__(self, events: Sequence[Event]) -> list[Any]:
        self.calls.append([event.id for event in events])
        if self.gone == 0:
            return list(events)
        self.gone -= 1
        error = Unavailable("lookup.gone", "the table is not there")
        if self.raises:
            raise error
        return [error if event.id in self.ids else event for event in events]


class Later(Lookup):
    """The same, answering as a coroutine does."""

    async def __call__(self, events: Sequence[Event]) -> list[Any]:  # type: ignore[override]  # a step may be either
        return super().__call__(events)


@pytest.mark.parametrize("kind", [Lookup, Later])
@pytest.mark.parametrize("raises", [False, True], ids=["returned", "raised"])
@pytest.mark.parametrize("when", [None, "true"], ids=["always", "under a condition"])
async def test_what_a_step_needs_is_waited_for_without_limit(
    tmp_path: Path, kind: type[Lookup], raises: bool, when: str | None
) -> None:
    lookup, shelf, clock = kind(50, "p1", raises=raises), Shelf(), FakeClock()
    steps = [step("look", lookup, batched=True, retry=SHORT, when=when)]
    pipeline = make_pipeline(tmp_path, Feed.of(*numbers(4)), sink("shelf", shelf), steps=steps)
    task = asyncio.create_task(Run(pipeline, RunOptions(once=True, clock=clock)).execute())
    await pass_time(clock, task)
    summary = await task
    assert (shelf.ids, summary.counts) == ([f"p{n}" for n in range(4)], Counts(4, 4))
    assert (await kept(pipeline)).letters == []
    again = ["p0", "p1"] if raises else ["p1"]
    assert lookup.calls == [["p0", "p1"], *[again] * 50, ["p2", "p3"]]


@pytest.mark.parametrize("on_error", ["skip", "stop"])
async def test_no_policy_for_failures_applies_to_what_is_only_waited_for(tmp_path: Path, on_error: str) -> None:
    shelf, clock = Shelf(), FakeClock()
    steps = [step("look", Lookup(9, "p0"), batched=True, retry=SHORT, on_error=on_error)]
    pipeline = make_pipeline(tmp_path, Feed.of(*numbers(2)), sink("shelf", shelf), steps=steps)
    task = asyncio.create_task(Run(pipeline, RunOptions(once=True, clock=clock)).execute())
    await pass_time(clock, task)
    summary = await task
    assert (shelf.ids, summary.counts) == (["p0", "p1"], Counts(2, 2))


async def test_a_wait_does_not_use_up_the_attempts_of_what_fails_beside_it(tmp_path: Path) -> None:
    calls: list[list[str]] = []

    def ask(events: Sequence[Event]) -> list[Any]:
        calls.append([event.id for event in events])
        gone = Unavailable("ask.gone", "gone") if len(calls) < 20 else None
        return [(gone or event) if event.id == "p0" else Transient("ask.down", "down") for event in events]

    shelf, clock = Shelf(), FakeClock()
    pipeline = make_pipeline(
        tmp_path, Feed.of(*numbers(2)), sink("shelf", shelf), steps=[step("ask", ask, batched=True, retry=SHORT)]
    )  # fmt: skip
    await pass_time(clock, asyncio.create_task(Run(pipeline, RunOptions(once=True, clock=clock)).execute()))
    assert calls == [["p0", "p1"], *[["p0"]] * 19, ["p1"]]
    assert (shelf.ids, [(letter.event_id, letter.attempts) for letter in (await kept(pipeline)).letters]) == (["p0"], [("p1", 2)])


async def test_meanwhile_no_more_is_read_than_the_limits_allow_and_a_stop_ends_the_run(tmp_path: Path) -> None:
    feed, shelf, clock, said = Feed.of(*numbers(40)), Shelf(), FakeClock(), list[Incident]()
    pipeline = make_pipeline(
        tmp_path, feed, sink("shelf", shelf), steps=[step("look", Lookup(-1, *(f"p{n}" for n in range(40))), batched=True)],
        limits=Limits(in_flight_events=6),
    )  # fmt: skip
    run = Run(pipeline, RunOptions(clock=clock, log=said.append))
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.in_flight_events == 6, task)
    await clock.advance(100)
    assert (feed.read <= 8, shelf.ids, run.status.in_flight_events) == (True, [], 6)
    run.stop()
    await until_async(lambda: run.status.phase == "draining", task)
    await clock.advance(pipeline.shutdown_timeout)
    summary = await asyncio.wait_for(task, 20)
    assert (summary.counts, feed.acked, [incident.code for incident in said]) == (
        Counts(),
        [],
        ["run.waiting", "shutdown.timeout"],
    )


async def test_a_worker_waits_too_and_its_time_does_not_run_out_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "lookup_steps.py").write_text(GONE_FOR_A_WHILE)
    look = Step("look", Component("python", PythonConfig(call="lookup_steps:look"), PLACE), named=True, retry=SHORT)
    shelf = Shelf()
    pipeline = make_pipeline(
        tmp_path, Feed.of(*numbers(3)), sink("shelf", shelf), steps=[look], workers=1, transform_timeout=0.3
    )  # fmt: skip
    summary = await run_once(pipeline)
    assert (shelf.ids, summary.counts, (tmp_path / "tries").stat().st_size) == (["p0", "p1", "p2"], Counts(3, 3), 7)


GONE_FOR_A_WHILE = """
from pathlib import Path
from penstock.errors import Unavailable

def look(data):
    tries = Path(__file__).with_name("tries")
    with tries.open("a") as file:
        file.write(".")
    if tries.stat().st_size <= 4:
        raise Unavailable("lookup.gone", "the table is not there")
    return data
"""


async def test_looking_at_one_event_does_not_wait_without_limit(tmp_path: Path) -> None:
    look = step("look", Lookup(-1, "0"), batched=True, retry=Retry(max_attempts=2, initial_delay=0.0))
    pipeline = make_pipeline(tmp_path, Feed.of(*numbers(1)), sink("shelf", Shelf()), steps=[look])
    traces = await asyncio.wait_for(try_event(pipeline, {"n": 0}), 20)
    assert [(trace.name, trace.error and trace.error.code) for trace in traces] == [("event", None), ("look", "lookup.gone")]
