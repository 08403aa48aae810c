"""jq, filter, set, split and redact."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError
from transform_parts import build, event, shown

from penstock.errors import Permanent
from penstock.event import Event


def run(kind: str, config: Any, *data: Any, **changes: Any) -> list[Any]:
    return [shown(result) for result in build(kind, config).apply([event(each, **changes) for each in data])]


def test_jq_makes_an_event_of_each_output() -> None:
    assert run("jq", ".[] | {n: .}", [1], [], [1, 2]) == [{"n": 1}, None, [{"n": 1}, {"n": 2}]]


def test_jq_keeps_the_envelope_and_drops_the_old_text() -> None:
    (made,) = build("jq", "{total: (.a + 1)}").apply([event({"a": 1}, origin=7, position=b"p", datacontenttype="text/plain")])

    assert (made.json(), made.id, made.time, made.origin, made.position) == (
        b'{"total":2}',
        "e1",
        "2010-12-01T08:26:00Z",
        7,
        b"p",
    )
    assert made.datacontenttype is None


def test_jq_hands_on_the_error_of_an_event_and_the_outputs_of_its_neighbours() -> None:
    assert run("jq", ".a + 1", {"a": 1}, {"a": "x"}, {"a": 2}) == [
        2,
        ("jq.error", 'string ("x") and number (1) cannot be added'),
        3,
    ]


def test_jq_keeps_an_integer_beyond_doubles_exact() -> None:
    assert run("jq", "{id, next: .n}", {"id": 9007199254740993, "n": 2**70}) == [{"id": 9007199254740993, "next": 2**70}]


@pytest.mark.parametrize("value", [0, "", [], {}, True, -1])
def test_filter_passes_the_event_itself_for_anything_but_false_and_null(value: Any) -> None:
    given = event({"a": value})

    (result,) = build("filter", ".a").apply([given])

    assert result is given


@pytest.mark.parametrize("program", [".no", "false", "null", "empty", ".a > 1"])
def test_filter_drops_the_event_for_false_null_or_nothing(program: str) -> None:
    assert run("filter", program, {"a": 1}) == [None]


def test_filter_refuses_several_values_and_hands_on_errors() -> None:
    assert run("filter", ".a[]", {"a": [True, True]}, {"a": [True]}, {"a": "x"}) == [
        ("filter.not_one_value", "the condition gave 2 values for one event"),
        {"a": [True]},
        ("jq.error", 'Cannot iterate over string ("x")'),
    ]


def test_filter_sees_the_attributes() -> None:
    assert run("filter", '$event.type == "order.line"', 1) == [1]


def test_set_changes_attributes_and_leaves_the_data() -> None:
    config = {
        "type": "order.enriched",
        "subject": ".id",
        "time": ".paid_at",
        "partition_key": "$event.type",
        "id": '.id | tostring + "-x"',
        "source": "shop2",
        "dataschema": "registry:///order/1.json",
        "tenant": ".tenant",
        "gold": "(.total > 10)",
    }
    data = {"id": 7, "paid_at": "2026-11-01T00:00:00+01:00", "tenant": "t", "total": 11}

    (made,) = build("set", config).apply([event(data, extensions={"old": 1}, origin=3)])

    assert made == Event(
        "7-x",
        "shop2",
        "order.enriched",
        "2026-11-01T00:00:00+01:00",
        "7",
        raw=made.raw,
        decoded=data,
        partitionkey="order.line",
        dataschema="registry:///order/1.json",
        extensions={"old": 1, "tenant": "t", "gold": True},
        origin=3,
    )


def test_set_takes_an_attribute_away_where_the_value_is_null() -> None:
    (made,) = build("set", {"subject": ".no", "time": "(null)", "tenant": ".no"}).apply(
        [event({}, subject="x", extensions={"tenant": "t"})]
    )

    assert (made.subject, made.time, made.extensions) == (None, None, None)


@pytest.mark.parametrize(
    ("config", "data", "code", "message"),
    [
        ({"type": ".x"}, {}, "event.missing_attribute", "type would be null; every event needs one"),
        ({"type": ".x"}, {"x": ""}, "event.invalid_attribute", 'type must be a non-empty string, it is ""'),
        ({"subject": ".x"}, {"x": [1]}, "event.invalid_attribute", "subject must be a non-empty string, it is [1]"),
        ({"subject": ".x"}, {"x": True}, "event.invalid_attribute", "subject must be a non-empty string, it is true"),
        (
            {"time": ".x"},
            {"x": "2026-11-01"},
            "event.invalid_time",
            'time must be RFC 3339 with an offset, it is "2026-11-01"',
        ),
        (
            {"tenant": ".x"},
            {"x": [1]},
            "cloudevents.invalid_attribute",
            "the attribute 'tenant' must be a string, a boolean or an integer of 32 bits",
        ),
        ({"subject": ".x.y"}, {"x": "s"}, "jq.error", 'Cannot index string with string ("y")'),
        ({"subject": ".x[]"}, {"x": []}, "jq.not_one_value", "subject gives no value, not one"),
    ],
)
def test_set_refuses_what_cannot_be_an_attribute(config: Any, data: Any, code: str, message: str) -> None:
    assert run("set", config, data, {"x": "2026-11-01T00:00:00Z"})[0] == (code, message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"subjct": ".x"}, "did you mean 'subject'"),
        ({"partitionkey": ".x"}, "did you mean 'partition_key'"),
        ({"Tenant": ".x"}, "can be no extension attribute"),
        ({"specversion": "2"}, "can be no extension attribute"),
        ({"data": ".x"}, "can be no extension attribute"),
        ({}, "at least one attribute"),
        ({"type": 3}, "valid string"),
        ({"tenant": 3}, "valid string"),
    ],
)
def test_set_refuses_names_that_are_no_attributes(config: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        build("set", config)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".items", [{"n": 1}, {"n": 2}]),
        (".items[]", [{"n": 1}, {"n": 2}]),
        (".items // []", [{"n": 1}, {"n": 2}]),
        (".none // []", None),
        (".empty", None),
        ("empty", None),
        (".items[0, 0]", [{"n": 1}, {"n": 1}]),
        ("(.items[0])", [{"n": 1}]),
        (".items | map(.n)", [1, 2]),
        (".none", ("split.not_a_list", "a list was expected, the value is of type null")),
        (".id", ("split.not_a_list", "a list was expected, the value is of type number")),
        (".id[]", ("jq.error", "Cannot iterate over number (7)")),
    ],
)
def test_split_makes_an_event_of_each_item(path: str, expected: Any) -> None:
    assert run("split", path, {"id": 7, "items": [{"n": 1}, {"n": 2}], "empty": []}) == [expected]


CUSTOMER = {"name": "Ada", "email": "a@x.org", "cards": [{"no": "4111"}, {"no": "4222", "cvc": 1}], "tags": ["a", "b"]}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ([".email"], CUSTOMER | {"email": "***"}),
        ({"fields": [".email", '.["name"]'], "with": "?"}, CUSTOMER | {"email": "?", "name": "?"}),
        ({"fields": [".cards[].no"]}, CUSTOMER | {"cards": [{"no": "***"}, {"no": "***", "cvc": 1}]}),
        ({"fields": [".cards[].cvc"], "with": "remove"}, CUSTOMER | {"cards": [{"no": "4111"}, {"no": "4222"}]}),
        ({"fields": [".cards[1]"], "with": "remove"}, CUSTOMER | {"cards": [{"no": "4111"}]}),
        ({"fields": [".tags[]"], "with": "remove"}, CUSTOMER | {"tags": []}),
        ({"fields": [".tags[5]", ".none", ".none.deeper", ".cards[].none"]}, CUSTOMER),
        (
            {"fields": [".email"], "with": "hash"},
            CUSTOMER | {"email": hashlib.blake2b(b'"a@x.org"', digest_size=16).hexdigest()},
        ),
        (
            {"fields": [".email"], "with": "hash", "key": "k"},
            CUSTOMER | {"email": hashlib.blake2b(b'"a@x.org"', digest_size=16, key=b"k").hexdigest()},
        ),
    ],
)
def test_redact_replaces_what_its_paths_lead_to(config: Any, expected: Any) -> None:
    given = event(CUSTOMER)

    (made,) = build("redact", config).apply([given])

    assert made.data == expected
    assert given.data == CUSTOMER


def test_redact_hashes_equal_values_alike_whatever_their_form() -> None:
    one, two = run("redact", {"fields": [".x"], "with": "hash"}, {"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}})

    assert one == two


@pytest.mark.parametrize("path", [".email.address", ".cards.no", ".name[]", ".cards[].no.x", "[].x"])
def test_redact_refuses_a_path_that_leads_through_something_else(path: str) -> None:
    if path[0] != ".":
        with pytest.raises(ValidationError, match="is no path"):
            build("redact", [path])
        return
    (result,) = build("redact", [path]).apply([event(CUSTOMER)])

    assert isinstance(result, Permanent)
    assert (result.code, result.where) == ("redact.wrong_path", path)


@pytest.mark.parametrize("config", [[], [""], ["email"], [".a b"], [".a | .b"], {"fields": [".a"], "key": "k" * 65}])
def test_redact_refuses_what_is_no_path_and_a_key_too_long(config: Any) -> None:
    with pytest.raises(ValidationError):
        build("redact", config)


def test_redact_does_not_show_its_key() -> None:
    transform = build("redact", {"fields": [".a"], "with": "hash", "key": "canary"})

    assert "canary" not in repr(vars(transform).get("config", transform))
