"""Frames: the journal's units of writing and reading, where they lie, and their entries in a segment's index. No I/O.

A *segment* is a file of concatenated zstd frames; decompressed, it is JSON lines. A frame holds lines of one commit, up to about
a mebibyte of them, so that a reader needs no more memory than that. Beside `0000000001.jsonl.zst` lie `0000000001.index`, with an
entry of fixed size for each frame, and `0000000001.ids`, with the CRC-32 of each event's id, in the order of lines. Both can be
made again from the segment. An entry has a checksum of itself, and one of everything in `.ids` up to its frame's end, so that a
sidecar that lost something is noticed.

Source: RFC 8878 (Zstandard), section 3.1: frames may be concatenated.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from struct import Struct, error
from typing import NamedTuple
from zlib import crc32

_ENTRY = Struct("<QIIIIIIqqqqI")
ENTRY_SIZE = _ENTRY.size
"""Bytes of a frame's entry."""
_COUNTED = Struct(f"<12xII{ENTRY_SIZE - 20}x")
ID_SIZE = 4
"""Bytes of an id's digest."""
_CHECK = 4


class Place(NamedTuple):
    """How far a journal reaches: everything before byte `end` of a segment, and all segments before that one.

    :ivar journal: random id of the journal; another directory has another one.
    """

    journal: str
    segment: int
    end: int

    def text(self) -> str:
        """As ledgers keep it."""
        return f"{self.journal}:{self.segment}:{self.end}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """What a ledger keeps; None where it keeps nothing, or nothing that this program wrote."""
        journal, _, rest = text.partition(":")
        segment, _, end = rest.partition(":")
        return cls(journal, int(segment), int(end)) if segment.isdecimal() and end.isdecimal() else None


def furthest(*texts: str) -> str:
    """Of places in one journal, as ledgers keep them, the last; empty where there are none."""
    return max(texts, key=lambda text: Place.parse(text) or Place("", 0, 0))


_SECOND = 1_000_000


class Span(NamedTuple):
    """From the first to the last of some moments, in microseconds since 1970. It may be wider than they are, never narrower."""

    first: int
    last: int

    @classmethod
    def of(cls, first: float, last: float) -> Span:
        """:param first, last: seconds since 1970; cut to microseconds."""
        return cls(int(first * _SECOND), int(last * _SECOND))

    @property
    def seconds(self) -> tuple[float, float]:
        """First and last, in seconds since 1970."""
        return self.first / _SECOND, self.last / _SECOND

    def wider(self) -> Span:
        """A second wider on both sides."""
        return Span(self.first - _SECOND, self.last + _SECOND)

    def overlaps(self, start: int, end: int) -> bool:
        """Whether some of it is in `[start, end)`."""
        return self.first < end and self.last >= start


class About(NamedTuple):
    """What the index says of a frame's lines.

    :ivar ids: as `.ids` has them.
    :ivar corrections: lines that correct an earlier one.
    :ivar time: of its events' own times; `at`: of when they were received.
    """

    ids: bytes
    lines: int
    corrections: int
    time: Span
    at: Span


class Frame(NamedTuple):
    """One frame of a segment.

    :ivar offset: of its first byte in the segment; `length` in bytes, compressed.
    :ivar lines, corrections, time, at: as `About` has them.
    :ivar ids: how many digests `.ids` has for it; `ids_before`: for the frames before it.
    :ivar ids_check: CRC-32 of all digests up to the last one of the frame.
    """

    segment: int
    offset: int
    length: int
    lines: int
    corrections: int
    ids: int
    ids_before: int
    ids_check: int
    time: Span
    at: Span

    @property
    def end(self) -> int:
        """Where the next frame begins."""
        return self.offset + self.length

    @property
    def ids_end(self) -> int:
        """How many digests `.ids` has up to its last one."""
        return self.ids_before + self.ids

    @property
    def corrects(self) -> bool:
        """Whether its lines all correct earlier ones. (Those of a frame do, or none does.)"""
        return self.corrections > 0

    def entry(self) -> bytes:
        """As the index has it, with a checksum."""
        numbers = (self.offset, self.length, self.lines, self.corrections, self.ids, self.ids_before, self.ids_check)
        plain = _ENTRY.pack(*numbers, *self.time, *self.at, 0)[:-_CHECK]
        return plain + crc32(plain).to_bytes(_CHECK, "little")


def place_frame(about: About, segment: int, length: int, before: Frame | None) -> Frame:
    """The frame that follows `before` in its segment, or its first."""
    offset, ids, check = (before.end, before.ids_end, before.ids_check) if before is not None else (0, 0, 0)
    count = len(about.ids) // ID_SIZE
    check = crc32(about.ids, check)
    return Frame(segment, offset, length, about.lines, about.corrections, count, ids, check, about.time, about.at)


def frame_of(entry: bytes, segment: int) -> Frame | None:
    """None where the entry is torn, or none."""
    try:
        offset, length, lines, corrections, ids, ids_before, ids_check, first, last, received, latest, check = _ENTRY.unpack(
            entry
        )
    except error:
        return None
    if crc32(entry[:-_CHECK]) != check:
        return None
    time, at = Span(first, last), Span(received, latest)
    return Frame(segment, offset, length, lines, corrections, ids, ids_before, ids_check, time, at)


def count_lines(entries: bytes) -> int:
    """The events that the frames of these whole entries tell of, corrections not counted."""
    return sum(lines - corrections for lines, corrections in _COUNTED.iter_unpack(entries))


def digests(ids: Iterable[str]) -> bytes:
    """What `.ids` has for these ids: four bytes each."""
    return array("I", map(crc32, map(str.encode, ids))).tobytes()
