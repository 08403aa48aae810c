"""One step of a pipeline, `batch -> batch`, in this process or in a worker.

A stage wraps one transform with what every step may have: `when`, `set`, `on_error`, a timeout, retries. Its events keep their
`origin`, the index of the received event that they were made from, so that outcomes can be told apart at the end.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from penstock.config.model import Retry
from penstock.engine.effects import Effects, Keep, Question, Unanswered
from penstock.engine.retry import Waits
from penstock.engine.supervise import blaming
from penstock.engine.tally import Tally
from penstock.errors import ComponentError, Fatal, Permanent, Transient, Unavailable
from penstock.event import Event
from penstock.spi import Context, Program, Result

T = TypeVar("T")


def nobody(what: str | None) -> None:
    """Where nobody asks."""


@dataclass(slots=True)
class Stage:
    """One step, ready to run.

    :ivar keep: a later program asks for its output as `$steps.NAME`.
    :ivar patient: wait without limit for what is `Unavailable`; otherwise only as `retry` says.
    :ivar effects: of a step that asks or changes the world; None of one that only computes.
    :ivar keyed: `apply` with an idempotency key for each event, of a transform that can hand it on.
    :ivar origins: of the received events, where this stage's events are numbered anew.
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
    effects: Effects | None = None
    keyed: Callable[[Sequence[Event], Sequence[str]], Any] | None = None
    origins: Sequence[int] | None = None
    waiting: Callable[[str | None], None] = nobody

    async def run(self, events: list[Event], tally: Tally) -> list[Event]:
        """The events that go on, in order. Those that fail or are filtered are told to the tally."""
        if self.when is not None:
            return await self._run_where(events, tally, self.when)
        results = await (self._tried(self.apply, events) if self.effects is None else self._answered(self.effects, events, tally))
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
        inner, made = Tally(answers=tally.answers), defaultdict[int, list[Event]](list)
        stage = replace(self, when=None, origins=[event.origin for event in chosen])
        for output in await stage.run([e.replace(origin=n) for n, e in enumerate(chosen)], inner):
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

    async def _answered(self, effects: Effects, events: Sequence[Event], tally: Tally) -> list[Result]:
        """Of a step with effects: what its `Answering` says."""
        origins = self.origins
        received = [event.origin for event in events] if origins is None else [origins[event.origin] for event in events]
        return await effects.run(events, received, partial(self._tried, self._ask), tally)

    def _ask(self, questions: Sequence[Question]) -> Any:
        events = [question.event for question in questions]
        keys = [question.key for question in questions if question.key is not None]
        return self.keyed(events, keys) if self.keyed is not None and keys else self.apply(events)

    async def _tried(self, apply: Callable[[Sequence[T]], Any], items: Sequence[T], keep: Keep | None = None) -> list[Result]:
        """A result for each item, as `retry` allows.

        :param keep: hears the results of each attempt.
        """
        results = await self._attempt(apply, items)
        if keep is not None:
            await keep(range(len(items)), results)
        others = [result for result in results if result.__class__ is not Event]
        if any(isinstance(result, Transient) for result in others):
            try:
                await self._try_again(apply, items, results, keep)
            finally:
                self.waiting(None)
        return results

    async def _try_again(
        self, apply: Callable[[Sequence[T]], Any], items: Sequence[T], results: list[Result], keep: Keep | None
    ) -> None:
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
            again = await self._attempt(apply, [items[i] for i in due])
            if keep is not None:
                await keep(due, again)
            for i, result in zip(due, again, strict=True):
                results[i] = result

    def _due(self, results: Sequence[Result]) -> list[int]:
        """What is tried again next: first all that is waited for without limit, so that it costs nothing else its attempts."""
        gone = [i for i, result in enumerate(results) if isinstance(result, Unavailable)] if self.patient else []
        return gone or [i for i, result in enumerate(results) if isinstance(result, Transient)]

    async def _attempt(self, apply: Callable[[Sequence[T]], Any], items: Sequence[T]) -> list[Result]:
        try:
            with blaming(f"step {self.name}"):
                results = apply(items)
                if inspect.isawaitable(results):
                    return await self._within(results, len(items))
                return results  # type: ignore[no-any-return]  # a transform's list of results
        except Unavailable as error:  # raised for all of them
            return [error] * len(items)

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
        if isinstance(error, Unanswered):  # nobody knows what the step would make of it, on_error has nothing to say
            tally.unanswered(self.name, event, error)
            return
        if isinstance(error, Fatal) or self.on_error == "stop":
            raise stopped(self.name, event, error)
        if self.on_error == "skip":
            tally.skip(self.name, event, error)
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
