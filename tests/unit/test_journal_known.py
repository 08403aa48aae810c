"""Lines of a journal by what their source called the events."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from journal_parts import BEGAN, an_event, corrections_of, lines_of, write, writer

from penstock.event import Event
from penstock.journal import encoding
from penstock.journal.encoding import Lines
from penstock.journal.known import Known, name_of
from penstock.journal.reader import EVER, JournalReader
from penstock.journal.segments import Segments


@pytest.fixture
def journal(tmp_path: Path) -> Segments:
    return writer(tmp_path)


def known_of(directory: Path, start: float = EVER[0], end: float = EVER[1]) -> Known:
    return Known.read(JournalReader(directory), start, end)


def outcomes(known: Known, *events: Event) -> list[str | None]:
    lines = known.lines(known.numbers(events))
    return [None if line is None else line.outcome for line in lines]


def with_outcome(lines: Lines, outcome: bytes) -> Lines:
    lines.texts = [text.replace(b'"outcome":"delivered"', b'"outcome":"%b"' % outcome) for text in lines.texts]
    return lines


def put(journal: Segments, lines: Lines) -> None:
    journal.append(lines)
    journal.commit()


def test_events_are_known_by_source_and_id(tmp_path: Path, journal: Segments) -> None:
    write(journal, 1, 2)
    known = known_of(tmp_path)
    other = an_event(1).replace(source="list:parcels")
    lines = known.lines(known.numbers([an_event(2), other, an_event(3), an_event(1)]))
    assert [None if line is None else name_of(line) for line in lines] == [
        ("list:orders", "e2"),
        None,
        None,
        ("list:orders", "e1"),
    ]
    assert (len(known), sorted(n for n in known.numbers([an_event(1), an_event(2)]) if n is not None)) == (2, [0, 1])


def test_an_event_whose_id_and_source_were_changed_is_known_by_those_it_came_with(tmp_path: Path, journal: Segments) -> None:
    lines = lines_of(events=[an_event(1).replace(id="order 1", source="shop")])
    lines.texts = [
        text[:-1].replace(b',"event":', b',"given":{"id":"e1","source":"list:orders"},"event":') + b"}" for text in lines.texts
    ]
    put(journal, lines)
    known = known_of(tmp_path)
    assert outcomes(known, an_event(1), an_event(1).replace(id="order 1", source="shop")) == ["delivered", None]


def test_the_outcome_is_the_one_that_the_commit_left(tmp_path: Path, journal: Segments) -> None:
    journal.append(lines_of(1, 2))
    journal.append(corrections_of(2))
    journal.commit()
    known = known_of(tmp_path)
    assert outcomes(known, an_event(1), an_event(2)) == ["delivered", "dead_lettered"]


def test_of_an_event_that_was_received_again_the_line_counts_that_says_most(tmp_path: Path, journal: Segments) -> None:
    put(journal, lines_of(1, 2, 3, at=BEGAN))
    put(journal, with_outcome(lines_of(1, at=BEGAN + 1), b"deduplicated"))
    put(journal, with_outcome(lines_of(4, at=BEGAN + 1), b"filtered"))
    put(journal, lines_of(2, 4, at=BEGAN + 2))
    known = known_of(tmp_path)
    lines = known.lines(known.numbers(map(an_event, (1, 2, 3, 4))))
    assert [(line.outcome, line.at[-7:-5]) for line in lines if line is not None] == [
        ("delivered", "20"),
        ("delivered", "22"),
        ("delivered", "20"),
        ("delivered", "22"),
    ]
    assert len(known) == 4


def test_only_frames_of_the_range_are_read(tmp_path: Path, journal: Segments) -> None:
    write(journal, 1, 2)
    write(journal, 5000, 5001)
    known = known_of(tmp_path, BEGAN + 5000, BEGAN + 5001)
    assert outcomes(known, an_event(1), an_event(5000), an_event(5001)) == [None, "delivered", "delivered"]


def test_what_retention_removes_meanwhile_is_not_there(tmp_path: Path) -> None:
    journal = writer(tmp_path, roll=1)
    write(journal, 1)
    write(journal, 2)
    known = known_of(tmp_path)
    numbers = known.numbers([an_event(1), an_event(2)])
    assert journal.expire(BEGAN + 1e9, 1 << 40, None) == [1]
    assert [line is not None for line in known.lines(numbers)] == [False, True]


@pytest.mark.parametrize("seed", range(3))
def test_many_frames_and_segments_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(encoding, "FRAME", 500)
    rng = random.Random(seed)
    numbers = list(range(600))
    rng.shuffle(numbers)
    journal = writer(tmp_path, roll=3000)
    for start in range(0, 600, 40):
        write(journal, *(n for n in numbers[start : start + 40] if n % 3))
    known = known_of(tmp_path)
    rng.shuffle(numbers)
    lines = known.lines(known.numbers(map(an_event, numbers)))
    assert [None if line is None else msgspec.json.decode(line.event)["id"] for line in lines] == [
        f"e{n}" if n % 3 else None for n in numbers
    ]


def test_no_journal_knows_nothing(tmp_path: Path) -> None:
    known = known_of(tmp_path / "none")
    assert (len(known), outcomes(known, an_event(1))) == (0, [None])
