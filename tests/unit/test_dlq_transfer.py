"""Dead letters as lines of a file, and edits of their events: exact, validated, refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from hashlib import blake2b
from typing import Any

import pytest
from state_builders import letter

from dlq.edits import editable, edited, patch
from dlq.redaction import Redactor, masked, parse_path
from dlq.transfer import adopted, export_line, import_line
from penstock.engine.letters import DECODE, letter_id
from penstock.errors import UsageError, Violation
from penstock.event import Event
from penstock.state.records import DeadLetter, Delivered, Happening

DATA = b'{"total": 1.10, "big": 12345678901234567890123, "text": "\xc3\xa9\\u2028\\u0000"}'
HEAD = b'{"specversion":"1.0","id":"7","source":"file:in","type":"order.line"'
RAW = b"\x00\xff raw \n"


def made(**changes: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "id": letter_id("orders", Event("7", "file:in", "")),
        "event_id": "7",
        "record": HEAD + b',"data":' + DATA + b"}",
        "event": HEAD + b"}",
        "original": RAW,
        "original_digest": blake2b(RAW, digest_size=16).hexdigest(),
        "violations": [],
        "delivered": [],
    }
    return letter("x", **(values | changes))


EVERYTHING = made(
    why="w",
    help="h",
    violations=[Violation(".a", "type", "m")],
    delivered=[Delivered("file", 1)],
    edited=HEAD + b',"data":{"total":2}}',
    source_record=b'{"op": "insert"}',
    time="2026-01-01T00:00:00Z",
    reread=True,
    first_at=1763741825.1234567,
    last_at=1763741826.7654321,
    attempts=3,
    repeats=2,
    status="discarded",
    position=b"\x00\x01",
    lane="k",
    arrival=3,
    retries=2,
    next_at=7.25,
    redelivered=True,
)
HISTORY = [Happening(1.5, "edited", "ann@here", {"reason": "r", "before": "{}", "after": "{}"})]


@pytest.mark.parametrize("given", [made(), EVERYTHING, made(original=None, key=None, record=HEAD + b"}")])
def test_what_is_given_out_comes_back_byte_for_byte(given: DeadLetter) -> None:
    line = export_line(given, HISTORY)
    assert import_line(line) == (given, HISTORY)
    assert export_line(*import_line(line)) == line
    assert b"\n" not in line


def test_nothing_of_a_letter_is_forgotten_by_the_format() -> None:
    plain = {field.name: field.default for field in fields(DeadLetter)}
    same = {name for name, default in plain.items() if getattr(EVERYTHING, name) == default}
    assert same == {"job"}, "give it a value in EVERYTHING, and a place in the format"


def test_what_only_a_store_knows_of_a_letter_stays_there() -> None:
    line = export_line(made(status="replaying", job="j"), [Happening(1.0, "imported", "ann@here")])
    assert import_line(line) == (made(), [])


def test_a_letter_of_another_pipeline_becomes_the_one_that_its_event_would_have_here() -> None:
    own = adopted(made(), "other")
    assert (own.pipeline, own.id) == ("other", letter_id("other", Event("7", "file:in", "")))
    assert import_line(export_line(own, []))[0] == own


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda line: b"{}", "its format is none"),
        (lambda line: b"no JSON", "invalid"),
        (lambda line: line[:-9], "truncated"),
        (lambda line: line.replace(b'"dead_letter":1', b'"dead_letter":2'), "its format is 2"),
        (lambda line: line.replace(b'"status":"open"', b'"status":"lost"'), "lost"),
        (lambda line: line.replace(b'"position":"00000001"', b'"position":"zz"'), "hexadecimal"),
        (lambda line: line.replace(b'"original":"AP8g', b'"original":"AP8h'), "digest"),
        (lambda line: line.replace(b'"id":"7"', b'"id":"8"'), "another source or id"),
        (lambda line: line.replace(b'"pipeline":"orders"', b'"pipeline":"others"'), "its id is not that"),
        (lambda line: line.replace(b'"specversion":"1.0"', b'"specversion":"3"'), "specversion"),
    ],
)
def test_a_line_that_is_not_as_it_was_written_is_refused(change: Callable[[bytes], bytes], why: str) -> None:
    line = export_line(made(), [])
    assert change(line) != line
    with pytest.raises(UsageError) as caught:
        import_line(change(line))
    assert (caught.value.code, why in str(caught.value.why)) == ("dlq.bad_line", True), caught.value.why


def test_an_event_is_edited_with_its_numbers_as_they_came() -> None:
    given = made()
    text = editable(given)
    assert b"1.10" in text
    assert b"12345678901234567890123" in text
    assert edited(given, text) is None
    assert (
        edited(given, given.record.replace(b"1.10", b"2.50"))
        == HEAD + b',"data":' + DATA.replace(b"1.10", b"2.50").replace(b", ", b",").replace(b": ", b":") + b"}"
    )


def test_what_was_no_json_is_edited_as_the_text_that_it_is() -> None:
    given = made(record=HEAD + b"}", original=b'{"a": 1,}', step=DECODE)
    assert json.loads(editable(given))["data"] == '{"a": 1,}'
    assert edited(given, editable(given)) is None
    assert patch('.data |= (sub(",}"; "}") | fromjson)')(given) == HEAD + b',"data":{"a":1}}'
    for unfit, code in ((replace(given, original=b"\xff"), "dlq.not_text"), (replace(given, reread=True), "dlq.head_only")):
        with pytest.raises(UsageError) as caught:
            editable(unfit)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "dlq.bad_edit"),
        (b"{", "dlq.bad_edit"),
        (b"[]", "dlq.bad_edit"),
        (HEAD + b',"time":"noon"}', "dlq.bad_edit"),
        (HEAD.replace(b'"7"', b'"8"') + b"}", "dlq.other_event"),
        (HEAD.replace(b"file:in", b"file:out") + b"}", "dlq.other_event"),
    ],
)
def test_an_edit_that_is_no_event_or_another_one_is_refused(text: bytes, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        edited(made(), text)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (".data[", "dlq.bad_patch"),
        (".data", "dlq.bad_edit"),
        (".data.total", "dlq.patch_failed"),
        ("empty", "dlq.patch_failed"),
        (".data.text.x = 1", "dlq.patch_failed"),
        ('.id = "8"', "dlq.other_event"),
    ],
)
def test_a_program_that_gives_no_event_back_is_refused(program: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        patch(program)(made())
    assert caught.value.code == code


def test_a_program_changes_what_it_names_and_no_number_beside_it() -> None:
    assert (
        patch('.type = "order.mended"')(made())
        == HEAD.replace(b"order.line", b"order.mended") + b',"data":' + DATA.replace(b", ", b",").replace(b": ", b":") + b"}"
    )
    assert patch(".")(made()) is None
    after = patch('.data.total |= tostring | .data.new = "x"')(made())
    assert after is not None
    assert b"12345678901234567890123" in after


def test_what_looks_secret_or_personal_keeps_its_shape_and_nothing_else() -> None:
    event = {
        "subject": "ada@example.com",
        "data": {
            "customer": {"firstName": "Ada", "e-mail": "ada@example.com", "phone": 491701234567, "active": True},
            "apiKey": ["k-1", {"nested": "k-2"}],
            "note": "call ada@example.com, card 4111 1111 1111 1111, order 4111111111111112",
            "login": "https://bob:secret@host/x",
            "spinner": 4, "total": 9.5, "emailed": None,
        },
    }  # fmt: skip
    redactor = Redactor(taken=[parse_path(".data.total")], kept=[parse_path(".data.customer.firstName")])
    assert redactor.redact(event) == {
        "subject": "xxx@xxxxxxx.xxx",
        "data": {
            "customer": {"firstName": "Ada", "e-mail": "xxx@xxxxxxx.xxx", "phone": 0, "active": True},
            "apiKey": ["x-0", {"nested": "x-0"}],
            "note": "call xxx@xxxxxxx.xxx, card 0000 0000 0000 0000, order 4111111111111112",
            "login": "https://xxx:xxxxxx@host/x",
            "spinner": 4, "total": 0.0, "emailed": None,
        },
    }  # fmt: skip
    assert redactor.text("491701234567 is not the number of ada@example.com") == "0 is not the number of xxx@xxxxxxx.xxx"
    assert ".data.customer.phone" in redactor.changed
    assert '.data.customer["e-mail"]' in redactor.changed
    plain = Redactor(taken=[parse_path(".data.cards[].no")], guesses=False)
    assert plain.redact({"data": {"cards": [{"no": "12"}], "email": "a@b.cc"}}) == {
        "data": {"cards": [{"no": "00"}], "email": "a@b.cc"}
    }


def test_paths_of_events() -> None:
    assert parse_path('.data["a b"].c[0][]."d"') == ("data", "a b", "c", 0, "[]", "d")
    for text in ("", "data", ".data..x", ".data[x]", ".data | .x"):
        with pytest.raises(UsageError, match="no path"):
            parse_path(text)
    assert masked({"a": 1}.get("a")) == 0
