"""Names of events as 64-bit digests, and sets of these, eight bytes each (Invariant 8). No I/O."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import blake2b

_RECENT = 1 << 16
_LARGE = 1 << 20


def digest_of(*parts: str) -> int:
    """What stands for a name of several parts, eight bytes. That two of n names have the same one has a chance of n² / 2^65."""
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")


class Digests:
    """A set that grows: `add`, `in`. Where it is to be known which of them were met again: then `meet`, after which nothing is
    added any more."""

    def __init__(self) -> None:
        self.count = 0
        self._recent: set[int] = set()
        self._runs: list[array[int]] = []
        self._met: list[bytearray] = []

    def add(self, digest: int) -> None:
        """:param digest: one that is not in it: `count` and `met` count each that was added."""
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
