"""What an inspection remembers of the events it expects: a digest of 64 bits and a token for each, in 16 to 20 bytes. No I/O.

Digests need to be equal where what they stand for is. Two that are equal by chance hide an absence, and never make one. They are
kept in buckets by their lowest bits, so that sorting one takes little memory beside all of them (Invariant 8).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

_BUCKETS = 256
_LOWEST = _BUCKETS - 1
_SETTLED = -1
_SMALL = 1 << 16


def _arrays(kind: str) -> list[array[int]]:
    return [array(kind) for _ in range(_BUCKETS)]


class Wanted:
    """Digests of which each has to be seen as often as it was added: `add`…, `seal`, `see`…, `missing`.

    :ivar left: of those added, how many were not seen yet.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew: none of those added so far need be seen."""
        self.left = 0
        self._digests, self._tokens, self._seen = _arrays("q"), _arrays("q"), _arrays("I")

    def add(self, digests: Iterable[int], tokens: Sequence[int]) -> None:
        """:param tokens: one for each digest; they rise from call to call."""
        for digest, token in zip(digests, tokens, strict=True):
            bucket = digest & _LOWEST
            self._digests[bucket].append(digest)
            self._tokens[bucket].append(token)
        self.left += len(tokens)

    def seal(self) -> None:
        """Nothing more is added."""
        for bucket, (digests, tokens) in enumerate(zip(self._digests, self._tokens, strict=True)):
            order = sorted(range(len(digests)), key=digests.__getitem__)
            self._digests[bucket] = array("q", [digests[place] for place in order])
            self._tokens[bucket] = array("q", [tokens[place] for place in order])
            self._seen[bucket] = array("I", bytes(array("I").itemsize * len(order)))

    def see(self, digest: int) -> bool:
        """Whether it was still to be seen."""
        bucket = digest & _LOWEST
        digests = self._digests[bucket]
        first = bisect_left(digests, digest)
        if first == len(digests) or digests[first] != digest:
            return False
        seen = self._seen[bucket]
        last = first + seen[first]  # of equal ones, the first counts for all
        if last == len(digests) or digests[last] != digest:
            return False
        seen[first] += 1
        self.left -= 1
        return True

    def missing(self) -> Iterator[int]:
        """The tokens of those not seen; of equal ones the last."""
        for digests, tokens, seen in zip(self._digests, self._tokens, self._seen, strict=True):
            first = 0
            while first < len(digests):
                end = first + 1
                while end < len(digests) and digests[end] == digests[first]:
                    end += 1
                yield from tokens[first + seen[first] : end]
                first = end


class Suspects:
    """Those that are not there, until something says that they need not be."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """All are settled."""
        self._noted = 0
        self._limit = _SMALL
        self._digests, self._tokens = _arrays("q"), _arrays("q")

    def __bool__(self) -> bool:
        """False where there are none; True where there may be some."""
        return self._noted > 0

    def add(self, digest: int, token: int) -> None:
        """One more."""
        self._note(digest, token)

    def settle(self, digest: int) -> None:
        """Those of this digest that were added so far need not be there."""
        if self._noted:
            self._note(digest, _SETTLED)

    def count(self) -> int:
        """How many are left. Takes time for each."""
        self._put_together()
        return self._noted

    def tokens(self) -> Iterator[int]:
        """Of those that are left, in no order."""
        self._put_together()
        for tokens in self._tokens:
            yield from tokens

    def _note(self, digest: int, token: int) -> None:
        bucket = digest & _LOWEST
        self._digests[bucket].append(digest)
        self._tokens[bucket].append(token)
        self._noted += 1
        if self._noted > self._limit:
            self._put_together()
            self._limit = 2 * self._noted + _SMALL

    def _put_together(self) -> None:
        """Carry out what was noted: at most a few, else as many as are left, are kept beside."""
        for bucket, (digests, tokens) in enumerate(zip(self._digests, self._tokens, strict=True)):
            if _SETTLED in tokens:
                self._digests[bucket], self._tokens[bucket] = _unsettled(digests, tokens)
        self._noted = sum(map(len, self._tokens))


def _unsettled(digests: array[int], tokens: array[int]) -> tuple[array[int], array[int]]:
    settled: set[int] = set()
    kept: list[int] = []
    for place in range(len(digests) - 1, -1, -1):  # what settles comes behind what it settles
        if tokens[place] == _SETTLED:
            settled.add(digests[place])
        elif digests[place] not in settled:
            kept.append(place)
    kept.reverse()
    return array("q", [digests[place] for place in kept]), array("q", [tokens[place] for place in kept])
