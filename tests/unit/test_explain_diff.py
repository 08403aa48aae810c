from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.event_diff import changes, diff_lines, document_diff, document_lines, event_document, pairs
from penstock.cli.terminal import Style
from penstock.engine.prepare import canonical
from penstock.event import Event

PLAIN, COLOR = Style(), Style(color=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([1.0, 0.5]) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c d"]), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_there_are_changes_exactly_where_documents_differ(old: Any, new: Any) -> None:
    assert bool(list(changes(old, new))) == (canonical(old) != canonical(new))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": 1}, {"a": 1.0}, ["~ .a  1 → 1.0"]),
        ({"a": 9007199254740993}, {"a": 9007199254740992}, ["~ .a  9007199254740993 → 9007199254740992"]),
        ({"a": {"b": 1}}, {"a": {"c d": 2}}, ["- .a.b  1", '+ .a["c d"]  2']),
        ({"a": [1, 2]}, {"a": [1, 3]}, ["~ .a[1]  2 → 3"]),
        ({"a": [1, 2, 3]}, {"a": [1, 9, 8, 3]}, ["- .a[1]  2", "+ .a[1]  9", "+ .a[2]  8"]),
        ({"a": []}, {"a": {}}, ["~ .a  [] → {}"]),
        (1, None, ["~ .  1 → null"]),
        ({"a": "x" * 40}, {"a": "y" * 40}, [f'- .a  "{"x" * 40}"', f'+ .a  "{"y" * 40}"']),
        ({}, {"a": "x" * 400}, [f'+ .a  "{"x" * 98}…']),
    ],
)
def test_a_change_is_told_with_its_path(old: Any, new: Any, told: list[str]) -> None:
    assert document_diff(old, new, PLAIN) == told


def test_colors_are_those_of_diffs() -> None:
    assert document_diff({"a": 1, "b": 2}, {"b": 3, "c": 4}, COLOR) == [
        "\x1b[31m- .a  1\x1b[0m",
        "~ .b  \x1b[31m2\x1b[0m → \x1b[32m3\x1b[0m",
        "\x1b[32m+ .c  4\x1b[0m",
    ]


def test_what_is_left_out_is_said() -> None:
    assert document_diff({}, {f"k{n}": n for n in range(70)}, PLAIN)[60:] == ["… 10 more changes: --json has all of them"]
    assert document_lines(list(range(300)))[200:] == ["… 102 more lines: --json has all of it"]


def test_hostile_data_moves_no_cursor() -> None:
    before, after = (Event("1", "s", "t", decoded={"a\x1b[2J": text}) for text in ("x", "\x1b[31m\u202e"))
    [line] = diff_lines(before, after, PLAIN)
    assert line == '~ .data["a\\u001b[2J"]  "x" → "\\u001b[31m\\u202e"'
    assert "\x1b" not in "".join(document_lines(event_document(after)))


def test_data_that_is_no_json_is_shown_as_base64() -> None:
    before, after = (Event("1", "s", "t", decoded=data) for data in (b"\x00", b"\x01"))
    assert diff_lines(before, after, PLAIN) == ['~ .data_base64  "AA==" → "AQ=="']


def test_outputs_are_told_apart_by_the_ids_of_their_inputs() -> None:
    def events(*ids: str) -> list[Event]:
        return [Event(identity, "s", "t") for identity in ids]

    def told(inputs: list[Event], outputs: list[Event]) -> list[tuple[str | None, list[str]]]:
        return [(before and before.id, [event.id for event in made]) for before, made in pairs(inputs, outputs)]

    assert told(events("a"), events("x", "y")) == [("a", ["x", "y"])]
    assert told(events("a", "b"), events("x", "y")) == [("a", ["x"]), ("b", ["y"])]
    assert told(events("a", "b", "c"), events("a", "c-0", "c-1", "c-2")) == [
        ("a", ["a"]),
        ("b", []),
        ("c", ["c-0", "c-1", "c-2"]),
    ]
    assert told(events("a", "b"), events("z")) == [(None, ["z"])]
