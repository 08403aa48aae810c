"""Integers that libjq would round: kept exact, or refused, never changed.

libjq computes with doubles, but carries a number that no operation touched through to its text form (`tojson`) digit by digit,
and compares such numbers digit by digit too. So where an input holds integers of 2^53 and more, a program may pass them on,
compare and sort them, but not compute with them (`_guard`): some of them are doubles, but what is made of these need not be
(`. + 1`), and `%` knows 63 bits only. To be sure that the answer does not depend on rounding in any other way, the program also
runs on two copies of the input, in which these integers are replaced by doubles below and above: order and distinctness are
kept. The outputs must be the same but for the replacements standing where the true numbers stand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from penstock.errors import Permanent
from penstock.event import decode, encode

Run = Callable[[str], list[str] | None]
"""Runs a program on JSON text: its outputs, as `tojson` gives them; None where it computes with a number of 2^53 or more."""

_LONG = b"0" * 16
_DIGITS = bytes(0x30 if 0x30 <= c <= 0x39 else 0x20 for c in range(256))
_RUN = re.compile(r"[0-9]{16,}", re.ASCII)
_PRINTED_EXACTLY = 10**17
_ALL_EXACT = 1 << 53
_LONGEST_RUN = 400
_LARGEST = 1e308


def has_long_number(text: bytes) -> bool:
    """Whether there is a run of 16 digits: only then can an integer be beyond what a double holds. 0.2 µs for 200 bytes."""
    return _LONG in text.translate(_DIGITS)


Large = dict[int, str]
"""Integers of 2^53 and more, by magnitude, each with the jq path of its first place."""


def integers(value: Any, *, in_text: bool) -> Large:
    """Look through a value.

    :param in_text: look at runs of digits in strings too, for programs that make numbers of them.
    """
    found: Large = {}
    _find(value, "", found, in_text)
    return found


def _find(value: Any, path: str, found: Large, in_text: bool) -> None:
    kind = value.__class__
    if kind is dict:
        for key, inner in value.items():
            if in_text:
                _find(key, path, found, in_text)
            _find(inner, f"{path}.{key}", found, in_text)
    elif kind is list or kind is tuple:
        for index, inner in enumerate(value):
            _find(inner, f"{path}[{index}]", found, in_text)
    elif kind is int:
        _add(value, path, found)
    elif kind is str and in_text:
        for digits in _RUN.findall(value):
            if len(digits) < _LONGEST_RUN:
                _add(int(digits), path, found)


def _add(number: int, path: str, found: Large) -> None:
    if abs(number) >= _ALL_EXACT:
        found.setdefault(abs(number), path or ".")


def run_exactly(run: Run, value: Any, numbers: Large, *, in_text: bool) -> list[Any]:
    """The outputs of a program whose input holds integers that doubles may not hold.

    :param run: the program.
    :param value: its input.
    :param numbers: its `integers`.
    :raises Permanent: `jq.inexact_integer`, where the outputs depend on a rounded number.
    """
    texts = run(encode(value).decode())
    if texts is None:
        raise _inexact(numbers)
    true = [_computed(decode(text.encode()), numbers) for text in texts]
    for sentinels in (_lower(numbers), _upper(numbers)):
        back = {sentinel: number for number, sentinel in sentinels.items()}
        copy = encode(_replace(value, sentinels, in_text)).decode()
        try:
            texts = run(copy)
        except Permanent as error:
            raise _inexact(numbers) from error
        if texts is None or not _same([_restored(decode(text.encode()), back) for text in texts], true):
            raise _inexact(numbers)
    return true


def _inexact(numbers: Large) -> Permanent:
    number, path = next(iter(numbers.items()))
    return Permanent(
        "jq.inexact_integer",
        f"the result depends on an integer that jq rounds: {str(number)[:60]} at {path}",
        why="jq computes with doubles, which are exact up to 9007199254740992",
        help="jq can pass it on, compare it and make text of it; to compute with it use a python step",
    )


def _beyond(number: int, path: str) -> Permanent:
    return Permanent("jq.inexact_integer", f"an integer of {len(str(number))} digits at {path} is beyond what jq can hold")


def _lower(numbers: Large) -> dict[int, int]:
    """For each a double below it, in the same order and all distinct."""
    chosen: dict[int, int] = {}
    above = math.inf
    for number in sorted(numbers, reverse=True):
        double = _double(number, numbers[number])
        if int(double) > number:
            double = math.nextafter(double, 0)
        double = min(double, math.nextafter(above, 0))
        while not _discernible(double):
            double = math.nextafter(double, 0)
        chosen[number] = int(double)
        above = double
    return chosen


def _upper(numbers: Large) -> dict[int, int]:
    """For each a double above it, in the same order and all distinct."""
    chosen: dict[int, int] = {}
    below = 0.0
    for number in sorted(numbers):
        double = _double(number, numbers[number])
        if int(double) < number:
            double = math.nextafter(double, math.inf)
        double = max(double, math.nextafter(below, math.inf))
        while not _discernible(double):
            double = math.nextafter(double, math.inf)
        chosen[number] = int(double)
        below = double
    return chosen


def _double(number: int, path: str) -> float:
    try:
        if (double := float(number)) < _LARGEST:
            return double
    except OverflowError:
        pass
    raise _beyond(number, path)


def _discernible(double: float) -> bool:
    """Whether the double, once computed with, is written with other digits than the literal that stood for it; below 10^17 the
    true run tells the two apart, since there no double is written like an integer that is none."""
    if double < _PRINTED_EXACTLY:
        return True
    digits, _, exponent = repr(double).partition("e+")
    whole, _, fraction = digits.partition(".")
    return int((whole + fraction).ljust(int(exponent or 0) + 1, "0")) != int(double)


def _replace(value: Any, sentinels: Mapping[int, int], in_text: bool) -> Any:
    kind = value.__class__
    if kind is dict:
        return {
            _replace_text(key, sentinels) if in_text else key: _replace(inner, sentinels, in_text) for key, inner in value.items()
        }
    if kind is list or kind is tuple:
        return [_replace(inner, sentinels, in_text) for inner in value]
    if kind is int:
        sentinel = sentinels.get(abs(value), abs(value))
        return -sentinel if value < 0 else sentinel
    return _replace_text(value, sentinels) if kind is str and in_text else value


def _replace_text(text: str, numbers: Mapping[int, int]) -> str:
    def swap(match: re.Match[str]) -> str:
        digits = match[0]
        if digits[0] == "0" or len(digits) >= _LONGEST_RUN:
            return digits
        return str(numbers.get(int(digits), digits))

    return _RUN.sub(swap, text)


def _computed(value: Any, numbers: Large) -> Any:
    """Output as the faster path gives it: what is none of `numbers` went through a double, and an integral one is an int."""
    kind = value.__class__
    if kind is dict:
        return {key: _computed(inner, numbers) for key, inner in value.items()}
    if kind is list:
        return [_computed(inner, numbers) for inner in value]
    if kind is float:
        return int(value) if value.is_integer() else value
    if kind is int and abs(value) not in numbers:
        return int(float(value))
    return value


def _restored(value: Any, back: Mapping[int, int]) -> Any:
    """Output on a copy, with the true numbers in the place of their replacements."""
    kind = value.__class__
    if kind is dict:
        return {_replace_text(key, back): _restored(inner, back) for key, inner in value.items()}
    if kind is list:
        return [_restored(inner, back) for inner in value]
    if kind is str:
        return _replace_text(value, back)
    if kind is int:
        number = back.get(abs(value))
        if number is None:
            return int(float(value))
        return -number if value < 0 else number
    return int(value) if kind is float and value.is_integer() else value


def _same(one: Any, other: Any) -> bool:
    if one.__class__ is not other.__class__:
        return False
    if one.__class__ is dict:
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if one.__class__ is list:
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
