"""How dead letters are shown. What comes from events must not reach the terminal as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from state_builders import letter

from penstock.cli.dlq_render import data_lines, group_hints, group_lines, letter_lines, show_lines
from penstock.cli.positions import position_teller
from penstock.cli.terminal import Style
from penstock.errors import Violation
from penstock.state.records import Delivered, Group

PLAIN = Style()
HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\nerror[x]: forged\u202e\x9b"
EVENT = b'{"specversion":"1.0","id":"a1","source":"s","type":"t"'


def shown(lines: list[str]) -> str:
    assert all(line.isprintable() for line in lines), lines
    return "\n".join(lines)


def test_nothing_in_a_letter_steers_the_terminal() -> None:
    given = letter(
        "a1",
        message=HOSTILE,
        why=HOSTILE,
        help=HOSTILE,
        code=HOSTILE,
        step=HOSTILE,
        partition=HOSTILE,
        source=HOSTILE,
        event_id=HOSTILE,
        type=HOSTILE,
        time=HOSTILE,
        pipeline="orders",
        record=EVENT + b',"data":{"a":"\\u001b[2J\xe2\x80\xae"}}',
        owed=[HOSTILE],
        delivered=[Delivered(HOSTILE, 0)],
    )
    group = Group("1" * 17, HOSTILE, HOSTILE, HOSTILE, 1, 0, 1.0, 2.0, "a1")
    views = {
        "letter": show_lines(given, bytes.hex, PLAIN),
        "violations": show_lines(replace(given, violations=[Violation(HOSTILE, HOSTILE, HOSTILE)]), bytes.hex, PLAIN),
        "no JSON": show_lines(replace(given, record=EVENT + b"}", original=HOSTILE.encode() + b"\xff\x00"), bytes.hex, PLAIN),
        "list": letter_lines([given], PLAIN, 100),
        "groups": group_lines([group], PLAIN, 60),
    }
    assert [(name, line) for name, lines in views.items() for line in lines if not line.isprintable()] == []
    assert {name for name, lines in views.items() if "\\x1b" in "".join(lines)} == set(views)


def test_all_there_is_to_know_is_shown() -> None:
    given = letter(
        "0123456789abcdef",
        violations=[Violation(".price", "minimum", "the price is 0"), Violation(".name", "type", "the name is null")],
        why="the data does not fit shop@1",
        record=EVENT + b',"data":{"price":0,"n":18446744073709551617}}',
        repeats=3,
        attempts=2,
        delivered=[Delivered("file", 0)],
        time="2010-12-01T08:26:00Z",
    )
    assert (
        shown(show_lines(given, bytes.hex, PLAIN))
        == """\
dead letter 0123456789abcdef  open  pipeline orders

what is wrong
  the data does not fit shop@1  [validate.failed]
    EVERY VIOLATION   RULE
    the price is 0    minimum
    the name is null  type

where
  step          validate-1
  event         0123456789abcdef  (order.line)
  source        file:in
  partition     p
  position      00000001
  event time    2010-12-01T08:26:00Z
  owed to       a, b
  delivered to  file (output 0)

how often
  attempts     2
  repeats      3
  first        1970-01-01 00:00:01Z
  last         1970-01-01 00:00:01Z
  version      v1 of the pipeline
  fingerprint  f1

history
  1970-01-01 00:00:01Z  failed
  1970-01-01 00:00:01Z  failed last  2 attempts in all

data, as it was received
  {
    "price": 0,
    "n": 18446744073709551617
  }

next
  pipe dlq replay orders --id 0123456789   this one, once it is mended
  pipe dlq replay orders --fingerprint f1  all of this cause
  pipe dlq edit 0123456789                 mend its data
  pipe dlq to-test 0123456789              make it a test of the pipeline
  pipe dlq discard orders --id 0123456789  give it up
