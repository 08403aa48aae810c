"""Secrets and personal data taken out of events that leave the store: into a test, or an export for somebody else.

A value keeps its shape: letters become `x`, digits `0`, and what stands between them stays, so that formats, lengths and types
are what they were. What is likely to be secret or personal is guessed from names and from the form of values; that cannot be
complete, and whoever gives the result away looks at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from penstock.errors import UsageError
from penstock.event import decode

Path = tuple[str | int, ...]
EVERY = "[]"

_WORDS = frozenset(
    "password passwd passphrase pwd secret token apikey authorization cookie credential credentials signature ssn iban bic "
    "cvv cvc pin email mail phone telephone mobile fax firstname lastname fullname surname birthday birthdate dob street "
    "address postcode zip zipcode passport".split()
)
"""A name that has one of these among its words."""
_PAIRS = frozenset(
    "api key|access key|private key|first name|last name|full name|family name|given name|card number|account number|birth date|"
    "e mail|tax id|session id|national id|postal code".split("|")
)
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_VALUES = re.compile(
    r"[^\s@<>\"']+@[^\s@<>\"']+\.[A-Za-z]{2,}"  # an address
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}\b|\bsk-[A-Za-z0-9_-]{16,}\b|\bxox[abprs]-[A-Za-z0-9-]{10,}\b"
    r"|\b[Bb]earer [A-Za-z0-9._~+/-]{8,}=*"
    r"|\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"  # an IBAN
    r"|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"  # user and password of a URL
)
_CARD = re.compile(r"(?<![\d.])(?:\d[ -]?){12,18}\d(?![\d.])")
_LETTER = re.compile(r"[^\W\d_]")
_DIGIT = re.compile(r"\d")
_STEP = re.compile(r'\.([A-Za-z_][A-Za-z0-9_]*)|\.?\[("(?:[^"\\]|\\.)*")\]|\.("(?:[^"\\]|\\.)*")|\.?\[(\d+)\]|\.?(\[\])')


def parse_path(text: str) -> Path:
    """`.data.customer.email`, `.data.cards[].number`, `.data["e-mail"]` as steps.

    :raises UsageError: `dlq.bad_path`.
    """
    steps: list[str | int] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            break
        name, bracketed, dotted, index, every = match.groups()
        quoted = bracketed or dotted
        steps.append(EVERY if every else int(index) if index else str(decode(quoted.encode())) if quoted else name)
        at = match.end()
    if at < len(text) or not steps:
        raise UsageError("dlq.bad_path", f"{text!r} is no path", help="such as .data.customer.email or .data.cards[].number")
    return tuple(steps)


@dataclass(slots=True)
class Redactor:
    """What is taken out. Use one for each letter: it remembers what it took.

    :ivar taken: paths whose leaves go, whatever is in them.
    :ivar kept: paths that stay, though they look secret.
    :ivar guesses: look for what is likely to be secret or personal.
    :ivar changed: paths of what was changed so far, in order.
    """

    taken: Sequence[Path] = ()
    kept: Sequence[Path] = ()
    guesses: bool = True
    changed: list[str] = field(default_factory=list)
    _texts: dict[str, str] = field(default_factory=dict)

    def redact(self, value: Any, path: Path = ()) -> Any:
        """The value, which lies at this path of the event, without what is not to be seen."""
        return self._walk(value, path, path, everything=False)

    def text(self, text: str) -> str:
        """A message about the event: what was taken out of that goes from it too, and what looks secret by itself."""
        for old in sorted(self._texts, key=len, reverse=True):
            text = text.replace(old, self._texts[old])
        return _without_values(text) if self.guesses else text

    def _walk(self, value: Any, path: Path, plain: Path, *, everything: bool) -> Any:
        if any(_covers(each, path) for each in self.kept):
            return value
        everything = everything or any(_covers(each, path) for each in self.taken) or (self.guesses and _is_telling(path))
        if isinstance(value, dict):
            return {key: self._walk(inner, (*path, key), plain, everything=everything) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._walk(inner, (*path, index), plain, everything=everything) for index, inner in enumerate(value)]
        new = masked(value) if everything else _without_values(value) if self.guesses and isinstance(value, str) else value
        if new != value or type(new) is not type(value):
            self._note(value, new, path)
        return new

    def _note(self, old: Any, new: Any, path: Path) -> None:
        self.changed.append(written(path))
        if isinstance(old, str) and len(old) >= 3:
            self._texts[old] = new
        elif isinstance(old, (int, float)) and not isinstance(old, bool) and len(str(old)) >= 4:
            self._texts[str(old)] = str(new)


def masked(value: Any) -> Any:
    """A value of the same type and shape that says nothing."""
    if isinstance(value, str):
        return _DIGIT.sub("0", _LETTER.sub(lambda match: "X" if match[0].isupper() else "x", value))
    if isinstance(value, bool) or value is None:
        return value
    return type(value)(0)


def _without_values(text: str) -> str:
    text = _VALUES.sub(lambda match: masked(match[0]), text)
    return _CARD.sub(lambda match: masked(match[0]) if _is_card(match[0]) else match[0], text)


def _is_card(text: str) -> bool:
    """By its check digit (ISO/IEC 7812-1, Luhn)."""
    digits = [int(character) for character in text if character.isdigit()][::-1]
    return sum(d if n % 2 == 0 else d * 2 - 9 * (d > 4) for n, d in enumerate(digits)) % 10 == 0 and any(digits)


def _is_telling(path: Path) -> bool:
    """Whether the last name of the path says that something secret or personal is there."""
    name = next((step for step in reversed(path) if isinstance(step, str)), "")
    words = [word.lower() for word in _PARTS.findall(name)]
    pairs = {f"{first} {second}" for first, second in pairwise(words)}
    return not _WORDS.isdisjoint(words) or not _PAIRS.isdisjoint(pairs) or "".join(words) in _WORDS


def _covers(pattern: Path, path: Path) -> bool:
    return len(pattern) == len(path) and all(
        wanted == step or (wanted == EVERY and isinstance(step, int)) for wanted, step in zip(pattern, path, strict=True)
    )


def written(path: Iterable[str | int]) -> str:
    """The path as people write it."""
    text = ""
    for step in path:
        plain = isinstance(step, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step)
        text += f".{step}" if plain else f"[{step}]" if isinstance(step, int) else f'["{step}"]'
    return text


@dataclass(slots=True)
class Redaction:
    """What an export or a test leaves out, of many letters.

    :ivar changed: paths of what was left out so far.
    """

    taken: Sequence[Path] = ()
    kept: Sequence[Path] = ()
    guesses: bool = True
    changed: set[str] = field(default_factory=set)

    def redactor(self) -> Redactor:
        """For one letter."""
        return Redactor(self.taken, self.kept, self.guesses)


def redaction(taken: Iterable[str], kept: Iterable[str], guesses: bool) -> Redaction:
    """As options say it.

    :raises UsageError: `dlq.bad_path`.
    """
    return Redaction(tuple(map(parse_path, taken)), tuple(map(parse_path, kept)), guesses)
