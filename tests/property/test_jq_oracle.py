"""Native paths give what libjq gives; integers of any size come out exactly or as an error, never changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jq
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import Permanent
from penstock.event import Event
from transforms._paths import native
from transforms.expressions import compiler

keys = st.sampled_from(["a", "b", "a b", "é", "if"])
small = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
)
documents = st.recursive(
    small, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=10
)
steps = st.lists(keys | st.integers(-3, 3), min_size=1, max_size=4)
big = (
    st.integers(-(2**80), 2**80) | st.integers(2**53 - 4, 2**53 + 4) | st.integers(10**17, 10**19).map(lambda n: n // 1000 * 1000)
)


def path(parts: list[str | int]) -> str:
    text = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" if part in ("a", "if") else f'["{part}"]' for part in parts
    )
    return text if text[0] == "." else f".{text}"


@given(documents, steps)
def test_native_paths_agree_with_libjq(document: Any, parts: list[str | int]) -> None:
    program = path(parts)
    getter = native(program, "data")
    assert getter is not None
    text = msgspec.json.encode(document)
    try:
        expected = jq.compile(program).input_text(text.decode()).first()
    except ValueError as error:
        expected = str(error)
    try:
        found = getter(Event("i", "s", "t", raw=text))
    except Permanent as error:
        found = error.message
    assert found == expected


PROGRAMS: dict[str, Callable[[int, int], Any]] = {
    ".": lambda a, b: {"a": a, "b": b},
    "[.b, .a]": lambda a, b: [b, a],
    "{x: .a, y: {z: .b}}": lambda a, b: {"x": a, "y": {"z": b}},
    ".a | tostring": lambda a, b: str(a),
    '"\\(.a):\\(.b)"': lambda a, b: f"{a}:{b}",
    "{(.b | tostring): .a}": lambda a, b: {str(b): a},
    "-.a": lambda a, b: -a,
    "[.a, .b] | sort": lambda a, b: sorted([a, b]),
    "[.a, .b] | max": lambda a, b: max(a, b),
    "[.a, .b] | unique": lambda a, b: sorted({a, b}),
    ".a == .b": lambda a, b: a == b,
    ".a < .b": lambda a, b: a < b,
    "if .a > 0 then .b else null end": lambda a, b: b if a > 0 else None,
    "[.a, .b] | @json | fromjson": lambda a, b: [a, b],
    ".a % 2": lambda a, b: abs(a) % 2 * (1 if a >= 0 else -1),
    ".a % 10 == 0": lambda a, b: a % 10 == 0,
    ".a / 2 | floor": lambda a, b: a // 2,
    ".a - .b == 1": lambda a, b: a - b == 1,
    "[.a, -.b] | add == 0": lambda a, b: a == b,
    "(.a % 10 == 0)? // false": lambda a, b: a % 10 == 0,
    "[.a, .b] | map(select(. % 2 == 0)) | length": lambda a, b: (a % 2 == 0) + (b % 2 == 0),
    "reduce (.a, .b) as $n (0; if $n > . then $n else . end)": lambda a, b: max(0, a, b),
    ".a |= . + 1 | .a": lambda a, b: a + 1,
}
COMPILED = {text: compiler().program(f"({text})", "data") for text in PROGRAMS}


@given(big, big, st.sampled_from(sorted(PROGRAMS)))
def test_integers_are_exact_or_refused(a: int, b: int, program: str) -> None:
    (result,) = COMPILED[program]([Event("i", "s", "t", decoded={"a": a, "b": b})])

    if isinstance(result, Permanent):
        assert result.code == "jq.inexact_integer"
    else:
        assert result == [PROGRAMS[program](a, b)]


@given(st.integers(2**53, 2**70), documents)
def test_an_integer_passed_on_beside_anything_is_exact(number: int, other: Any) -> None:
    program = compiler().program("{n: .[0], rest: .[1]}", "data")

    (result,) = program([Event("i", "s", "t", decoded=[number, other])])

    assert result == [{"n": number, "rest": other}]
