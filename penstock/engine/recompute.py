"""What became of a past event, computed again from its line in the journal: under the pipeline of today, of another file, or of a
stored version (`penstock.engine.versions`). Nothing but the steps is built: no source, no sink, no ledger, no state.

    recompute = Recompute(pipeline)
    for lines in alike(journal):                  # of one moment, a batch at a time
        made = await recompute.run(lines)         # the same chain as the live run's
    trace = await recompute.trace(line)           # one event, step by step (`penstock.engine.trace`)

It starts from the event as the source gave it, so that `event:` is done again; `now` in programs is when it was received. What
only the world knows is taken from the line: why the source could make no event of a record, and what steps with effects were
answered. Where no answer was kept, the event is `unanswered`. Which events are repetitions, and which a sink refuses, is no
matter of the steps, and not computed.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Literal, NamedTuple

from penstock.clock import Clock, SystemClock
from penstock.cloudevents import timestamp
from penstock.config.model import Pipeline
from penstock.engine.assemble import Surroundings, assemble_steps
from penstock.engine.effects import Answering, Unanswered
from penstock.engine.letters import DECODE, SOURCE
from penstock.engine.recalling import Recalling, why_unread
from penstock.engine.stages import nobody
from penstock.engine.tally import Failure, Tally
from penstock.errors import Fatal
from penstock.event import Event
from penstock.faults import Faults
from penstock.journal.lines import Line
from penstock.spi import Batch

BATCH = 500
"""Lines that are computed together."""

Outcome = Literal["delivered", "filtered", "dead_lettered", "stopped", "unanswered"]
"""What the steps make of an event. `stopped`: the run would end at it (`on_error: stop`, or an error that is fatal);
`unanswered`: nobody knows, for a step with effects is not asked now, and no answer of it was kept (rule 14)."""

_NOW = re.compile(r"\bnow\b")

ROUTE = "sinks"
"""Where an event is filtered that every step lets pass and no sink takes."""


Routed = tuple[Event, int]
"""An output, and the bit mask of its sinks; -1 for all of them."""


class Output(NamedTuple):
    """One output, and the names of the sinks that it goes to."""

    event: Event
    sinks: Sequence[str]


@dataclass(frozen=True, slots=True)
class Result:
    """What becomes of one event.

    :ivar outputs: those that some sink takes, in order.
    :ivar step: where it was filtered (`sinks`, where no sink takes it), failed, stopped or got no answer.
    :ivar failure: of one that failed or stopped, or got no answer.
    """

    outcome: Outcome
    outputs: Sequence[Output] = ()
    step: str | None = None
    failure: Failure | None = None


@dataclass(slots=True)
class Recomputed:
    """What becomes of some lines' events; index and `origin` are the line's place among them.

    :ivar received: the events as the source gave them; `filled`: as they went into the steps, or as far as they got.
    :ivar outputs: of all, in order; `routes` has for each the bit mask of the sinks that take it, None for all.
    :ivar tally: failures by origin, counts by step; `stopped`: origins of those failures that would end a run.
    """

    sinks: Sequence[str]
    received: list[Event]
    filled: list[Event]
    outputs: list[Event] = field(default_factory=list)
    routes: list[int] | None = None
    tally: Tally = field(default_factory=Tally)
    stopped: set[int] = field(default_factory=set)
    passed: list[tuple[str, Sequence[Event]]] = field(default_factory=list)
    """What each step let pass, in the order of steps: one entry a step, or one for each event of a batch that was taken apart."""
    entered: int = 0
    """How many of the events went into the first step."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """How long each step took, of all of them together."""

    def for_sink(self, bit: int) -> Sequence[Event]:
        """The outputs that go to one sink."""
        if self.routes is None:
            return self.outputs
        return [event for event, route in zip(self.outputs, self.routes, strict=True) if route >> bit & 1]

    def masks(self) -> Sequence[int]:
        """For each output the bit mask of its sinks; -1 for all of them."""
        return [-1] * len(self.outputs) if self.routes is None else self.routes

    def by_origin(self) -> Mapping[int, Sequence[Routed]]:
        """Each event's outputs, those too that no sink takes; none of an event that has none."""
        found: defaultdict[int, list[Routed]] = defaultdict(list)
        for event, mask in zip(self.outputs, self.masks(), strict=True):
            found[event.origin].append((event, mask))
        return found

    def results(self) -> list[Result]:
        """Each event's own, in the order of lines."""
        made: dict[int, list[Output]] = defaultdict(list)
        named: dict[int, Sequence[str]] = {-1: self.sinks, 0: ()}
        for event, mask in zip(self.outputs, self.masks(), strict=True):
            if mask not in named:
                named[mask] = [sink for bit, sink in enumerate(self.sinks) if mask >> bit & 1]
            if mask:
                made[event.origin].append(Output(event, named[mask]))
        return [self._result(origin, made.get(origin)) for origin in range(len(self.received))]

    def _result(self, origin: int, outputs: list[Output] | None) -> Result:
        outcome = self.outcome(origin)
        if outcome is not None:
            failure = self.tally.failures[origin]
            return Result(outcome, (), failure.step, failure)
        if outputs is not None:
            return Result("delivered", outputs)
        return Result("filtered", step=self.filtered_by(origin))

    def outcome(self, origin: int) -> Outcome | None:
        """Of an event that did not get through the steps; None of any other."""
        failure = self.tally.failures.get(origin)
        if failure is None:
            return None
        if isinstance(failure.error, Unanswered):
            return "unanswered"
        return "stopped" if origin in self.stopped else "dead_lettered"

    def filtered_by(self, origin: int) -> str:
        """The step at which a filtered event ended, or `sinks`."""
        return next((step for step, events in self.passed if all(event.origin != origin for event in events)), ROUTE)


