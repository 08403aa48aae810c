"""Lines of a pass by their numbers, found again without holding them. No I/O."""

from __future__ import annotations

from collections.abc import Iterator


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
