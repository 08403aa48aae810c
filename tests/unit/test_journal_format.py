"""Frames, their entries in the index, and what the lines of a commit become."""

from __future__ import annotations

import random

import pytest
import zstandard
from journal_parts import BEGAN, an_event, corrections_of, lines_of

from penstock.clock import rfc3339
from penstock.cloudevents import timestamp
from penstock.journal import encoding
from penstock.journal.encoding import Lines, frames_of, span_of
from penstock.journal.frames import ENTRY_SIZE, Frame, Place, Span, count_lines, digests, frame_of, furthest, place_frame
from penstock.journal.index import frames_in

SECOND = 1_000_000


def frames(*commits: Lines) -> list[Frame]:
    """As they would lie in one segment."""
    compressor, placed = zstandard.ZstdCompressor(), []
    for lines in commits:
        for data, about in frames_of(lines, compressor):
            placed.append(place_frame(about, 7, len(data), placed[-1] if placed else None))
    return placed


def test_a_place_is_text_in_a_ledger_and_a_place_again() -> None:
    place = Place("9f3a", 12, 4096)
    assert (place.text(), Place.parse(place.text())) == ("9f3a:12:4096", place)
    assert [Place.parse(text) for text in ("", "9f3a", "9f3a:12", "9f3a:12:", "9f3a:x:1", "9f3a:1:-1")] == [None] * 6


def test_the_furthest_of_places_goes_by_segment_then_by_byte() -> None:
    assert furthest("j:9:10", "j:10:2", "j:9:11") == "j:10:2"
    assert furthest("", "j:1:0") == "j:1:0"
    assert furthest("", "") == ""


def test_an_entry_comes_back_from_the_index_as_it_was() -> None:
    placed = frames(lines_of(1, 2, at=BEGAN), corrections_of(2), lines_of(3, at=BEGAN + 9))
    entries = b"".join(frame.entry() for frame in placed)
    assert len(entries) == 3 * ENTRY_SIZE
    assert list(frames_in(entries, 7)) == placed
    assert [(frame.lines, frame.corrections, frame.corrects) for frame in placed] == [(2, 0, False), (1, 1, True), (1, 0, False)]
    assert count_lines(entries) == 3
    assert [frame.offset for frame in placed[1:]] == [frame.end for frame in placed[:-1]]
    assert [frame.ids_before for frame in placed] == [0, 2, 3]


def test_an_entry_with_any_bit_changed_is_none() -> None:
    entry = frames(lines_of(1, 2))[0].entry()
    for place in range(len(entry)):
        for bit in range(8):
            changed = bytearray(entry)
            changed[place] ^= 1 << bit
            assert frame_of(bytes(changed), 7) is None
    assert [frame_of(entry[:size], 7) for size in range(len(entry))] == [None] * len(entry)


def test_an_index_ends_where_an_entry_does_not_follow_the_one_before() -> None:
    first, second, third = frames(lines_of(1), lines_of(2), lines_of(3))
    assert list(frames_in(first.entry() + third.entry(), 7)) == [first]
    assert list(frames_in(second.entry(), 7)) == []
    assert list(frames_in(first.entry() + second.entry()[:-1], 7)) == [first]


def test_the_checksum_of_ids_covers_all_before_it() -> None:
    placed = frames(lines_of(1, 2), lines_of(3))
    other = frames(lines_of(2, 1), lines_of(3))
    assert placed[1].ids_check != other[1].ids_check


def test_a_frame_says_which_ids_lines_and_times_it_has() -> None:
    [(data, about)] = frames_of(lines_of(1, 5, at=BEGAN + 0.25), zstandard.ZstdCompressor())
    assert about.ids == digests(["e1", "e5"])
    assert (about.lines, about.corrections) == (2, 0)
    assert about.time == Span(int((BEGAN + 0) * SECOND), int((BEGAN + 6) * SECOND))
    assert about.at == Span(int((BEGAN + 0.25) * SECOND), int((BEGAN + 0.25) * SECOND))
    assert zstandard.ZstdDecompressor().decompress(data).count(b"\n") == 2


def test_a_second_id_of_an_event_is_found_in_its_own_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FRAME", 1)
    lines = lines_of(1, 2, 3)
    lines.others[1] = "given"
    assert [about.ids for _, about in frames_of(lines, zstandard.ZstdCompressor())] == [
        digests(["e1"]),
        digests(["e2", "given"]),
        digests(["e3"]),
    ]


def test_a_commit_larger_than_a_frame_becomes_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FRAME", 300)
    lines = lines_of(*range(10))
    parts = list(frames_of(lines, zstandard.ZstdCompressor()))
    texts = b"".join(zstandard.ZstdDecompressor().decompress(data) for data, _ in parts)
    assert len(parts) > 2
    assert texts.splitlines() == lines.texts
    assert sum(about.lines for _, about in parts) == 10
    assert {about.at for _, about in parts} == {Span(int(BEGAN * SECOND), int(BEGAN * SECOND))}


AT = Span(int(BEGAN * SECOND), int((BEGAN + 1) * SECOND))


@pytest.mark.parametrize(
    "times",
    [
        ["2026-01-01T00:00:00Z"],
        ["2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.125Z"],
        ["2026-01-01T05:00:00+02:00", "2026-01-01T04:00:00Z"],
        ["2026-01-01t05:00:00z", "2026-01-02T04:00:00Z"],
        ["2016-12-31T23:59:60Z", "2017-01-01T00:00:01Z"],
        ["2024-02-29T12:00:00Z", "1969-07-20T20:17:40Z"],
        ["2026-10-31T00:00:00Z", "2026-04-30T23:59:59.999999Z", "2026-12-01T00:00:00Z"],
    ],
)
def test_the_span_of_times_holds_each_of_them(times: list[str]) -> None:
    span = span_of(times, AT)
    moments = [timestamp(time) * SECOND for time in times]
    assert (span.first <= min(moments), span.last >= max(moments)) == (True, True)
    assert span.last - span.first <= max(moments) - min(moments) + 2 * SECOND + 1


@pytest.mark.parametrize(
    "odd", ["yesterday", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-04-31T00:00:00Z", "0000-01-01T00:00:00Z", ""]
)
def test_what_is_no_time_counts_when_it_was_received(odd: str) -> None:
    span = span_of(["2026-01-01T00:00:00Z", odd, "2026-12-31T00:00:00Z"], AT)
    assert (span.first <= AT.first, span.last >= AT.last, span.overlaps(AT.first, AT.last)) == (True, True, True)


def test_the_span_of_many_times_is_that_of_the_extremes() -> None:
    rng = random.Random(11)
    for _ in range(200):
        moments = [round(rng.uniform(-5e9, 9e9), 3) for _ in range(rng.randrange(1, 20))]
        span = span_of([rfc3339(moment) for moment in moments], AT)
        assert span == Span(int(timestamp(rfc3339(min(moments))) * SECOND) - SECOND, span.last)
        assert abs(span.last / SECOND - 1 - max(moments)) < 0.001


def test_a_span_overlaps_a_range_that_is_open_at_its_end() -> None:
    span = Span(10, 20)
    assert [span.overlaps(*pair) for pair in ((0, 10), (0, 11), (20, 30), (21, 30), (12, 13))] == [False, True, True, False, True]


def test_an_event_without_a_time_has_that_of_its_receipt() -> None:
    lines = lines_of(events=[an_event(1, time=None)], at=BEGAN + 100)
    [(_, about)] = frames_of(lines, zstandard.ZstdCompressor())
    assert about.time == Span(int((BEGAN + 99) * SECOND), int((BEGAN + 101) * SECOND))
