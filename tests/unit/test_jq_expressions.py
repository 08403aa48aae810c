"""The three views, native and libjq alike; fields; errors; exact integers."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import ComponentError, Permanent
from penstock.event import UNSET, Event
from penstock.spi import View
from transforms.expressions import compiler

NOW = 1289203200.25
jq = compiler(lambda: NOW)


def event(raw: str | None = None, **changes: Any) -> Event:
    return Event(
        "e1",
        "shop",
        "order.line",
        "2010-12-01T08:26:00Z",
        raw=None if raw is None else raw.encode(),
        partitionkey="p",
        extensions={"tenant": "t"},
        **changes,
    )


def run(program: str, subject: Event, view: View = "data") -> list[Any] | ComponentError:
    (result,) = jq.program(program, view)([subject])
    return result


def both(program: str, subject: Event, view: View = "data") -> list[Any] | ComponentError:
    """The result, after making sure that the native way and libjq's agree."""
    plain, by_libjq = run(program, subject, view), run(f"({program})", subject, view)
    if isinstance(plain, Permanent):
        assert isinstance(by_libjq, Permanent)
        assert (plain.code, plain.message) == (by_libjq.code, by_libjq.message)
    else:
        assert plain == by_libjq
    return plain


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (".", [{"a": {"b c": [1, 2]}, "n": None, "x": "y"}]),
        (".a", [{"b c": [1, 2]}]),
        ('.a["b c"][0]', [1]),
        ('.a."b c"[-1]', [2]),
        ('.["a"].["b c"].[5]', [None]),
        (".a.missing.deeper[0]", [None]),
        (".n.x", [None]),
        ("  .x ", ["y"]),
        ('"a\\u00e9\\n"', ["aé\n"]),
        ("-1.5", [-1.5]),
        ("true", [True]),
        ("null", [None]),
        ("$event.id", ["e1"]),
        ("$event.partitionkey", ["p"]),
        ("$event.tenant", ["t"]),
        ("$event.subject", [None]),
        ("$event.specversion", ["1.0"]),
        ("$steps.look.up", [3]),
        ("$steps.other", [None]),
        (
            "$event",
            [
                {
                    "specversion": "1.0",
                    "id": "e1",
                    "source": "shop",
                    "type": "order.line",
                    "time": "2010-12-01T08:26:00Z",
                    "partitionkey": "p",
                    "tenant": "t",
                }
            ],
        ),
        ("$steps", [{"look": {"up": 3}}]),
    ],
)
def test_plain_paths_and_literals_give_what_libjq_gives(program: str, expected: list[Any]) -> None:
    subject = event('{"a":{"b c":[1,2]},"n":null,"x":"y"}', steps={"look": {"up": 3}})

    assert both(program, subject) == expected


@pytest.mark.parametrize(
    ("program", "raw", "message"),
    [
        (".a", '"x"', 'Cannot index string with string ("a")'),
        (".a", "[1]", 'Cannot index array with string ("a")'),
        (".a", "1", 'Cannot index number with string ("a")'),
        (".a", "true", 'Cannot index boolean with string ("a")'),
        (".[0]", '{"a":1}', "Cannot index object with number (0)"),
        (".a.b", '{"a":1.5}', 'Cannot index number with string ("b")'),
        ("$event.id.x", "1", 'Cannot index string with string ("x")'),
    ],
)
def test_what_cannot_be_indexed_is_libjqs_error_either_way(program: str, raw: str, message: str) -> None:
    result = both(program, event(raw))

    assert isinstance(result, Permanent)
    assert (result.code, result.message) == ("jq.error", message)


def test_the_view_record_is_the_record_or_else_the_data() -> None:
    assert both(".before", event("1", record={"before": 2}), "record") == [2]
    assert both(".", event("[1]"), "record") == [[1]]
    assert both(".", event("[1]", record=None), "record") == [None]


def test_the_view_event_is_the_structured_event() -> None:
    subject = event('{"a":1}')
    envelope = {
        "specversion": "1.0",
        "id": "e1",
        "source": "shop",
        "type": "order.line",
        "time": "2010-12-01T08:26:00Z",
        "partitionkey": "p",
        "tenant": "t",
        "data": {"a": 1},
    }

    assert both(".", subject, "event") == [envelope]
    assert both(".data.a", subject, "event") == [1]
    assert both(".type", subject, "event") == ["order.line"]
    assert both(".tenant", subject, "event") == ["t"]
    assert both(".subject", subject, "event") == [None]


def test_bytes_are_base64_in_the_view_event_and_no_data_elsewhere() -> None:
    subject = event(decoded=b"\x00\xff")

    assert both(".data_base64", subject, "event") == ["AP8="]
    assert both(".data", subject, "event") == [None]
    for result in (both(".", subject), both(".a", subject)):
        assert isinstance(result, Permanent)
        assert result.code == "jq.not_json"


