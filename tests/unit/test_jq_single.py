"""A program that is taken for single-valued gives one output, or fails; libjq itself is the oracle."""

from __future__ import annotations

import jq
import pytest

from transforms._single import is_single
from transforms._tokens import tokens_of

INPUTS = [None, 1, "a", [], [1, 2], {"a": 1, "b": {"c": [1, 2]}}, {"items": [{"price": 2, "qty": 3}]}]
SINGLE = [
    "{invoice: (.a | tostring), total: (.a * 2)}",
    ".items | map(.price * .qty) | add",
    'if .a == 1 then "one" elif .a then {a, b: [.a, .b]} else null end',
    '"\\(.a) and \\(.b.c)"',
    "[.a, .b, [1, 2]]",
    ".a // .b // 0",
    "{(.a | tostring): 1}",
    '.b["c"][0]',
    "@base64",
    "tojson",
]
SEVERAL = [
    ".[]",
    ".a, .b",
    "{a: (1, 2)}",
    '"\\(1, 2)"',
    ".[0, 1]",
    "[1, 2][0, 1]",
    "empty",
    "select(.a)",
    "range(3)",
    "..",
    ".a?",
    "recurse",
    "limit(1; .[])",
    "first(.[])",
    "def f: 1, 2; f",
    ". as [$x] ?// $x | $x",
    "try error catch empty",
    ".a |= empty",
    'test("a", "b")',
    "{a: .b[]}",
    "error",
    "paths",
    "map(.a)[]",
    '{a: 1} | .["a", "b"]',
]


@pytest.mark.parametrize("program", SINGLE)
def test_a_program_without_generators_is_single(program: str) -> None:
    assert is_single(list(tokens_of(program)))
    for value in INPUTS:
        try:
            outputs = jq.compile(program).input_value(value).all()
        except ValueError:
            continue
        assert len(outputs) == 1


@pytest.mark.parametrize("program", SEVERAL)
def test_a_program_that_may_give_none_or_several_is_not(program: str) -> None:
    assert not is_single(list(tokens_of(program)))
