"""Frames: the journal's units of writing and reading, where they lie, and their entries in a segment's index. No I/O.

A *segment* is a file of concatenated zstd frames; decompressed, it is JSON lines. A frame holds lines of one commit, up to about
a mebibyte of them, so that a reader needs no more memory than that. Beside `0000000001.jsonl.zst` lie `0000000001.index`, with an
entry of fixed size for each frame, and `0000000001.ids`, with the CRC-32 of each event's id, in the order of lines. Both can be
made again from the segment.

Source: RFC 8878 (Zstandard), section 3.1: frames may be concatenated.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct, error
from typing import NamedTuple
from zlib import crc32

_ENTRY = Struct("<QIIIIqqqqI")
ENTRY_SIZE = _ENTRY.size
"""Bytes of a frame's entry."""
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


class Span(NamedTuple):
    """From the first to the last of some moments, in microseconds since 1970. It may be wider than they are, never narrower."""

    first: int
    last: int

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


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a segment.

    :ivar offset: of its first byte in the segment; `length` in bytes, compressed.
    :ivar ids: how many digests `.ids` has for it; `ids_before`: for the frames before it.
    :ivar lines, corrections, time, at: as `About` has them.
    """

    segment: int
    offset: int
    length: int
    lines: int
    corrections: int
    ids: int
    ids_before: int
    time: Span
    at: Span

    @property
    def end(self) -> int:
        return self.offset + self.length

    @classmethod
    def placed(cls, about: About, segment: int, offset: int, length: int, ids_before: int) -> Frame:
        """A frame at its place."""
        ids = len(about.ids) // ID_SIZE
        return cls(segment, offset, length, about.lines, about.corrections, ids, ids_before, about.time, about.at)

    def entry(self) -> bytes:
        """As the index has it, with a checksum."""
        fields = (self.offset, self.length, self.lines, self.corrections, self.ids, *self.time, *self.at)
        plain = _ENTRY.pack(*fields, 0)[:-_CHECK]
        return plain + crc32(plain).to_bytes(_CHECK, "little")


def frame_of(entry: bytes, segment: int, ids_before: int) -> Frame | None:
    """None where the entry is torn, or none."""
    try:
        offset, length, lines, corrections, ids, first, last, received, latest, check = _ENTRY.unpack(entry)
    except error:
        return None
    if crc32(entry[:-_CHECK]) != check:
        return None
    return Frame(segment, offset, length, lines, corrections, ids, ids_before, Span(first, last), Span(received, latest))


def digests(ids: Iterable[str]) -> bytes:
    """What `.ids` has for these ids: four bytes each."""
    return array("I", map(crc32, map(str.encode, ids))).tobytes()
