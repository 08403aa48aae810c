"""Reading a journal, beside the run that writes it: without a lock, only what was committed.

    journal = JournalReader(directory)
    for record in journal.range(start, end): …     # by event time, in the order of writing
    for record in journal.find("0-4711"): …        # by event id, oldest first

Blocking. A segment that retention removes while it is read is read to its end. Memory is that of one frame.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from penstock.cloudevents import is_time, timestamp
from penstock.errors import EnvironmentFault
from penstock.journal.frames import ID_SIZE, Frame, digests
from penstock.journal.index import ids_path, index_path, read_index, rebuilt, segment_numbers, segment_path
from penstock.journal.lines import Line, decode_line

_SECOND = 1_000_000


class Mark(NamedTuple):
    """The place of a line: what a job notes to go on behind it."""

    segment: int
    offset: int
    line: int


class Record(NamedTuple):
    """A line at its place."""

    mark: Mark
    line: Line


class Envelope(msgspec.Struct):
    """What a search looks at first."""

    id: str
    time: str | None = None


_envelope = msgspec.json.Decoder(Envelope).decode


@dataclass(frozen=True, slots=True)
class Extent:
    """What a journal holds: lines (corrections not counted), bytes, and when the first and the last event were received."""

    segments: int
    lines: int
    size: int
    first: float | None
    last: float | None


class JournalReader:
    """Reads the journal of one pipeline."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def extent(self) -> Extent:
        """How much there is."""
        numbers = segment_numbers(self.directory)
        frames = [frame for number in numbers for frame in read_index(self.directory, number)]
        lines = sum(frame.lines - frame.corrections for frame in frames)
        first = frames[0].at.first / _SECOND if frames else None
        last = frames[-1].at.last / _SECOND if frames else None
        return Extent(len(numbers), lines, sum(frame.length for frame in frames), first, last)

    def count(self, start: float, end: float) -> int:
        """About how many events `range` gives: those of a frame on the edge count all. Reads the index alone."""
        span = _span(start, end)
        return sum(
            frame.lines - frame.corrections
            for number in segment_numbers(self.directory)
            for frame in read_index(self.directory, number)
            if frame.time.overlaps(*span)
        )

    def range(self, start: float, end: float, *, after: Mark | None = None, share: float = 1.0) -> Iterator[Record]:
        """Events whose own time (without one, that of receipt) is in `[start, end)`, as they were received, in that order, with
        the outcome that their commit gave them; what a replay made of them later is not told.

        :param start, end: seconds since 1970.
        :param after: go on behind this line.
        :param share: look into this share of the frames alone, evenly spread: always the same ones.
        :raises EnvironmentFault: `journal.damaged`.
        """
        span = _span(start, end)
        for number in segment_numbers(self.directory):
            if after is not None and number < after.segment:
                continue
            with _opened(self.directory, number) as segment:
                for frames, corrections in _commits(segment.frames):
                    chosen = [frame for frame in frames if frame.time.overlaps(*span) and _is_among(frame, share)]
                    corrected = _corrected(segment, corrections) if chosen else {}
                    for frame in chosen:
                        for record in segment.records(frame, after):
                            line = record.line
                            if line.is_event and start <= moment(line) < end:
                                yield Record(record.mark, corrected_line(line, corrected))

    def find(self, identity: str) -> Iterator[Record]:
        """Lines of the events with this id, the source's own or the one that `event:` gave, oldest first. Corrections, and what
        replays brought about, are lines of their own.

        :raises EnvironmentFault: `journal.damaged`.
        """
        wanted = digests([identity])
        for number in segment_numbers(self.directory):
            with _opened(self.directory, number) as segment:
                for frame in segment.holding(wanted):
                    yield from (record for record in segment.records(frame) if identity in ids_of(record.line))