class Recompute:
    """A pipeline's steps, to send past events through. Its calls come one after the other.

    :param doubts: by step, why what it makes now may differ from what it made then; told with its trace.
    :param answering: of steps with effects; by default the journal's lines. A live backfill asks the world.
    :ivar entering: is told the name of each step before `run` runs it.
    :raises PenstockError: where a step refuses its configuration.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        doubts: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        answering: Answering | None = None,
    ) -> None:
        clock = clock or SystemClock()
        steps = assemble_steps(pipeline, Surroundings(clock, random.Random(), Faults()), has_positions=True)
        self.pipeline = pipeline
        self.doubts = doubts or {}
        self.clock = clock
        self.entering: Callable[[str], None] = nobody
        self.chain = steps.chain
        self._moment, self._preparer = steps.moment, steps.preparer
        self._keys = steps.keys if pipeline.dedup is not None and pipeline.dedup.key is not None else None
        recalling = Recalling()
        self._recalling = recalling if answering is None else None
        self.chain.answer_by(answering or recalling)
        for stage in self.chain.stages:
            stage.patient = False

    async def run(self, lines: Sequence[Line]) -> Recomputed:
        """What becomes of these events, computed together.

        :param lines: of one moment (`at`): see `alike`. No corrections.
        :raises Permanent: a line holds no CloudEvent.
        :raises Fatal: where the world is asked, what would end a run.
        """
        made, events = self.prepared(lines)
        watch = _Watch(made, self.clock, self.entering)
        self.chain.entering, self.chain.leaving = watch.enter, watch.leave
        try:
            made.outputs, made.routes = await self.chain.run(events, made.tally)
        except Fatal:
            if self._recalling is None:  # what the world was asked it is not asked again
                raise
            self._recalling.begin(lines)
            await self._each_alone(events, made, watch)
        finally:
            self.chain.entering, self.chain.leaving = nobody, None
        return made

    def begin(self, line: Line) -> tuple[Recomputed, list[Event]]:
        """One event before its first step: none, where it did not get there. For whoever runs the chain on its own."""
        return self.prepared([line])

    def prepared(self, lines: Sequence[Line]) -> tuple[Recomputed, list[Event]]:
        """Some events before their first step, and those of them that get there. For whoever runs the steps elsewhere."""
        self._moment.at = timestamp(lines[0].at)
        if self._recalling is not None:
            self._recalling.begin(lines)
        received = [line.received() for line in lines]
        made = Recomputed(self.chain.sinks, received, list(received))
        ready: list[Event] = []
        for origin, (line, event) in enumerate(zip(lines, received, strict=True)):
            event.origin = origin
            if line.outcome == "dead_lettered" and line.step in (SOURCE, DECODE):
                made.tally.fail(line.step, event, why_unread(line))
            else:
                ready.append(event)
        events = self._preparer.prepare(ready, made.tally, {})
        for event in events:
            made.filled[event.origin] = event
        if self._keys is not None:
            self._keys.of(Batch(lines[0].partition, []), events, made.tally)
        if made.tally.failures:
            events = [event for event in events if event.origin not in made.tally.failures]
        made.entered = len(events)
        return made, events

    async def _each_alone(self, events: Sequence[Event], made: Recomputed, watch: _Watch) -> None:
        """At one of these the run would stop, and nobody knows at which: its neighbours are computed all the same."""
        made.tally.steps.clear()
        made.tally.derived = 0
        made.passed.clear()
        made.tally.answers.clear()
        made.tally.failures = {n: failure for n, failure in made.tally.failures.items() if failure.step not in self._steps()}
        outputs: list[Event] = []
        routes: list[int] = []
        for event in events:
            try:
                more, masks = await self.chain.run([event], made.tally)
            except Fatal as error:
                made.tally.fail(watch.step, event, error)
                made.stopped.add(event.origin)
                continue
            outputs += more
            routes += [-1] * len(more) if masks is None else masks
        made.outputs, made.routes = outputs, None if self.chain.routes_all else routes

    def _steps(self) -> set[str]:
        return {stage.name for stage in self.chain.stages} | {f"{sink}.when" for sink in self.chain.sinks}


@dataclass(slots=True)
class _Watch:
    """Looks on while a chain runs."""

    made: Recomputed
    clock: Clock
    told: Callable[[str], None]
    step: str = ""
    begun: float = 0.0

    def enter(self, step: str) -> None:
        self.told(step)
        self.step, self.begun = step, self.clock.monotonic()

    def leave(self, step: str, passed: Sequence[Event]) -> None:
        self.made.seconds[step] += self.clock.monotonic() - self.begun
        self.made.passed.append((step, passed))


def alike(lines: Iterable[Line], count: int = BATCH) -> Iterator[list[Line]]:
    """Runs of lines that can be computed together, in order: of one moment and partition, `count` at most. Corrections are left
    out."""
    events = (line for line in lines if line.is_event)
    for _, group in groupby(events, lambda line: (line.at, line.partition, line.version)):
        while batch := list(islice(group, count)):
            yield batch


def batching(pipelines: Sequence[Pipeline]) -> Callable[[Iterable[Line]], Iterator[list[Line]]]:
    """How lines are put together: those of one moment; where no program asks for `now`, all that one version handled."""
    return alike if any(asks_now(pipeline.content) for pipeline in pipelines) else of_one_version


def asks_now(content: str) -> bool:
    """Whether a program of a pipeline may ask for the moment, as far as its content tells (`Pipeline.content`)."""
    return _NOW.search(content) is not None


def of_one_version(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """As `alike`, whatever moment they are of."""
    for _, group in groupby(lines, lambda line: line.version):
        while batch := list(islice(group, BATCH)):
            yield batch
