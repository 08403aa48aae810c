"""The parts of a journal that a backfill is divided into: each is read, computed and counted by one worker at a time. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from penstock.journal.frames import Frame
from penstock.journal.opened import BEFORE, BEHIND, Mark

LINES = 4000
"""Events that a portion has, about: a fraction of a second's work."""
_ALL = 1 << 62


class Portion(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive lines of a journal.

    :ivar after: the mark that they lie behind; `until`: that none of them lies behind.
    :ivar lines: about how many events there are.
    :ivar most: how many of them to look at.
    """

    after: Mark
    until: Mark
    lines: int
    most: int = _ALL

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
    :param lines: how many each may hold; a larger frame is divided.
    :param apart: the frames are not neighbours: none shares its portion with another.
    """
    held: list[Frame] = []
    for frame in frames:
        whole = not apart and held and held[-1].segment == frame.segment
        if held and not (whole and frame.lines + sum(each.lines for each in held) <= lines):
            yield from _parts(held, lines)
            held = []
        held.append(frame)
    if held:
        yield from _parts(held, lines)


def behind(portions: Iterable[Portion], mark: Mark | None) -> Iterator[Portion]:
    """What is left of them behind a mark."""
    for portion in portions:
        if mark is None or portion.after >= mark:
            yield portion
        elif portion.until > mark:
            yield msgspec.structs.replace(portion, after=mark)


def _parts(frames: Sequence[Frame], lines: int) -> Iterator[Portion]:
    """The portion of some frames; several where a single one holds more lines than a portion may."""
    first, last = frames[0], frames[-1]
    after = Mark(first.segment, first.offset, BEFORE)
    if len(frames) == 1:
        for line in range(lines, first.lines, lines):
            until = Mark(first.segment, first.offset, line - 1)
            yield Portion(after, until, lines)
            after = until
    left = sum(frame.lines for frame in frames) - (after.line + 1)
    yield Portion(after, Mark(last.segment, last.offset, BEHIND), left)