class _Segment:
    """One segment, open for reading."""

    def __init__(self, directory: Path, number: int, file: BinaryIO | None) -> None:
        import zstandard

        self._file = file
        self._path = segment_path(directory, number)
        self._ids = ids_path(directory, number)
        self._decompressor = zstandard.ZstdDecompressor()
        self._error: type[Exception] = zstandard.ZstdError
        self._ids_in_memory = bytearray()
        self.frames = read_index(directory, number) if file is not None else []
        if file is not None and not index_path(directory, number).exists():
            for frame, ids in rebuilt(directory, number, []):
                self.frames.append(frame)
                self._ids_in_memory += ids

    def __enter__(self) -> _Segment:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def records(self, frame: Frame, after: Mark | None = None) -> Iterator[Record]:
        """The lines of a frame, behind `after`."""
        assert self._file is not None  # it has frames
        self._file.seek(frame.offset)
        try:
            texts = self._decompressor.decompress(self._file.read(frame.length)).split(b"\n")[:-1]
            for place, text in enumerate(texts):
                mark = Mark(frame.segment, frame.offset, place)
                if after is None or mark > after:
                    yield Record(mark, decode_line(text))
        except (self._error, msgspec.MsgspecError) as error:
            raise EnvironmentFault(
                "journal.damaged",
                f"the journal cannot be read at byte {frame.offset} of {self._path.name}",
                where=str(self._path),
                why=str(error),
                help="the file was changed or the disk has lost it: put it back from a backup, or leave its range out",
            ) from error

    def holding(self, wanted: bytes) -> list[Frame]:
        """The frames that may hold an event whose id has this digest."""
        if not self.frames:
            return []
        if self._ids_in_memory:
            return self._at(_places(self._ids_in_memory, wanted))
        with self._ids.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as ids:
            return self._at(_places(ids, wanted))

    def _at(self, places: Iterable[int]) -> list[Frame]:
        """The frames that these ids belong to, each once."""
        found: list[Frame] = []
        for place in places:
            at = bisect_right(self.frames, place, key=lambda frame: frame.ids_before) - 1
            if place < self.frames[at].ids_before + self.frames[at].ids and self.frames[at] not in found[-1:]:
                found.append(self.frames[at])
        return found


def _span(start: float, end: float) -> tuple[int, int]:
    return int(start * _SECOND), int(end * _SECOND)


def _is_among(frame: Frame, share: float) -> bool:
    """Whether a frame is one of so many, by the ids before it: the share of ids passes a whole number of frames' worth."""
    if share >= 1.0:
        return True
    ids = max(1, frame.ids)
    return int(frame.ids_before * share / ids) != int((frame.ids_before + ids) * share / ids)


def _opened(directory: Path, number: int) -> _Segment:
    """A segment that retention has removed since it was listed has no frames."""
    try:
        file = segment_path(directory, number).open("rb")
    except FileNotFoundError:
        return _Segment(directory, number, None)
    return _Segment(directory, number, file)


def _places(ids: mmap.mmap | bytearray, wanted: bytes) -> Iterator[int]:
    """Where a digest stands among others, as their number."""
    at = ids.find(wanted)
    while at >= 0:
        if at % ID_SIZE == 0:
            yield at // ID_SIZE
        at = ids.find(wanted, at + 1)


def _commits(frames: Sequence[Frame]) -> Iterator[tuple[list[Frame], list[Frame]]]:
    """The frames of each commit, and those that correct them: all of one commit name the same times of receipt."""
    for _, group in groupby(frames, lambda frame: frame.at):
        together = list(group)
        yield [frame for frame in together if not frame.corrections], [frame for frame in together if frame.corrections]


Corrected = Mapping[tuple[str, str, str], Line]
"""Corrections by partition, position and event id."""


def _corrected(segment: _Segment, frames: Sequence[Frame]) -> Corrected:
    lines = (record.line for frame in frames for record in segment.records(frame))
    return {(line.partition, line.position, line.corrects): line for line in lines if line.corrects is not None}


def corrected_line(line: Line, corrections: Corrected) -> Line:
    """The line with the outcome that its commit changed, where it did."""
    found = corrections.get((line.partition, line.position, ids_of(line)[-1])) if corrections else None
    if found is None:
        return line
    return msgspec.structs.replace(line, outcome=found.outcome, step=found.step, letter=found.letter)


def ids_of(line: Line) -> list[str]:
    """The ids of a line's event: the one it went into the steps with, and last the source's own."""
    if line.corrects is not None:
        return [line.corrects]
    ids = [_envelope(line.event).id]
    given = line.given.get("id") if line.given else None
    return ids if given is None else [*ids, given]


def moment(line: Line) -> float:
    """The event's own time, or that of its receipt: seconds since 1970."""
    time = _envelope(line.event).time if line.is_event else None
    return timestamp(time if time is not None and is_time(time) else line.at)
