"""One past event, step by step: what went into each step, what came out, what happened, and where the outputs went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from penstock.cloudevents import attributes_json
from penstock.engine.effects import Unanswered
from penstock.engine.prepare import canonical
from penstock.engine.recompute import Recompute, Recomputed, Result
from penstock.engine.tally import Failure
from penstock.errors import ComponentError, Fatal
from penstock.event import Event
from penstock.journal.lines import Line

Happened = Literal["unchanged", "changed", "split", "filtered", "skipped", "failed", "stopped", "unanswered"]
"""What a step did. `filtered`: fewer outputs than inputs, none most often; `skipped`: it failed, and `on_error: skip` let the
event go on without it; `stopped`: it failed, and a run would end there; `unanswered`: it has effects, and no answer was kept."""

EVENT = "event"


@dataclass(frozen=True, slots=True)
class TracedStep:
    """One step: of the pipeline, or of what comes before (`source`, `decode`, `event`, `dedup`).

    :ivar kind: of its component; None of what is no transform.
    :ivar seconds: it took, now and here.
    :ivar error: why it failed, or was skipped.
    :ivar doubt: why it may have done something else then.
    """

    name: str
    kind: str | None
    inputs: Sequence[Event]
    outputs: Sequence[Event]
    happened: Happened
    seconds: float = 0.0
    error: ComponentError | None = None
    doubt: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One sink, and which outputs of the last step it takes, by index.

    :ivar when: its condition; None: it takes all, or all that the sinks before it left (`route: first`).
    """

    sink: str
    kind: str
    when: str | None
    taken: Sequence[int]


@dataclass(frozen=True, slots=True)
class Trace:
    """What becomes of one event.

    :ivar received: as the source gave it.
    :ivar steps: those that it got to, in order.
    :ivar routes: of all sinks; none where the event failed.
    """

    received: Event
    steps: Sequence[TracedStep]
    routes: Sequence[Route]
    result: Result
    made: Recomputed


async def trace(recompute: Recompute, line: Line) -> Trace:
    """Send the event of a line through the steps, and write down what each does.

    :raises Permanent: the line holds no CloudEvent (a correction does not).
    """
    watch = _Watch(recompute)
    clock, started = recompute.clock, recompute.clock.monotonic()
    made, events = recompute.begin(line)
    watch.began(made, clock.monotonic() - started)
    await watch.run(made, events)
    [result] = made.results()
    routes = [] if result.failure is not None else _routes(recompute, made)
    return Trace(made.received[0], watch.steps, routes, result, made)


def _routes(recompute: Recompute, made: Recomputed) -> list[Route]:
    masks = made.masks()
    return [
        Route(sink.name, sink.component.kind, sink.when, [n for n, mask in enumerate(masks) if mask >> bit & 1])
        for bit, sink in enumerate(recompute.pipeline.sinks)
    ]


@dataclass(slots=True)
class _Watch:
    """Looks on while the chain runs."""

    recompute: Recompute
    steps: list[TracedStep] = field(default_factory=list)
    _inputs: Sequence[Event] = ()
    _entered: str = ""
    _since: float = 0.0

    def began(self, made: Recomputed, seconds: float) -> None:
        """What happened before the first step, where anything did."""
        failure, filled = made.tally.failures.get(0), made.filled[0]
        self._inputs = [filled]
        if failure is not None:
            self._add(failure.step, [made.received[0]], [], "failed", seconds, failure.error)
        elif filled is not made.received[0]:
            happened: Happened = "unchanged" if same(made.received[0], filled) else "changed"
            self._add(EVENT, [made.received[0]], [filled], happened, seconds)

    async def run(self, made: Recomputed, events: list[Event]) -> None:
        """The chain itself; a step at which a run would stop is the last one."""
        chain = self.recompute.chain
        entering = chain.entering
        chain.entering, chain.leaving = self._enter, lambda step, outputs: self._left(step, outputs, made)
        try:
            made.outputs, made.routes = await chain.run(events, made.tally)
        except Fatal as error:
            seconds = self.recompute.clock.monotonic() - self._since
            self._add(self._entered, self._inputs, [], "stopped", seconds, error)
            made.tally.failures[0] = Failure(0, self._entered, error, self._inputs[0])
            made.stopped.add(0)
        finally:
            chain.entering, chain.leaving = entering, None
        failure = made.tally.failures.get(0)
        if failure is not None and failure.step not in [step.name for step in self.steps]:  # a sink's `when`
            self._add(failure.step, self._inputs, [], "failed", 0.0, failure.error)

    def _enter(self, step: str) -> None:
        self._entered, self._since = step, self.recompute.clock.monotonic()

    def _left(self, step: str, outputs: Sequence[Event], made: Recomputed) -> None:
        seconds = self.recompute.clock.monotonic() - self._since
        made.passed.append((step, outputs))
        failure, skipped = made.tally.failures.get(0), made.tally.skipped.get((step, 0))
        if failure is not None and failure.step == step:
            happened: Happened = "unanswered" if isinstance(failure.error, Unanswered) else "failed"
            self._add(step, self._inputs, outputs, happened, seconds, failure.error)
        elif skipped is not None:
            self._add(step, self._inputs, outputs, "skipped", seconds, skipped)
        else:
            self._add(step, self._inputs, outputs, _happened(self._inputs, outputs), seconds)
        self._inputs = outputs

    def _add(
        self,
        name: str,
        inputs: Sequence[Event],
        outputs: Sequence[Event],
        happened: Happened,
        seconds: float,
        error: ComponentError | None = None,
    ) -> None:
        kind = next((step.component.kind for step in self.recompute.pipeline.steps if step.name == name), None)
        doubt = self.recompute.doubts.get(name)
        self.steps.append(TracedStep(name, kind, inputs, outputs, happened, seconds, error, doubt))


def _happened(inputs: Sequence[Event], outputs: Sequence[Event]) -> Happened:
    if len(outputs) < len(inputs):
        return "filtered"
    if len(outputs) > len(inputs):
        return "split"
    return "unchanged" if all(map(same, inputs, outputs)) else "changed"


def same(before: Event, after: Event) -> bool:
    """Whether two events say the same: attributes and data, however its text is written. 1 and 1.0 are not the same."""
    if before is after:
        return True
    if attributes_json(before) != attributes_json(after):
        return False
    old, new = before.data, after.data
    if old.__class__ is bytes or new.__class__ is bytes:
        return bool(old.__class__ is new.__class__ and old == new)
    return canonical(old) == canonical(new)
