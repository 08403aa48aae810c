"""What stands for steps in the tests of a pipeline file: they answer as declared, and nothing takes time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.clock import SystemClock
from penstock.config.model import Mock
from penstock.engine.chain import Chain
from penstock.engine.effects import Ask, Effects, Question, keep_nothing
from penstock.engine.tally import Tally
from penstock.errors import ComponentError, Permanent, Transient
from penstock.event import Event
from penstock.spi import Result


@dataclass(slots=True)
class QuickClock:
    """Sleeping takes no time: a test of a step that is tried again for 15 minutes ends at once."""

    system: SystemClock = field(default_factory=SystemClock)
    slept: float = 0.0

    def now(self) -> float:
        return self.system.now()

    def monotonic(self) -> float:
        return self.system.monotonic() + self.slept

    async def sleep(self, seconds: float) -> None:
        self.slept += max(0.0, seconds)
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Stub:
    """Stands for a step: the `Answering` of one with effects, and what others apply."""

    mock: Mock
    timeout: float | None

    def __call__(self, events: Sequence[Event]) -> list[Result]:
        return [self._result(event) for event in events]

    async def answer(self, step: Effects, questions: Sequence[Question], ask: Ask, tally: Tally) -> list[Result]:
        return await ask(questions, keep_nothing)

    def _result(self, event: Event) -> Result:
        failure = self._failure()
        if failure is not None:
            return failure
        output = self.mock.output
        if output is None:
            return None
        if isinstance(output, list):
            return [_made(event, each) for each in output]
        return _made(event, output)

    def _failure(self) -> ComponentError | None:
        error, timeout = self.mock.error, self.timeout
        if timeout is not None and self.mock.delay > timeout:
            return Transient("step.timeout", f"the step took longer than {timeout:g} s")
        if error == "transient":
            return Transient("mock.transient", "the mock of this step fails at every attempt")
        return None if error is None else Permanent("mock.error", f"the mock of this step fails: {error}")


def _made(event: Event, data: Any) -> Event:
    return event.replace(decoded=data)


def put_mocks(mocks: Mapping[str, Mock], chain: Chain) -> None:
    """In the place of the steps of these names; `when`, `set`, `retry` and `on_error` are the step's own."""
    for stage in chain.stages:
        if stage.name in mocks:
            stub = Stub(mocks[stage.name], stage.timeout)
            stage.apply, stage.keyed = stub, None
            if stage.effects is not None:
                stage.effects.answering = stub
