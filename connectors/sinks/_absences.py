"""How inspections tell what is absent: the first ones by token, each with its reason; and those nobody can look for."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from heapq import nsmallest

from penstock.errors import ComponentError
from penstock.inspection import Absence

Found = tuple[int, str]
"""A token, and why it is absent."""


class Unclear:
    """Events of which today's configuration does not say what they left in the sink: as good as absent (Invariant 13)."""

    def __init__(self) -> None:
        self._tokens: dict[str, array[int]] = {}

    def clear(self) -> None:
        """None of them need have left anything."""
        self._tokens.clear()

    def __len__(self) -> int:
        return sum(map(len, self._tokens.values()))

    def add(self, error: ComponentError, token: int) -> None:
        """:param error: why. Only its code is told: its message may name values."""
        self._tokens.setdefault(error.code, array("q")).append(token)

    def found(self) -> Iterator[Found]:
        """In no order."""
        for code, tokens in self._tokens.items():
            yield from because(tokens, f"the sink would refuse it today ({code}), so that nobody can say what to look for")


def because(tokens: Iterable[int], why: str) -> Iterator[Found]:
    """All for one reason."""
    return ((token, why) for token in tokens)


def first_of(most: int, found: Iterable[Found]) -> list[Absence]:
    """The first `most` by token, whatever the order of these."""
    return [Absence(token, why) for token, why in nsmallest(most, found)]
