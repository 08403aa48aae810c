"""The lines of a range of a journal, batch by batch, each with its number: the same numbers however often it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from penstock.journal.lines import Line
from penstock.journal.opened import Record
from penstock.journal.reader import JournalReader, Mark
from verify.marks import Marks

Batching = Callable[[Iterable[Line]], Iterator[list[Line]]]
"""How lines are put together to be computed (`penstock.engine.recompute.batching`)."""


@dataclass(slots=True)
class LineRange:
    """The events of a range; one pass after the other.

    :ivar start, end: seconds since 1970, half-open.
    :ivar after: lines behind this one alone.
    :ivar marks: of the lines of the first pass that has ended.
    """

    reader: JournalReader
    start: float
    end: float
    together: Batching
    after: Mark | None = None
    marks: Marks = field(default_factory=Marks)
    _is_known: bool = False

    async def batches(self) -> AsyncIterator[tuple[int, list[Line]]]:
        """Lines that can be computed together, with the number of their first. Read beside the loop."""
        number, batches = 0, self.together(record.line for record in self._numbered())
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            yield number, batch
            number += len(batch)
        self._is_known = True

    @property
    def before_first(self) -> Mark | None:
        """The mark that the range's first line lies behind; None where it has none."""
        first = self.marks.first
        return None if first is None else _just_before(first)

    def _numbered(self) -> Iterator[Record]:
        for record in self.reader.range(self.start, self.end, after=self.after):
            if not self._is_known:
                self.marks.add(record.mark)
            yield record

    async def lines(self, numbers: Sequence[int]) -> dict[int, Line]:
        """The lines with these numbers; those that retention has removed meanwhile are left out."""
        return await asyncio.to_thread(self._lines, sorted(set(numbers)))

    def _lines(self, numbers: list[int]) -> dict[int, Line]:
        found: dict[int, Line] = {}
        for first, number, wanted in self.marks.stretches(numbers):
            for place, record in enumerate(self.reader.range(self.start, self.end, after=_just_before(first))):
                if (place == 0 and record.mark != first) or number + place > wanted[-1]:
                    break
                if number + place in wanted:
                    found[number + place] = record.line
        return found


def _just_before(mark: tuple[int, int, int]) -> Mark:
    """What lies behind it begins with the line at this mark."""
    segment, offset, line = mark
    return Mark(segment, offset, line - 1)
