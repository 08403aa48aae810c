"""Which of the events that come by `pipe tap` looks at, so that it costs little however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from penstock.clock import Clock
from penstock.journal.follow import Tail
from penstock.journal.frames import Frame
from penstock.journal.lines import Line

LOOKING = 0.05
"""Seconds that one look through what has come may take, where not every event is wanted."""


@dataclass(slots=True)
class Allowance:
    """So many events a second, saved up for one second at most.

    :ivar rate: events a second.
    """

    rate: float
    clock: Clock
    _saved: float | None = None
    _since: float = 0.0

    def available(self) -> int:
        """How many may be shown now."""
        now, most = self.clock.monotonic(), max(1.0, self.rate)
        self._saved = most if self._saved is None else min(most, self._saved + (now - self._since) * self.rate)
        self._since = now
        return int(self._saved)

    def spend(self) -> None:
        """One was shown. `available` was asked before."""
        assert self._saved is not None
        self._saved -= 1


@dataclass(slots=True)
class Sample:
    """Lines of what has been committed since the last look.

    :ivar came: how many events came by, looked at or not.
    """

    tail: Tail
    clock: Clock
    came: int = 0
    _frames: list[Frame] = field(default_factory=list)

    def look(self) -> bool:
        """Find out what has been committed; whether anything was."""
        self._frames = self.tail.arrived()
        self.came += sum(frame.lines for frame in self._frames)
        return bool(self._frames)

    def spread(self, count: int) -> Iterator[Line]:
        """So many of these lines, evenly spread."""
        for frame, places in evenly([frame.lines for frame in self._frames], count):
            wanted = set(places)
            records = islice(self.tail.records(self._frames[frame]), places[-1] + 1)
            yield from (record.line for place, record in enumerate(records) if place in wanted)

    def all(self) -> Iterator[Line]:
        """As many of these lines as there is time for, frames that lie far apart first."""
        until = self.clock.monotonic() + LOOKING
        for index in _apart(len(self._frames)):
            for record in self.tail.records(self._frames[index]):
                yield record.line
                if self.clock.monotonic() > until:
                    return


def evenly(sizes: Sequence[int], count: int) -> list[tuple[int, list[int]]]:
    """Places of `count` things among several heaps of these sizes, evenly spread over all: by heap, those inside it."""
    total = sum(sizes)
    count = min(count, total)
    wanted = [n * total // count for n in range(count)]
    found: list[tuple[int, list[int]]] = []
    before = 0
    for heap, size in enumerate(sizes):
        inside = [place - before for place in wanted if before <= place < before + size]
        if inside:
            found.append((heap, inside))
        before += size
    return found


def _apart(count: int) -> Iterator[int]:
    """0 … count-1, halves before quarters before eighths."""
    step = 1 << max(0, count - 1).bit_length()
    yield from range(min(count, 1))
    while step > 1:
        yield from range(step // 2, count, step)
        step //= 2
