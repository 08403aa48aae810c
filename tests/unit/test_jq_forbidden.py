"""Which programs are refused before they ever run, and that nothing is refused for its looks alone."""

from __future__ import annotations

import pytest
from transform_parts import event

from penstock.errors import Permanent
from transforms._tokens import FORBIDDEN
from transforms.expressions import compiler


def refusal(program: str) -> Permanent:
    with pytest.raises(Permanent) as caught:
        compiler().program(program, "data")
    return caught.value


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_every_forbidden_name_is_refused_with_its_place_and_a_way_out(name: str) -> None:
    error = refusal(f".a\n  | {name}")

    assert (error.code, error.message) == ("jq.forbidden", f"{name} may not be used in a program")
    assert (error.why, error.help) == ("line 2, column 5 of the program", FORBIDDEN[name])


@pytest.mark.parametrize(
    "program",
    [
        "env.PATH",
        "{a: env}",
        "{(env): 1}",
        "{$ENV}",
        "[{env: 1}, env]",
        "{a: (1, env)}",
        "{a: .b[1, env]}",
        "{a: if true, env then 1 else 2 end}",
        "{a: if 1, env, 2 then 1 else 2 end}",
        '"path: \\(env.PATH)"',
        '"a\\("b\\(env)")"',
        '{"\\(env)": 1}',
        '"\\\\\\(env)"',
        '@base64 "\\(env)"',
        "def f(env): env; f(1)",
        "a::env",
        ".a?//env",
        "..|env",
        "first(env)",
        "# a comment\nenv",
    ],
)
def test_no_disguise_hides_a_forbidden_name(program: str) -> None:
    assert refusal(program).code == "jq.forbidden"


@pytest.mark.parametrize(
    "program",
    [
        ".env",
        ".input.halt",
        "{env: 1, input: 2, if: 3, end: 4}",
        "{input}",
        "{a: 1, env}",
        "{a: {b: 1}, env: 3}",
        '{@json "x": 1, env: 2}',
        '"env input halt"',
        '.["env"]',
        '"\\\\(env)"',
        ". # env",
        ". as {env: $x} | $x",
        "[.[]?] as [$a] ?// {env: $a} | $a",
        "$__loc__",
        ". as $env | $env",
        "limit(1; .)",
        "@sh",
    ],
)
def test_a_name_that_is_only_text_a_field_or_a_key_is_fine(program: str) -> None:
    assert len(compiler().program(program, "data")([event({})])) == 1


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("# \\\n.", "line 1, column 1 of the program"),
        (". # \\\r\n | .", "line 1, column 3 of the program"),
        (".\0|env", "line 1, column 2 of the program"),
    ],
)
def test_what_could_hide_a_name_from_the_reader_is_a_syntax_error(program: str, why: str) -> None:
    error = refusal(program)

    assert (error.code, error.why) == ("jq.syntax", why)


@pytest.mark.parametrize("program", ["[9007199254740993]", ". == 12345678901234567890", "[1e400]"])
def test_a_number_that_jq_would_round_is_refused_in_a_program(program: str) -> None:
    assert refusal(program).code == "jq.inexact_integer"


def test_an_exact_number_is_fine_in_a_program() -> None:
    program = compiler().program("[9007199254740992, 1152921504606846976, 0.1]", "data")
    assert program([event({})]) == [[[9007199254740992, 1152921504606846976, 0.1]]]


@pytest.mark.parametrize(
    ("program", "message", "why"),
    [
        (".a|foo", "jq cannot read the program: foo/0 is not defined", "line 1, column 4 of the program"),
        (".a |\n  foo(1)", "jq cannot read the program: foo/1 is not defined", "line 2, column 3 of the program"),
        (".a)|(.b", "jq cannot read the program: unexpected character, expecting end of file", "line 1, column 3 of the program"),
        ("[.a", "jq cannot read the program: unexpected end of file, expecting '|' or ',' or ']'", None),
        ("", 'jq cannot read the program: Top-level program not given (try ".")', None),
    ],
)
def test_a_syntax_error_says_what_and_where(program: str, message: str, why: str | None) -> None:
    error = refusal(program)

    assert (error.code, error.message) == ("jq.syntax", message)
    assert why is None or error.why == why
