"""What the crash harness finds wrong with a journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from penstock.testing.journal_check import journal_findings

DEAD = {"outcome": "dead_lettered", "step": "check"}


def line(number: int, **said: Any) -> dict[str, Any]:
    told = {"partition": "p", "position": f"{number:02}", "outcome": "delivered", **said}
    return told if "corrects" in told else told | {"event": {"id": f"p{number}"}}


def found(directory: Path, lines: list[dict[str, Any]], letters: list[str], gone: dict[str, str] | None = None) -> list[str]:
    """Two events were received, one of them delivered."""
    text = b"".join(json.dumps(one).encode() + b"\n" for one in lines)
    (directory / "0000000001.jsonl.zst").write_bytes(zstandard.compress(text))
    totals = {"delivered": 1, "filtered": 0, "deduplicated": 0, "dead_lettered": 1}
    return journal_findings(directory, totals, letters, gone)


@pytest.mark.parametrize("late", [False, True])
def test_a_journal_that_tells_of_every_event_once_is_right(tmp_path: Path, late: bool) -> None:
    dead = [line(2), line(2, corrects="p2", letter="a", **DEAD)] if late else [line(2, letter="a", **DEAD)]
    assert found(tmp_path, [line(1), *dead], ["a"]) == []


def test_what_is_told_twice_or_of_nobody_is_found(tmp_path: Path) -> None:
    lines = [line(1), line(1), line(2, letter="a", **DEAD), line(3, corrects="p3", letter="c", **DEAD)]
    assert found(tmp_path, lines, ["a"]) == [
        "('p', '01', 'p1') has two lines",
        "a correction of ('p', '03', 'p3'), which has no line",
    ]


def test_a_dead_letter_that_one_side_alone_knows_is_found(tmp_path: Path) -> None:
    lines = [line(1), line(2, letter="a", **DEAD)]
    assert found(tmp_path, lines, ["a", "b"]) == ["dead letters ['b'] are in the journal or the store alone"]
    assert found(tmp_path, lines, []) == ["dead letters ['a'] are in the journal or the store alone"]


def test_an_event_that_is_gone_needs_no_line_and_one_that_came_again_does(tmp_path: Path) -> None:
    lines = [line(1), line(2, letter="a", **DEAD)]
    assert found(tmp_path, lines, ["a", "b"], {"b": "p7", "a": "p2"}) == []
    assert found(tmp_path, lines, ["a", "b"], {"b": "p1"}) == ["dead letters ['b'] are in the journal or the store alone"]
