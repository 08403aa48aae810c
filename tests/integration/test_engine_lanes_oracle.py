"""Parked lanes against a plain queue for each key: whatever comes, fails, is mended, replayed, discarded, or dies."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from engine_parts import Feed, Shelf, Table, crash_at, dedup, kept, make_pipeline, open_store, run_once, sink, step
from engine_parts import parts as parts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlq.replay import replay
from penstock.clock import SystemClock
from penstock.config.model import Batching, DeadLetters, EventFields, Pipeline
from penstock.errors import Fatal, Permanent
from penstock.event import Event
from penstock.faults import Faults
from penstock.state.letter_desk import Act
from penstock.state.records import LetterQuery

KEYS = ("a", "b", "c")
POINTS = (
    "after_read", "before_sink_write", "after_sink_write", "before_commit", "inside_commit", "between_ledgers", "before_note",
    "after_note", "before_ack", "before_job_commit", "before_job_note", "after_job_note", "after_job_end",
)  # fmt: skip

arrivals = st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), min_size=1, max_size=6)
operations = st.one_of(
    st.tuples(st.just("add"), arrivals),
    st.tuples(st.just("run"), st.none()),
    st.tuples(st.just("crash"), st.tuples(st.sampled_from(POINTS), st.integers(1, 3))),
    st.tuples(st.just("mend"), st.sampled_from(KEYS)),
    st.tuples(st.just("replay"), st.none()),
    st.tuples(st.just("discard"), st.sampled_from(KEYS)),
)


@dataclass
class Oracle:
    """A queue for each lane. Its first one is tried when the lane moves, and holds it where it fails."""

    waiting: list[tuple[str, str]] = field(default_factory=list)
    lanes: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failed: set[str] = field(default_factory=set)
    delivered: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def move(self, bad: set[str], *, again: bool) -> None:
        """:param again: heads that failed are tried once more."""
        for key, queue in self.lanes.items():
            if again and queue:
                self.failed.discard(queue[0])
            while queue and queue[0] not in self.failed:
                if queue[0] in bad:
                    self.failed.add(queue[0])
                else:
                    self.delivered[key].append(queue.pop(0))

    def read(self) -> None:
        for key, name in self.waiting:
            self.lanes[key].append(name)
        self.waiting.clear()

    def unsettled(self) -> dict[str, str]:
        return {name: "open" if name in self.failed else "parked" for queue in self.lanes.values() for name in queue}


class World:
    def __init__(self, directory: Path, positions: bool, batch: int) -> None:
        self.feed = Feed.of(batch=batch, positions=positions)
        self.table, self.tape = Table(directory / "t.db"), Shelf()
        self.bad: set[str] = set()
        self.keys: dict[str, str] = {}
        self.oracle = Oracle()
        self.pipeline: Pipeline = make_pipeline(
            directory,
            self.feed,
            sink("table", self.table),
            sink("tape", self.tape, "tape"),
            steps=[step("check", self.check)],
            event=EventFields(partition_key=".k"),
            dead_letter=DeadLetters(lane="park"),
            batching=Batching(count=3),
            dedup=None if positions else dedup(),
        )
        self.ran = False

    def check(self, event: Event) -> Any:
        return Permanent("step.bad", "no good") if event.id in self.bad else event

    async def do(self, what: str, how: Any) -> None:
        await getattr(self, what)(how)

    async def add(self, events: Sequence[tuple[str, bool]]) -> None:
        for key, fails in events:
            n = len(self.keys)
            name = f"p{n}"
            self.keys[name] = key
            self.feed.add({"n": n, "k": key})
            self.oracle.waiting.append((key, name))
            if fails:
                self.bad.add(name)

    async def run(self, _: None) -> None:
        await run_once(self.pipeline)
        self.ran = True
        self.oracle.read()
        self.oracle.move(self.bad, again=False)
        await self.compare()

    async def crash(self, where: tuple[str, int]) -> None:
        try:
            await run_once(self.pipeline, faults=crash_at(*where))
        except Fatal as error:
            assert error.code == "test.crash"  # noqa: PT017 - it need not come to that point
        await self.run(None)

    async def mend(self, key: str) -> None:
        self.bad -= {name for name in self.bad if self.keys[name] == key}

    async def replay(self, _: None) -> None:
        if not self.ran:
            return
        await replay(self.pipeline, LetterQuery(status=("open", "parked")), clock=SystemClock(), faults=Faults())
        self.oracle.move(self.bad, again=True)
        await self.compare()

    async def discard(self, key: str) -> None:
        """The head of a lane."""
        queue = self.oracle.lanes[key]
        if not queue:
            return
        letters = {letter.event_id: letter for letter in (await kept(self.pipeline)).letters}
        async with open_store(self.pipeline) as store:
            assert await store.desk.discard([letters[queue[0]].id], ["open", "parked"], Act("ann@here"))
        queue.pop(0)

    async def compare(self) -> None:
        for ids in (self.table.ids, self.tape.ids):
            found = defaultdict(list)
            for name in ids:
                found[self.keys[name]].append(name)
            assert found == {key: names for key, names in self.oracle.delivered.items() if names}
        now = await kept(self.pipeline)
        unsettled = {letter.event_id: letter.status for letter in now.letters if letter.status in ("open", "parked", "replaying")}
        assert unsettled == self.oracle.unsettled()
        assert now.totals.received == len(self.keys) - len(self.oracle.waiting)


async def tell(positions: bool, batch: int, story: Sequence[tuple[str, Any]]) -> None:
    with TemporaryDirectory() as directory:
        world = World(Path(directory), positions, batch)
        for what, how in story:
            await world.do(what, how)
        for key in KEYS:
            await world.mend(key)
        await world.run(None)
        await world.replay(None)
        assert not world.oracle.unsettled()


@pytest.mark.timeout(300)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.booleans(), st.integers(1, 4), st.lists(operations, min_size=3, max_size=12))
def test_each_lane_is_delivered_once_and_in_order_whatever_happens(
    positions: bool, batch: int, story: list[tuple[str, Any]]
) -> None:
    asyncio.run(tell(positions, batch, story))
