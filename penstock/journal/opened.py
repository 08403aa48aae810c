"""One segment as a reader holds it: its files open, what they held when they were opened. Blocking."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zlib import crc32

import msgspec

from penstock.errors import EnvironmentFault
from penstock.journal.frames import ENTRY_SIZE, ID_SIZE, Frame, frame_of
from penstock.journal.index import frames_in, ids_path, read_entries, segment_path
from penstock.journal.lines import Line, decode_line
from penstock.journal.scan import rebuilt

_READ = 1 << 20


BEFORE, BEHIND = -1, 1 << 62
"""In a mark, for the number of a line: before the first one of its frame, behind the last."""


class Mark(NamedTuple):
    """The place of a line: what a job notes to go on behind it."""

    segment: int
    offset: int
    line: int


class Record(NamedTuple):
    """A line at its place."""

    mark: Mark
    line: Line


class OpenSegment:
    """A segment, open for reading: retention may remove it meanwhile."""

    def __init__(
        self, directory: Path, number: int, file: BinaryIO, ids: BinaryIO | None, newest: bool, end: int | None = None
    ) -> None:
        import zstandard

        self.directory = directory
        self.number = number
        self._file = file
        self._ids = ids
        self._newest = newest
        self._end = end
        self._entries = read_entries(directory, number)
        self._decompressor = zstandard.ZstdDecompressor()
        self._error: type[Exception] = zstandard.ZstdError

    @classmethod
    def open(cls, directory: Path, number: int, *, newest: bool, end: int | None = None) -> OpenSegment | None:
        """None where retention has removed it.

        :param newest: it may be written to: behind its index lies what is not committed.
        :param end: what lies before it is committed, as a ledger says, whatever its index says; and nothing behind it is read.
        """
        try:
            file = segment_path(directory, number).open("rb")
        except FileNotFoundError:
            return None
        try:
            ids = ids_path(directory, number).open("rb")
        except FileNotFoundError:
            ids = None
        return cls(directory, number, file, ids, newest, end)

    def __enter__(self) -> OpenSegment:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._ids is not None:
            self._ids.close()

    @cached_property
    def frames(self) -> list[Frame]:
        """All that are committed, in order."""
        named, end = list(frames_in(self._entries or b"", self.number)), self._end
        if end is not None:
            named = [frame for frame in named if frame.end <= end]
        elif self._entries is not None and len(named) * ENTRY_SIZE == len(self._entries):
            return named
        else:
            end = self._known_end()
        last = named[-1] if named else None
        return [*named, *(frame for frame, _ in rebuilt(self._file, self.number, last, end))]

    def _known_end(self) -> int | None:
        """Behind it may lie what is not committed; None: all of the segment is."""
        if not self._newest or self._entries is None:
            return None
        last = len(self._entries) // ENTRY_SIZE - 1
        return next((frame.end for number in range(last, -1, -1) if (frame := self._entry(number))), 0)

    def _entry(self, number: int) -> Frame | None:
        """None where it is torn."""
        return frame_of((self._entries or b"")[number * ENTRY_SIZE : (number + 1) * ENTRY_SIZE], self.number)

    def records(self, frame: Frame, only: Container[int] | None = None) -> Iterator[Record]:
        """The lines of a frame.

        :param only: those at these places in it; None: all.
        :raises EnvironmentFault: `journal.damaged`.
        """
        self._file.seek(frame.offset)
        try:
            texts = self._decompressor.decompress(self._file.read(frame.length)).split(b"\n")[:-1]
            for place, text in enumerate(texts):
                if only is None or place in only:
                    yield Record(Mark(frame.segment, frame.offset, place), decode_line(text))
        except (self._error, MemoryError, msgspec.MsgspecError) as error:
            path = segment_path(self.directory, self.number)
            raise EnvironmentFault(
                "journal.damaged",
                f"the journal cannot be read at byte {frame.offset} of {path.name}",
                where=str(path),
                why=str(error),
                help="the file was changed or the disk has lost it: put it back from a backup, or leave its range out",
            ) from error

    def holding(self, wanted: bytes) -> list[Frame]:
        """The frames that may hold an event whose id has this digest."""
        last = self._last_entry()
        places = None
        if last is not None and self._ids is not None:
            places = _places(self._ids, wanted, last)
        if places is None:
            return [frame for frame, ids in self._made_anew() if next(_aligned(ids, wanted), None) is not None]
        found: list[Frame] = []
        for place in places:
            if not found or place >= found[-1].ids_end:
                found += self._frame_of(place)
        return found

    def _last_entry(self) -> Frame | None:
        """The frame of the index's last entry; None where the index is torn, or empty, or there is none."""
        count, rest = divmod(len(self._entries or b""), ENTRY_SIZE)
        return self._entry(count - 1) if count and not rest else None

    def _made_anew(self) -> Iterator[tuple[Frame, bytes]]:
        """The frames with their ids, from the segment itself, as far as it is committed."""
        end = self.frames[-1].end if self.frames else 0
        return rebuilt(self._file, self.number, None, end)

    def _frame_of(self, place: int) -> list[Frame]:
        """The one that this id belongs to."""
        entries = range(len(self._entries or b"") // ENTRY_SIZE)
        at = bisect_right(entries, place, key=lambda number: frame.ids_before if (frame := self._entry(number)) else 0) - 1
        frame = self._entry(at)
        if frame is not None and frame.ids_before <= place < frame.ids_end:
            return [frame]
        return [frame for frame in self.frames if frame.ids_before <= place < frame.ids_end]  # an entry is damaged


def _places(file: BinaryIO, wanted: bytes, last: Frame) -> list[int] | None:
    """Where a digest stands among those up to the end of this frame, as numbers; None where these are not what was written."""
    found: list[int] = []
    check, at, left = 0, 0, last.ids_end * ID_SIZE
    file.seek(0)
    while left and (chunk := file.read(min(left, _READ))):
        check = crc32(chunk, check)
        found += [at // ID_SIZE + place for place in _aligned(chunk, wanted)]
        at, left = at + len(chunk), left - len(chunk)
    return found if not left and check == last.ids_check else None


def _aligned(ids: bytes, wanted: bytes) -> Iterator[int]:
    at = ids.find(wanted)
    while at >= 0:
        if at % ID_SIZE == 0:
            yield at // ID_SIZE
        at = ids.find(wanted, at + 1)
