"""Sets of 64-bit digests, eight bytes each (Invariant 8), of which those that were met again can be told from others. No I/O."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator

_RECENT = 1 << 16
_LARGE = 1 << 20


class Digests:
    """`add` what is not in it, and `in`; then `meet`, after which nothing is added any more."""

    def __init__(self) -> None:
        self.count = 0
        self._recent: set[int] = set()
        self._runs: list[array[int]] = []
        self._met: list[bytearray] = []

    def add(self, digest: int) -> None:
        """One that is new."""
        self.count += 1
        self._recent.add(digest)
        if len(self._recent) >= _RECENT:
            self._sort_recent()

    def __contains__(self, digest: int) -> bool:
        return digest in self._recent or self._place(digest) is not None

    def meet(self, digest: int) -> bool:
        """Whether it is there; it counts as met from then on."""
        if not self._met:
            self._sort_recent()
            self._met = [bytearray(len(run)) for run in self._runs]
        place = self._place(digest)
        if place is not None:
            run, at = place
            self._met[run][at] = 1
        return place is not None

    def met(self) -> int:
        """How many were met."""
        return sum(met.count(1) for met in self._met)

    def _place(self, digest: int) -> tuple[int, int] | None:
        for number, run in enumerate(self._runs):
            at = bisect_left(run, digest)
            if at < len(run) and run[at] == digest:
                return number, at
        return None

    def _sort_recent(self) -> None:
        """Runs grow to a certain length, so that there are few of them, and little is needed to sort them."""
        if self._recent:
            self._runs.append(array("Q", sorted(self._recent)))
            self._recent = set()
        while len(self._runs) > 1 and len(self._runs[-2]) <= len(self._runs[-1]) < _LARGE:
            self._runs[-2:] = [array("Q", sorted(self._runs[-2] + self._runs[-1]))]


class Marks:
    """Numbers of the lines of a pass, found again without holding them: one of so many is remembered."""

    EVERY = 2048

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[tuple[int, int, int]] = []

    def add(self, mark: tuple[int, int, int]) -> int:
        """The number of the line at this mark; lines come in order."""
        if self.count % self.EVERY == 0:
            self._kept.append(mark)
        self.count += 1
        return self.count - 1

    @property
    def first(self) -> tuple[int, int, int] | None:
        """Where the pass began; None where it has no line."""
        return self._kept[0] if self._kept else None

    def stretches(self, numbers: list[int]) -> Iterator[tuple[tuple[int, int, int], int, list[int]]]:
        """For each stretch that some of these numbers (in order) lie in: its first line's mark, that line's number, and which
        numbers these are."""
        at = 0
        while at < len(numbers):
            stretch = numbers[at] // self.EVERY
            chosen = [number for number in numbers[at : at + self.EVERY] if number // self.EVERY == stretch]
            yield self._kept[stretch], stretch * self.EVERY, chosen
            at += len(chosen)