def test_a_program_gives_none_one_or_several_outputs() -> None:
    events = [event("[]"), event("[1]"), event("[1,2]")]

    assert jq.program(".[]", "data")(events) == [[], [1], [1, 2]]


def test_an_error_costs_only_its_event() -> None:
    results = jq.program(".a + 1", "data")([event('{"a":1}'), event('{"a":"x"}'), event('{"a":2}')])

    assert (results[0], results[2]) == ([2], [3])
    assert isinstance(results[1], Permanent)
    assert (results[1].code, results[1].message) == ("jq.error", 'string ("x") and number (1) cannot be added')


def test_a_long_error_is_shortened() -> None:
    result = run('error("x" * 300)', event("1"))

    assert isinstance(result, Permanent)
    assert result.message == "x" * 199 + "…"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"a":NaN}', "decode.invalid_json"),
        (b'{"a":1e400}', "decode.number_out_of_range"),
        (b'{"a":"\xff"}', "decode.invalid_utf8"),
        (b'{"a":"\\ud800"}', "decode.lone_surrogate"),
        (b"[" * 100_000, "decode.too_deep"),
        (b"", "decode.empty"),
        (b"1 2", "decode.invalid_json"),
    ],
)
def test_what_is_not_exact_json_never_reaches_libjq(raw: bytes, code: str) -> None:
    views: tuple[View, ...] = ("data", "record", "event")
    cases = [(program, view) for program in (".", "[.]") for view in views]
    for program, view in [*cases, ("[., $event.id]", "data")]:
        result = run(program, Event("i", "s", "t", raw=raw), view)
        assert isinstance(result, Permanent)
        assert result.code == code


def test_nul_and_any_other_character_pass_through() -> None:
    assert run("[.]", event('"a\\u0000b\\ud83d\\ude00"')) == [["a\0b😀"]]


def test_now_is_the_time_of_processing() -> None:
    assert run("[now, .]", event("9007199254740993")) == [[NOW, 9007199254740993]]


def test_programs_may_define_functions_and_end_in_a_comment() -> None:
    assert run("def f: . + 1; f | f # twice", event("1")) == [3]
    assert run("$event.id as $id | {$id} # here", event("1")) == [{"id": "e1"}]


def test_variables_exist_only_where_programs_see_the_data() -> None:
    views: tuple[View, ...] = ("record", "event")
    for view in views:
        with pytest.raises(Permanent, match=r"\$event is not defined") as caught:
            jq.program("$event.id", view)
        assert caught.value.code == "jq.syntax"
        assert caught.value.help is not None


FIELDS = {
    "type": 'if .no | tostring | startswith("C") then "order.cancelled" else "order.line" end',
    "time": ".at",
    "subject": ".no | tostring",
    "source": "shop",
    "id": '"fixed"',
}


def test_fields_are_literals_paths_and_programs_in_their_order() -> None:
    program = jq.fields(FIELDS, "record")

    assert program([event('{"no":"C1","at":"x"}'), event('{"no":2,"at":null}')]) == [
        ("order.cancelled", "x", "C1", "shop", "fixed"),
        ("order.line", None, "2", "shop", "fixed"),
    ]


def test_fields_without_any_program_need_no_libjq() -> None:
    assert jq.fields({"a": ".x", "b": "$event.id", "c": "plain . text"}, "data")([event('{"x":1}')]) == [
        (1, "e1", "plain . text")
    ]
    assert jq.fields({}, "data")([event("1")]) == [()]


@pytest.mark.parametrize(
    ("field", "count"), [("(.x, .y)", "2 values"), ("[.x] | .[1:][]", "no value"), ('(.x | error("no"))', None)]
)
def test_a_field_that_gives_not_exactly_one_value_is_named(field: str, count: str | None) -> None:
    (result,) = jq.fields({"a": ".x", "b": ".x + 1", "c": field}, "data")([event('{"x":1,"y":2}')])

    assert isinstance(result, Permanent)
    if count is None:
        assert (result.code, result.message, result.where) == ("jq.error", "no", "c")
    else:
        assert (result.code, result.message, result.where) == ("jq.not_one_value", f"c gives {count}, not one", "c")


def test_a_mistake_in_a_field_names_the_field_and_its_own_place() -> None:
    with pytest.raises(Permanent) as caught:
        jq.fields({"a": ".x + 1", "b": ".y |\n foo"}, "data")

    assert (caught.value.code, caught.value.where, caught.value.why) == ("jq.syntax", "b", "line 2, column 2 of the program")