"""
    )


def test_a_settled_letter_suggests_nothing() -> None:
    assert "next" not in show_lines(letter("a1", status="resolved", record=EVENT + b"}"), bytes.hex, PLAIN)


@pytest.mark.parametrize(
    ("record", "original", "length", "lines"),
    [
        (EVENT + b"}", b"\xff\x00ab", 4, ["\\xff\\0ab"]),
        (EVENT + b"}", None, 0, ["none"]),
        (EVENT + b',"data":[1.10,1e2]}', b"x", 1, ["[", "  1.10,", "  1e2", "]"]),
    ],
)
def test_data_is_shown_as_it_came(record: bytes, original: bytes | None, length: int, lines: list[str]) -> None:
    assert data_lines(letter("a1", record=record, original=original, original_length=length)) == lines


@pytest.mark.parametrize(
    ("record", "original", "length"),
    [
        (EVENT + b',"data":[' + b",".join([b"1"] * 500) + b"]}", None, 0),
        (EVENT + b',"data":"' + b"x" * 9000 + b'"}', None, 0),
        (EVENT + b"}", b"x" * 9000, 9000),
        (EVENT + b"}", b"x" * 4096, 1 << 30),
    ],
)
def test_what_is_cut_is_said(record: bytes, original: bytes | None, length: int) -> None:
    lines = data_lines(letter("a1", record=record, original=original, original_length=length))
    assert sum(map(len, lines)) < 4400
    assert lines[-1].startswith("… ")
    assert "pipe dlq show a1 --json" in lines[-1]


def test_causes_have_their_whole_message() -> None:
    group = Group("1" + "ab" * 8, "validate.failed", "check", "a long reason " * 8, 105, 0, 1.0, 2.0, "0123456789abcdef")
    lines = group_lines([group], PLAIN, 60)
    assert " ".join(" ".join(lines[2:]).split()) == ("a long reason " * 8).strip()
    assert max(map(len, lines[2:])) <= 60
    assert group_lines([group], PLAIN, None)[2:] == ["    " + ("a long reason " * 8).strip()]
    assert group_hints("orders", [group])[1][0] == "pipe dlq replay orders --fingerprint 1abababab"


def test_status_and_repeats_are_columns_only_where_they_say_something() -> None:
    assert letter_lines([letter("a1")], PLAIN, None)[0].split() == ["ID", "LAST", "SEEN", "STEP", "EVENT", "MESSAGE"]
    assert "open, edited" in letter_lines([letter("a1", edited=b"")], PLAIN, None)[1]
    titles = letter_lines([letter("a1"), letter("b2", status="parked", repeats=2)], PLAIN, None)[0]
    assert titles.split() == ["ID", "STATUS", "LAST", "SEEN", "REPEATS", "STEP", "EVENT", "MESSAGE"]


def test_positions_are_told_in_the_words_of_their_source() -> None:
    order = (2).to_bytes(4, "big") + (1234567).to_bytes(8, "big")
    assert position_teller("file")(order) == "generation 2, byte 1,234,567"
    assert position_teller("generate")((41).to_bytes(8, "big")) == "event 41"
    assert position_teller("stdin")(b"") == "none"
    assert position_teller("file")(b"odd") == position_teller(None)(b"odd") == "6f6464"


def test_parked_letters_and_those_that_wait_for_a_retry_say_so() -> None:
    letters = [
        letter("a1", lane="ann", next_at=3600.0),
        letter("b2", lane="ann", status="parked", code="lane.parked", next_at=0.0),
    ]
    titles, head, behind = letter_lines(letters, PLAIN, None)
    assert titles.split() == ["ID", "STATUS", "LAST", "SEEN", "NEXT", "RETRY", "LANE", "STEP", "EVENT", "MESSAGE"]
    assert ("1970-01-01 01:00:00Z" in head, "ann" in head) == (True, True)
    assert ("1970-01-01 00:00:00Z" in behind, "parked" in behind) == (False, True)
    lines = show_lines(replace(letters[0], record=EVENT + b"}", retries=2), bytes.hex, PLAIN)
    assert [line.split() for line in lines if "retr" in line] == [["retries", "2"], ["next", "retry", "1970-01-01", "01:00:00Z"]]
    text = "\n".join(show_lines(replace(letters[1], record=EVENT + b"}"), bytes.hex, PLAIN))
    assert "pipe status orders" in text
    assert "pipe dlq replay" not in text
