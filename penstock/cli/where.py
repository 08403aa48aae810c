"""`--where`: jq over events, as verbs that look at them take it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from penstock.builtins import room
from penstock.engine.stages import decide
from penstock.errors import ComponentError, Permanent, UsageError
from penstock.event import Event
from penstock.journal.lines import Line
from penstock.spi import Expressions, Program

_BATCH = 200


@dataclass(slots=True)
class Where:
    """Which events are wanted: those for which the program is neither false nor null. It sees the event: `.data`, `.type`, ….

    :ivar failed: how many it failed for, which are left out; `failure`: why, the first time.
    """

    program: Program | None = None
    failed: int = 0
    failure: ComponentError | None = None

    @classmethod
    def compile(cls, text: str | None, expressions: Expressions | None = None) -> Where:
        """:raises UsageError: the program is none."""
        if text is None:
            return cls()
        compiler: Callable[[], Expressions] = room("expressions")
        try:
            return cls((expressions or compiler()).program(text, "event"))
        except Permanent as error:
            raise UsageError(error.code, f"--where: {error.message}", why=error.why, help=error.help) from error

    def among(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The lines of the events that are wanted, in order; corrections are none."""
        events = (line for line in lines if line.is_event)
        while batch := list(islice(events, _BATCH)):
            yield from (line for line, wanted in zip(batch, self._decide(batch), strict=True) if wanted)

    def _decide(self, lines: Sequence[Line]) -> list[bool]:
        if self.program is None:
            return [True] * len(lines)
        events: list[Event] = [line.filled() for line in lines]
        wanted = []
        for verdict in decide(self.program, events):
            if isinstance(verdict, ComponentError):
                self.failed += 1
                self.failure = self.failure or verdict
            wanted.append(verdict is True)
        return wanted
