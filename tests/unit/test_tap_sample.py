from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.tap_sample import Allowance, Sample, evenly
from penstock.faults import Faults
from penstock.journal.encoding import Lines
from penstock.journal.follow import Tail, received
from penstock.journal.lines import Line
from penstock.journal.segments import Segments
from penstock.testing.clock import FakeClock


def write(segments: Segments, ids: Sequence[str], at: float, *, corrections: bool = False) -> None:
    """One commit."""
    lines = Lines((at, at), corrections=corrections)
    for identity in ids:
        head = b'{"at":"1970-01-01T00:%02d:00.000Z","partition":"p","version":"v","outcome":"delivered"' % (at // 60)
        body = b'"corrects":"%b"' if corrections else b'"event":{"specversion":"1.0","id":"%b","source":"s","type":"t"}'
        lines.texts.append(head + b"," + body % identity.encode() + b"}")
        lines.ids.append(identity)
        lines.times.append("1970-01-01T00:00:00Z")
    segments.append(lines)
    segments.commit()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def segments(directory: Path) -> Segments:
    made = Segments(directory, Faults(), 2000)
    made.open(None)
    return made


def ids(lines: Sequence[Line]) -> list[str]:
    return [line.received().id for line in lines]


def test_what_was_received_in_a_while_is_found(directory: Path, segments: Segments) -> None:
    for minute in range(30):
        write(segments, [f"{minute}-{n}" for n in range(20)], minute * 60.0)
        write(segments, [f"{minute}-0"], minute * 60.0, corrections=True)
    segments.close()
    assert len(list(directory.glob("*.index"))) > 2
    found = ids([record.line for record in received(directory, 600.0, 720.0)])
    assert found == [f"{minute}-{n}" for minute in (10, 11) for n in range(20)]
    assert list(received(directory / "nowhere", 0.0, 1e10)) == []


def test_a_tail_gives_what_is_committed_from_then_on_through_all_segments(directory: Path, segments: Segments) -> None:
    early = Tail(directory)
    for minute in range(5):
        write(segments, [f"{minute}"], minute * 60.0)
    late = Tail(directory)
    found = [*early.arrived()]
    for minute in range(5, 40):
        write(segments, [f"{minute}-{n}" for n in range(10)], minute * 60.0)
        write(segments, [f"{minute}-0"], minute * 60.0, corrections=True)
        if minute % 7 == 0:
            found += early.arrived()
    segments.close()
    found += early.arrived()
    assert early.arrived() == []
    came = [line for frame in found for line in ids([record.line for record in early.records(frame)])]
    expected = [f"{minute}-{n}" for minute in range(5, 40) for n in range(10)]
    assert came == [*map(str, range(5)), *expected]
    assert [line for frame in late.arrived() for line in ids([record.line for record in late.records(frame)])] == expected
    assert len(list(directory.glob("*.index"))) > 2


def test_a_tail_waits_for_a_journal_that_does_not_exist_yet(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "journal")
    assert tail.arrived() == []
    segments = Segments(tmp_path / "journal", Faults(), 2000)
    segments.open(None)
    assert tail.arrived() == []
    write(segments, ["a"], 0.0)
    [frame] = tail.arrived()
    segments.close()
    assert frame.lines == 1


def test_what_is_written_and_not_committed_is_not_seen(directory: Path, segments: Segments) -> None:
    tail = Tail(directory)
    lines = Lines((0.0, 0.0), [b"{}"], ["a"], ["1970-01-01T00:00:00Z"])
    segments.append(lines)
    assert tail.arrived() == []
    segments.commit()
    assert len(tail.arrived()) == 1
    segments.close()


def test_a_sample_is_spread_over_what_came(directory: Path, segments: Segments) -> None:
    sample = Sample(Tail(directory), FakeClock())
    assert not sample.look()
    for minute in range(4):
        write(segments, [f"{minute * 10 + n}" for n in range(10)], minute * 60.0)
    segments.close()
    assert sample.look()
    assert sample.came == 40
    assert ids(list(sample.spread(4))) == ["0", "10", "20", "30"]
    assert ids(list(sample.spread(3))) == ["0", "13", "26"]
    assert len(list(sample.spread(100))) == 40
    assert list(sample.spread(0)) == []
    assert sorted(map(int, ids(list(sample.all())))) == list(range(40))


def test_looking_at_all_ends_when_its_time_is_over(directory: Path, segments: Segments) -> None:
    class Hasty(FakeClock):
        def monotonic(self) -> float:
            self._monotonic += 0.004
            return self._monotonic

    sample = Sample(Tail(directory), Hasty())
    write(segments, [str(n) for n in range(100)], 0.0)
    segments.close()
    sample.look()
    assert 5 < len(list(sample.all())) < 20


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 60))
def test_places_are_spread_evenly_over_heaps(sizes: list[int], count: int) -> None:
    found = evenly(sizes, count)
    starts = [sum(sizes[:heap]) for heap in range(len(sizes))]
    places = [starts[heap] + place for heap, inside in found for place in inside]
    assert len(places) == min(count, sum(sizes))
    assert places == sorted(set(places))
    assert all(0 <= place < sizes[heap] for heap, inside in found for place in inside)
    gaps = [after - before for before, after in pairwise(places)]
    assert not gaps or max(gaps) - min(gaps) <= 1


async def test_an_allowance_is_saved_up_for_a_second_and_no_longer() -> None:
    clock = FakeClock()
    allowance = Allowance(4.0, clock)
    assert allowance.available() == 4
    for left in (3, 2, 1, 0):
        allowance.spend()
        assert allowance.available() == left
    await clock.advance(0.5)
    assert allowance.available() == 2
    await clock.advance(60.0)
    assert allowance.available() == 4
    slow = Allowance(0.1, clock)
    assert slow.available() == 1
    slow.spend()
    await clock.advance(9.0)
    assert slow.available() == 0
    await clock.advance(2.0)
    assert slow.available() == 1
