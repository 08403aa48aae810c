"""The chain of steps: `batch -> batch`, compiled once, run in this process or in a worker.

A stage wraps one transform with what every step may have: `when`, `set`, `on_error`, a timeout, retries. Its events keep their
`origin`, the index of the received event that they were made from, so that outcomes can be told apart at the end.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.builtins import load
from penstock.components import build
from penstock.config.model import Pipeline, Retry, Step
from penstock.engine.retry import Waits
from penstock.engine.supervise import blaming
from penstock.errors import ComponentError, Fatal, Permanent, Transient, Unavailable
from penstock.event import Event
from penstock.spi import Context, Expressions, Program, Result

MakeContext = Callable[[str], Context]


@dataclass(slots=True)
class Failure:
    """Why the received event `origin` failed, where, and how the event looked then."""

    origin: int
    step: str
    error: ComponentError
    event: Event
    attempts: int = 1


@dataclass(slots=True)
class Tally:
    """What a chain did to a batch besides its outputs."""

    failures: dict[int, Failure] = field(default_factory=dict)
    steps: Counter[tuple[str, str]] = field(default_factory=Counter)
    derived: int = 0

    def fail(self, step: str, event: Event, error: ComponentError, attempts: int = 1) -> None:
        """The first failure of an event is its reason; the event ends here."""
        self.failures.setdefault(event.origin, Failure(event.origin, step, error, event, attempts))
        self.steps[step, "failed"] += 1

    def include(self, inner: Tally, origins: Sequence[int]) -> None:
        """What became of events that were numbered anew for a while; `origins` are their own."""
        for place, failure in inner.failures.items():
            failure.origin = failure.event.origin = origins[place]
            self.failures.setdefault(failure.origin, failure)
        self.steps.update(inner.steps)
        self.derived += inner.derived


def _nobody(what: str | None) -> None:
    """Where nobody asks."""


@dataclass(slots=True)
class Stage:
    """One step, ready to run.

    :ivar keep: a later program asks for its output as `$steps.NAME`.
    :ivar patient: wait without limit for what is `Unavailable`; otherwise only as `retry` says.
    :ivar waiting: is told why the step waits for its next attempt, and None when it goes on.
    """

    name: str
    apply: Callable[[Sequence[Event]], Any]
    on_error: str
    retry: Retry
    when: Program | None = None
    set: Callable[[Sequence[Event]], Any] | None = None
    timeout: float | None = None
    keep: bool = False
    context: Context | None = None
    patient: bool = True
    waiting: Callable[[str | None], None] = _nobody

    async def run(self, events: list[Event], tally: Tally) -> list[Event]:
        """The events that go on, in order. Those that fail or are filtered are told to the tally."""
        if self.when is not None:
            return await self._run_where(events, tally, self.when)
        results = await self._results(events)
        outputs = self._flatten(events, results, tally)
        if self.set is not None:
            results = await self._attempt(self.set, outputs)
            outputs = self._flatten(outputs, results, tally)
        if self.keep:
            for event in outputs:
                event.steps = {**(event.steps or {}), self.name: event.data}
        return outputs

    async def _run_where(self, events: list[Event], tally: Tally, when: Program) -> list[Event]:
        """`when` decides for each event whether the step concerns it; the others pass it by, all in their order."""
        verdicts = decide(when, events)
        chosen = [event for event, verdict in zip(events, verdicts, strict=True) if verdict is True]
        inner, made = Tally(), defaultdict[int, list[Event]](list)
        for output in await replace(self, when=None).run([e.replace(origin=n) for n, e in enumerate(chosen)], inner):
            made[output.origin].append(output)
        tally.include(inner, [event.origin for event in chosen])
        outputs: list[Event] = []
        places = iter(range(len(chosen)))
        for event, verdict in zip(events, verdicts, strict=True):
            if verdict is True:
                for output in made[next(places)]:
                    output.origin = event.origin
                    outputs.append(output)
            elif verdict is False:
                outputs.append(event)
            else:
                tally.fail(self.name, event, verdict)
        return outputs

    async def _results(self, events: Sequence[Event]) -> list[Result]:
        results = await self._attempt(self.apply, events)
        others = [result for result in results if result.__class__ is not Event]
        if any(isinstance(result, Transient) for result in others):
            try:
                await self._try_again(events, results)
            finally:
                self.waiting(None)
        return results

    async def _try_again(self, events: Sequence[Event], results: list[Result]) -> None:
        """Until nothing is `Transient`, or `retry` allows no further attempt."""
        assert self.context is not None
        rng, clock = self.context.random, self.context.clock
        waits = Waits(self.retry, rng, clock)
        while due := self._due(results):
            error = results[due[0]]
            assert isinstance(error, Transient)
            delay = waits.after(error, patient=self.patient)
            if delay is None:
                return
            self.waiting(f"{self.name}: {error}")
            await clock.sleep(delay)
            again = await self._attempt(self.apply, [events[i] for i in due])
            for i, result in zip(due, again, strict=True):
                results[i] = result

    def _due(self, results: Sequence[Result]) -> list[int]:
        """What is tried again next: first all that is waited for without limit, so that it costs nothing else its attempts."""
        gone = [i for i, result in enumerate(results) if isinstance(result, Unavailable)] if self.patient else []
        return gone or [i for i, result in enumerate(results) if isinstance(result, Transient)]

    async def _attempt(self, apply: Callable[[Sequence[Event]], Any], events: Sequence[Event]) -> list[Result]:
        try:
            with blaming(f"step {self.name}"):
                results = apply(events)
                if inspect.isawaitable(results):
                    return await self._within(results, len(events))
                return results  # type: ignore[no-any-return]  # a transform's list of results
        except Unavailable as error:  # raised for all of them
            return [error] * len(events)

    async def _within(self, results: Awaitable[list[Result]], count: int) -> list[Result]:
        if self.timeout is None:
            return await results
        within = asyncio.timeout(self.timeout)
        try:
            async with within:
                return await results
        except TimeoutError:
            if not within.expired():
                raise
            return [Transient("step.timeout", f"the step took longer than {self.timeout:g} s")] * count

    def _flatten(self, events: Sequence[Event], results: list[Result], tally: Tally) -> list[Event]:
        outputs: list[Event] = []
        add = outputs.append
        filtered = 0
        for event, result in zip(events, results, strict=True):
            if result.__class__ is Event:
                add(result)
            elif result is None:
                filtered += 1
            elif result.__class__ is list:
                filtered += self._expand(result, outputs, tally)
            else:
                self._failed(event, result, outputs, tally)  # type: ignore[arg-type]  # what is left is an error
        if filtered:
            tally.steps[self.name, "filtered"] += filtered
        return outputs

    def _expand(self, made: list[Event], outputs: list[Event], tally: Tally) -> int:
        """Several outputs of one event: ids suffixed -0, -1, …. Returns 1 where there are none."""
        if len(made) < 2:
            outputs.extend(made)
            return 0 if made else 1
        tally.derived += len(made)
        for index, event in enumerate(made):
            outputs.append(event.replace(id=f"{event.id}-{index}"))
        return 0

    def _failed(self, event: Event, error: ComponentError, outputs: list[Event], tally: Tally) -> None:
        if isinstance(error, Fatal) or self.on_error == "stop":
            raise stopped(self.name, event, error)
        if self.on_error == "skip":
            tally.steps[self.name, "skipped"] += 1  # Invariant 13: declared by the pipeline, and counted
            outputs.append(event)
            return
        attempts = self.retry.max_attempts if isinstance(error, Transient) else 1
        tally.fail(self.name, event, error, attempts)


def stopped(step: str, event: Event, error: ComponentError) -> Fatal:
    """The reason for a run that stops at an event, as its pipeline declares or because the error is fatal."""
    if isinstance(error, Fatal):
        return error
    return Fatal(
        error.code,
        error.message,
        where=f"step {step}, event {event.source} {event.id}",
        why=error.why or "the pipeline stops at such an event (`stop`)",
        help=error.help or "mend the event's cause and run again: nothing behind it was acknowledged",
    )


def decide(program: Program, events: Sequence[Event]) -> list[bool | ComponentError]:
    """What a predicate says of each event: its one output, neither false nor null, is true."""
    verdicts: list[bool | ComponentError] = []
    for outputs in program(events):
        if outputs.__class__ is not list:
            verdicts.append(outputs)  # type: ignore[arg-type]  # an error, by class
        elif len(outputs) == 1:
            first = outputs[0]
            verdicts.append(first is not None and first is not False)
        elif not outputs:
            verdicts.append(False)
        else:
            verdicts.append(Permanent("when.not_one_value", "the condition gave several values for one event"))
    return verdicts


@dataclass(slots=True)
class Chain:
    """All steps of a pipeline, and the conditions of its sinks: what a worker runs.

    :ivar conditions: for each sink its `when`, or None.
    :ivar first_only: `route: first`, an output goes to the first sink that takes it.
    :ivar entering: is told the name of each step before it runs.
    """

    stages: list[Stage]
    sinks: list[str]
    conditions: list[Program | None]
    first_only: bool
    entering: Callable[[str], None] = _nobody

    @property
    def routes_all(self) -> bool:
        """Whether every sink takes every output."""
        return not any(self.conditions) and (len(self.sinks) == 1 or not self.first_only)

    async def run(self, events: list[Event], tally: Tally) -> tuple[list[Event], list[int] | None]:
        """Outputs in order, and for each a bit mask of the sinks that take it; None where all take all."""
        for stage in self.stages:
            if events:
                self.entering(stage.name)
                events = await stage.run(events, tally)
        routes = None if self.routes_all else self._route(events, tally)
        failed = tally.failures
        if failed and any(event.origin in failed for event in events):  # an event fails whole: no output of it goes on
            kept = [i for i, event in enumerate(events) if event.origin not in failed]
            routes = routes and [routes[i] for i in kept]
            events = [events[i] for i in kept]
        return events, routes

    def _route(self, events: list[Event], tally: Tally) -> list[int]:
        masks = [0] * len(events)
        for bit, (sink, condition) in enumerate(zip(self.sinks, self.conditions, strict=True)):
            places = [i for i, mask in enumerate(masks) if not mask] if self.first_only else range(len(events))
            self.entering(f"{sink}.when")
            asked = [events[i] for i in places]
            verdicts = decide(condition, asked) if condition is not None else [True] * len(asked)
            for i, verdict in zip(places, verdicts, strict=True):
                if verdict is True:
                    masks[i] |= 1 << bit
                elif verdict is not False:
                    tally.fail(f"{sink}.when", events[i], verdict)
        return masks


def compile_chain(steps: Sequence[Step], pipeline: Pipeline, make_context: MakeContext) -> Chain:
    """Build every transform and compile every program. Touches nothing outside the process.

    :raises PenstockError: where a component refuses its configuration.
    """
    expressions = make_context("steps").expressions
    asked = _asked_steps(pipeline)
    stages = [_stage(step, pipeline, make_context(step.name), expressions, step.name in asked) for step in steps]
    conditions = [None if sink.when is None else expressions.program(sink.when, "data") for sink in pipeline.sinks]
    return Chain(stages, [sink.name for sink in pipeline.sinks], conditions, pipeline.route == "first")


def _stage(step: Step, pipeline: Pipeline, context: Context, expressions: Expressions, keep: bool) -> Stage:
    transform = build("transform", step.component, context)
    setter = None
    if step.set:
        kind: Any = load("transforms.set:Set")
        setter = kind(kind.Config.model_validate(dict(step.set)), context).apply
    return Stage(
        name=step.name,
        apply=transform.apply,
        on_error=step.on_error,
        retry=step.retry or pipeline.retry,
        when=None if step.when is None else expressions.program(step.when, "data"),
        set=setter,
        timeout=step.timeout,
        keep=keep,
        context=context,
    )


def _asked_steps(pipeline: Pipeline) -> set[str]:
    """Names that any program of the pipeline mentions as `$steps.NAME`; all of them where `$steps` is used otherwise."""
    text = pipeline.content
    if "$steps" not in text:
        return set()
    names = set(re.findall(r"\$steps\.([A-Za-z_][A-Za-z0-9_]*)", text)) | set(re.findall(r'\$steps\[\\?"([^"\\]+)', text))
    plain = text.count("$steps")
    named = len(re.findall(r'\$steps(?:\.[A-Za-z_]|\[\\?")', text))
    return names if named == plain else names | {step.name for step in pipeline.steps}
