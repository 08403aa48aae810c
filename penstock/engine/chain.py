"""The chain: all steps of a pipeline and the conditions of its sinks, compiled once. `batch -> batch`, here or in a worker."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.builtins import load
from penstock.components import build
from penstock.config.model import Pipeline, Step
from penstock.engine.effects import Answering, Effects
from penstock.engine.stages import Stage, decide, nobody
from penstock.engine.tally import Tally
from penstock.event import Event
from penstock.spi import Context, Expressions, Keyed, Program

MakeContext = Callable[[str], Context]


@dataclass(slots=True)
class Chain:
    """All steps of a pipeline, and the conditions of its sinks: what a worker runs.

    :ivar conditions: for each sink its `when`, or None.
    :ivar first_only: `route: first`, an output goes to the first sink that takes it.
    :ivar entering: is told the name of each step before it runs.
    :ivar leaving: is told what each step made, for whoever looks on; it must not change them.
    """

    stages: list[Stage]
    sinks: list[str]
    conditions: list[Program | None]
    first_only: bool
    entering: Callable[[str], None] = nobody
    leaving: Callable[[str, Sequence[Event]], None] | None = None

    def answer_by(self, answering: Answering) -> None:
        """Where steps with effects get their results from; before that is said, nothing in the world is changed."""
        for stage in self.stages:
            if stage.effects is not None:
                stage.effects.answering = answering

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
                if self.leaving is not None:
                    self.leaving(stage.name, events)
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
        effects=_effects(step, expressions),
        keyed=transform.apply_keyed if isinstance(transform, Keyed) else None,
    )


def _effects(step: Step, expressions: Expressions) -> Effects | None:
    if step.effects is None:
        return None
    key = None if step.idempotency_key is None else expressions.program(step.idempotency_key, "data")
    return Effects(step.name, step.effects, key)


def _asked_steps(pipeline: Pipeline) -> set[str]:
    """Names that any program of the pipeline mentions as `$steps.NAME`; all of them where `$steps` is used otherwise."""
    text = pipeline.content
    if "$steps" not in text:
        return set()
    names = set(re.findall(r"\$steps\.([A-Za-z_][A-Za-z0-9_]*)", text)) | set(re.findall(r'\$steps\[\\?"([^"\\]+)', text))
    plain = text.count("$steps")
    named = len(re.findall(r'\$steps(?:\.[A-Za-z_]|\[\\?")', text))
    return names if named == plain else names | {step.name for step in pipeline.steps}
