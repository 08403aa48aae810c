"""The sinks that a verification looks into: their inspections are told what they should show, and asked what they lack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from penstock.builtins import room
from penstock.components import build
from penstock.config.model import Pipeline
from penstock.engine.assemble import Surroundings, make_context
from penstock.engine.recompute import Output
from penstock.engine.supervise import blaming
from penstock.event import Event
from penstock.inspection import Absence, Inspection, Verifying
from penstock.spi import Expressions
from verify.findings import SinkFound

REMOVED = "absent, and what was delivered later, which cannot be computed again, may have removed them"
_PLACES = 20
"""Bits of a token that say which of its event's outputs it is of."""
_LAST = (1 << _PLACES) - 1


@dataclass(slots=True)
class Looker:
    """One sink.

    :ivar inspection: None where it cannot be looked into.
    :ivar uncertain: nobody knows all of what was delivered later, so that it may have removed what is absent.
    """

    name: str
    found: SinkFound
    inspection: Inspection | None
    uncertain: bool = False
    _tokens: list[int] = field(default_factory=list)
    _events: list[Event] = field(default_factory=list)

    def want(self, number: int, outputs: Sequence[Output]) -> None:
        """These of the outputs of an event that go to this sink were delivered to it."""
        for place, output in enumerate(outputs):
            if self.name in output.sinks:
                self._tokens.append(number << _PLACES | min(place, _LAST))
                self._events.append(output.event)

    def leave_out(self, why: str, events: int = 1) -> None:
        """So many events that were delivered to it are not looked for."""
        if events:
            self.found.left_out[why] += events

    async def expect(self) -> None:
        """Tell what was wanted since the last call."""
        if self.inspection is not None and self._tokens:
            with blaming(self.name):
                await self.inspection.expect(self._tokens, self._events)
            self.found.outputs += len(self._tokens)
        self._tokens, self._events = [], []

    async def lacks(self) -> bool:
        """Whether something may be absent that later events may have removed."""
        if self.inspection is None or not self.inspection.removes:
            return False
        with blaming(self.name):
            return await self.inspection.absent() > 0

    async def later(self, outputs: Sequence[Sequence[Output]]) -> None:
        """These were delivered as well."""
        assert self.inspection is not None, "asked before"
        events = [output.event for each in outputs for output in each if self.name in output.sinks]
        if events:
            with blaming(self.name):
                await self.inspection.later(events)

    async def absences(self, most: int) -> list[Absence]:
        """What is absent, as much as is to be named."""
        if self.inspection is None:
            return []
        with blaming(self.name):
            count, absent = await self.inspection.absences(most)
        if self.uncertain and count:
            self.leave_out(REMOVED, count)
            return []
        self.found.absent = count
        return absent


def number_of(token: int) -> int:
    """Of the event that a token was made for."""
    return token >> _PLACES


@asynccontextmanager
async def lookers(pipeline: Pipeline, names: Sequence[str], surroundings: Surroundings) -> AsyncIterator[list[Looker]]:
    """The sinks of these names, opened for looking.

    :raises PenstockError: one refuses its configuration, or cannot be read.
    """
    expressions: Expressions = room("expressions")(surroundings.clock.now)
    async with AsyncExitStack() as stack:
        found = []
        for sink in pipeline.sinks:
            if sink.name not in names:
                continue
            kind = sink.component.kind
            built = build("sink", sink.component, make_context(pipeline, sink.name, expressions, surroundings))
            if isinstance(built, Verifying):
                with blaming(sink.name):
                    inspection = await stack.enter_async_context(built.inspection())
                found.append(Looker(sink.name, SinkFound(sink.name, kind), inspection))
            else:
                why = f"a sink of the kind {kind} cannot be looked into"
                found.append(Looker(sink.name, SinkFound(sink.name, kind, looked=False, why=why), None))
        yield found
