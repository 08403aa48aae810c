"""What the verdicts of crash stories conclude from what they read."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.testing.effects_world import ends_of
from penstock.testing.oracle import Kind, Line, Oracle
from penstock.testing.order_tables import Rows
from penstock.testing.order_verdict import newest_of, overwritten
from penstock.testing.story_state import LocalState, NotYet


def line(sequence: int, kind: Kind = "plain", key: str = "k") -> Line:
    return Line("part-0.jsonl", sequence, kind, key, sequence, 1, "", f"sum {sequence}")


def lines(count: int, **kinds: Kind) -> Oracle:
    """Of one key; the fifth and the tenth delete its row."""
    return Oracle([line(n, kinds.get(f"n{n}", "plain")) for n in range(count)])


def test_the_newest_line_is_the_last_that_can_be_delivered() -> None:
    assert newest_of(lines(8))["k"].sequence == 7
    assert newest_of(lines(8, n7="error", n6="filtered"))["k"].sequence == 5
    assert newest_of(lines(8, n7="refused"))["k"].sequence == 7
    assert newest_of(lines(1, n0="garbage")) == {}


@pytest.mark.parametrize(
    ("history", "found"),
    [
        ([("put", "k", 0), ("put", "k", 3), ("put", "k", 3), ("delete", "k", 3), ("put", "k", 6)], []),
        ([("put", "k", 3), ("put", "k", 2)], [("k", 2)]),
        ([("put", "k", 3), ("put", "other", 2)], []),
        ([("put", "k", 1), ("delete", "k", 1), ("put", "k", 3)], [("k", 3)]),  # the deletion was the fifth line at the earliest
        ([("put", "k", 8), ("delete", "k", 8), ("put", "k", 7)], [("k", 7)]),
    ],
)
def test_a_row_that_comes_over_a_newer_one_or_behind_its_deletion_is_found(history: Rows, found: Rows) -> None:
    assert overwritten(history, lines(10)) == found


def test_a_line_ends_where_the_source_stands_behind_it(tmp_path: Path) -> None:
    (tmp_path / "part-0.jsonl").write_bytes(b"{}\n[1]\n")
    places = [("part-0.jsonl", 0, "k/0"), ("part-0.jsonl", 1, "k/1")]
    assert ends_of(tmp_path, places) == {"k/0": ("in/part-0.jsonl", 3), "k/1": ("in/part-0.jsonl", 7)}


def test_a_store_that_no_run_has_made_yet_has_nothing_to_say(tmp_path: Path) -> None:
    with pytest.raises(NotYet):
        LocalState(tmp_path).query("SELECT 1")