BIG = 9007199254740993


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (".", {"a": BIG, "b": BIG - 1, "c": 120, "s": str(BIG)}),
        ("{x: .a, y: [.b, .c]}", {"x": BIG, "y": [BIG - 1, 120]}),
        (".a | tostring", str(BIG)),
        ('"id-\\(.a)"', f"id-{BIG}"),
        ("{(.a | tostring): 1}", {str(BIG): 1}),
        ("-.a", -BIG),
        (".a > 5", True),
        (".a == .b", False),
        (".s | tonumber", BIG),
        (".c + 1", 121),
        ("[.a, .b] | unique | length", 2),
    ],
)
def test_an_integer_that_a_program_only_passes_on_stays_exact(program: str, expected: Any) -> None:
    assert run(f"[{program}]", event(f'{{"a":{BIG},"b":{BIG - 1},"c":120.0,"s":"{BIG}"}}')) == [[expected]]


@pytest.mark.parametrize("number", [BIG, -BIG, 2**60 + 1, 1152921504606847000, 12345678901234567890, 2**70 + 1])
@pytest.mark.parametrize("program", [".a + 1", ".a + 0", ".a % 2", ".a / 256 | floor", ".a | floor | . % 10", "[.a, 1] | add"])
def test_a_result_that_depends_on_a_rounded_integer_is_refused(program: str, number: int) -> None:
    result = run(program, event(f'{{"a":{number}}}'))

    assert isinstance(result, Permanent)
    assert (result.code, str(abs(number)) in result.message, " at .a" in result.message) == ("jq.inexact_integer", True, True)


@pytest.mark.parametrize(
    "program",
    [
        "(.a % 10)?",
        "try (.a + 1) catch 0",
        "(.a - 1) // 0",
        "1 - .a",
        "2 * .a",
        "[.a] | add",
        "add(.a)",
        ".a += 1",
        "[.a] | map(. / 2)",
        ".a | floor",
        "pow(.a; 0)",
        "fma(1; .a; 0)",
        ".a | todate",
        'first(.a | strftime("%Y"))',
        "limit(1; .a | sqrt)",
        "def f(x): x + 1; f(.a)",
        'if .a % 10 == 3 then "three" else "other" end',
    ],
)
def test_computing_with_such_an_integer_is_refused_however_it_is_wrapped(program: str) -> None:
    result = run(f"[{program}] | length", event(f'{{"a":{BIG}}}'))

    assert isinstance(result, Permanent)
    assert result.code == "jq.inexact_integer"


def test_computing_with_other_numbers_beside_it_is_as_ever() -> None:
    program = (
        '{id, sum: (.n + 1), text: ("a" + "b"), all: ([.n, 2] | add), pairs: [(1, 2) + (10, 20)], floor: (.n / 2 | floor),'
        " at: (.n | todate), power: pow(.n; 2), merged: ({a: 1} + {b: 2}), rest: (.n % 2), less: ([1, 2, 3] - [2])}"
    )
    expected = run(program, event('{"id":1,"n":7}'))
    assert isinstance(expected, list)

    assert run(program, event(f'{{"id":{BIG},"n":7}}')) == [expected[0] | {"id": BIG}]


def test_an_integer_beyond_every_double_is_exact_natively_and_refused_by_jq() -> None:
    digits = "9" * 400
    assert run(".", event(digits)) == [int(digits)]

    result = run("[.]", event(digits))

    assert isinstance(result, Permanent)
    assert (result.code, result.message) == ("jq.inexact_integer", "an integer of 400 digits at . is beyond what jq can hold")


@pytest.mark.parametrize("program", [". + 1", ". % 7", ". * 2", "[., 1] | add"])
@pytest.mark.parametrize("number", [2**53, 2**64, 2**70])
def test_computing_is_refused_for_integers_that_happen_to_be_doubles_too(program: str, number: int) -> None:
    """Adding 1 would be lost, and `%` would take 2^63 - 1 in the place of all that is larger."""
    result = run(program, event(str(number)))

    assert isinstance(result, Permanent)
    assert result.code == "jq.inexact_integer"
    assert run("[., . > 5, tostring]", event(str(number))) == [[number, True, str(number)]]


def test_the_exact_way_and_the_fast_way_give_the_same_numbers() -> None:
    numbers = "[1.0,1e3,0.1,-0.0,1e23,4.5e15,100000000000000000000]"
    (fast,) = run("map(.)", event(numbers))  # type: ignore[misc]  # a list
    (exact,) = run(".[0]", event(f"[{numbers},{BIG}]".replace(numbers, numbers)))  # type: ignore[misc]  # a list
    (through_libjq,) = run("(.[0] | map(.))", event(f"[{numbers},{BIG}]"))  # type: ignore[misc]  # a list

    assert fast == exact == through_libjq
    assert [type(n) for n in fast] == [type(n) for n in through_libjq]


def test_nothing_is_decoded_for_literals() -> None:
    subject = event("{")

    assert jq.fields({"a": "x", "b": '"y"'}, "data")([subject]) == [("x", "y")]
    assert subject.decoded is UNSET
