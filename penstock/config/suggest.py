"""What was probably meant by a word that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The word that was probably meant, upper and lower case aside."""
    by_lower = {each.lower(): each for each in words}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, words: Iterable[str], cutoff: float = 0.6) -> str | None:
    """`did you mean '…'?` for the nearest of the words, or None where none is near."""
    close = nearest(word, words, cutoff)
    return f"did you mean '{close}'?" if close else None
