"""The parts of a journal that a backfill is divided into: each is read, computed and counted by one worker at a time. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from penstock.journal.frames import Frame
from penstock.journal.opened import Mark

LINES = 4000
"""Events that a portion has, about: a fraction of a second's work."""
_BEFORE, _BEHIND = -1, 1 << 62


class Portion(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive lines of a journal.

    :ivar after: the mark that they lie behind; `until`: that none of them lies behind.
    :ivar lines: about how many events there are.
    :ivar most: how many of them to look at.
    """

    after: Mark
    until: Mark
    lines: int
    most: int = _BEHIND

    def halves(self, marks: Sequence[Mark]) -> tuple[Portion, Portion]:
        """Two parts of it.

        :param marks: of all its lines, two at least.
        """
        middle = len(marks) // 2
        cut = marks[middle - 1]
        return Portion(self.after, cut, middle), Portion(cut, self.until, len(marks) - middle)


def divide(frames: Iterable[Frame], *, lines: int = LINES, apart: bool = False) -> Iterator[Portion]:
    """The portions of a range, in order.

    :param frames: that events of the range may lie in (`JournalReader.frames`).
    :param lines: how many each should hold, about; a frame is not divided.
    :param apart: the frames are not neighbours: each is a portion of its own.
    """
    held: list[Frame] = []
    count = 0
    for frame in frames:
        if held and (apart or count >= lines or held[-1].segment != frame.segment):
            yield _portion(held)
            held, count = [], 0
        held.append(frame)
        count += frame.lines - frame.corrections
    if held:
        yield _portion(held)


def _portion(frames: Sequence[Frame]) -> Portion:
    first, last = frames[0], frames[-1]
    after, until = Mark(first.segment, first.offset, _BEFORE), Mark(last.segment, last.offset, _BEHIND)
    return Portion(after, until, sum(frame.lines - frame.corrections for frame in frames))
