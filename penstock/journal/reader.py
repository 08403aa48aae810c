"""Reading a journal, beside the run that writes it: without a lock, only what was committed.

    journal = JournalReader(directory)
    for record in journal.range(start, end): …     # by event time, in the order of writing
    for record in journal.find("0-4711"): …        # by event id, oldest first

Blocking. A segment that retention removes while it is read is read to its end. Memory is that of one frame, and of the index of
one segment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path

import msgspec

from penstock.cloudevents import is_time, timestamp
from penstock.journal.frames import ENTRY_SIZE, Frame, Place, Span, count_lines, digests
from penstock.journal.index import disk_size, end_frame, frames_in, read_entries, segment_numbers
from penstock.journal.lines import Line, id_and_time
from penstock.journal.opened import BEFORE, BEHIND, OpenSegment
from penstock.journal.opened import Mark as Mark
from penstock.journal.opened import Record as Record

EVER = (-1e12, 1e12)
"""A range that holds the time of every event, from the year 1 to the year 9999; in seconds since 1970."""

_ANY = 1 << 62
_FIRST, _LAST = Mark(0, 0, BEFORE), Mark(_ANY, _ANY, BEHIND)


@dataclass(frozen=True, slots=True)
class Extent:
    """What a journal holds: lines (corrections not counted), bytes on the disk, and when the first and the last event were
    received, in seconds since 1970."""

    segments: int
    lines: int
    size: int
    first: float | None
    last: float | None


class JournalReader:
    """Reads the journal of one pipeline.

    :param place: read up to here, as ledgers keep it: also what a commit had not yet put into the index, or a crash kept out of
        it, and nothing that was committed later. None: what is in the index.
    """

    def __init__(self, directory: Path, place: Place | None = None) -> None:
        self.directory = directory
        self.place = place

    def extent(self, *, count: bool = True) -> Extent:
        """How much there is.

        :param count: whether to count lines, for which all of every index is read; without, there are 0.
        """
        numbers, directory = segment_numbers(self.directory), self.directory
        lines = sum(_count(directory, number) for number in numbers) if count else 0
        first = next((frame for number in numbers if (frame := end_frame(directory, number, last=False))), None)
        last = next((frame for number in reversed(numbers) if (frame := end_frame(directory, number))), None)
        return Extent(
            len(numbers),
            lines,
            sum(disk_size(directory, number) for number in numbers),
            first.at.seconds[0] if first is not None else None,
            last.at.seconds[1] if last is not None else None,
        )

    def count(self, start: float, end: float) -> int:
        """About how many events `range` gives: those of a frame on the edge count all. Reads the index alone."""
        low, high = Span.of(start, end)
        return sum(
            frame.lines - frame.corrections
            for number in segment_numbers(self.directory)
            for frame in frames_in(read_entries(self.directory, number) or b"", number)
            if frame.time.overlaps(low, high)
        )

    def range(self, start: float, end: float, *, after: Mark | None = None, until: Mark | None = None) -> Iterator[Record]:
        """Events whose own time (without one, that of receipt) is in `[start, end)`, as they were received, in that order, with
        the outcome that their commit gave them; what a replay made of them later is not told.

        :param start, end: seconds since 1970.
        :param after, until: only lines behind this one; only those up to this one.
        :raises EnvironmentFault: `journal.damaged`.
        """
        span, first, last = Span.of(start, end), after or _FIRST, until or _LAST
        for segment, following in self._segments(first.segment, last.segment):
            corrections = _Corrections(segment, following)
            for place, frame in enumerate(segment.frames):
                at = frame.segment, frame.offset
                if frame.corrects or not (first[:2] <= at <= last[:2] and frame.time.overlaps(*span)):
                    continue
                corrected = corrections.behind(place)
                for record in segment.records(frame):
                    line = record.line
                    if first < record.mark <= last and line.is_event and start <= moment(line) < end:
                        yield Record(record.mark, corrected_line(line, corrected))

    def frames(self, start: float, end: float, *, after: Mark | None = None, share: float = 1.0) -> Iterator[Frame]:
        """The frames that `range` looks into, for whoever divides its work: each a `range` of its own. From the index alone.

        :param after: those alone that hold lines behind this one.
        :param share: this share of them, by their lines, evenly spread, and one at least.
        """
        span, first = Span.of(start, end), after or _FIRST
        passed = taken = 0
        for segment, _ in self._segments(first.segment if share >= 1.0 else 0, _LAST.segment):
            for frame in segment.frames:
                if frame.corrects or not frame.time.overlaps(*span):
                    continue
                among = taken <= passed * share
                passed += frame.lines
                taken += frame.lines if among else 0
                if among and first[:2] <= (frame.segment, frame.offset):
                    yield frame

    def lines_of(self, frames: Iterable[Frame], only: Sequence[Container[int]] | None = None) -> Iterator[tuple[int, Record]]:
        """Events of these frames, as `range` gives them, whatever their time, each with the number of its frame among them. What
        retention has removed meanwhile is left out.

        :param frames: in order.
        :param only: of each frame, the places of the lines that are wanted; None: all.
        :raises EnvironmentFault: `journal.damaged`.
        """
        groups = {number: list(group) for number, group in groupby(enumerate(frames), lambda each: each[1].segment)}
        for segment, following in self._segments(among=groups) if groups else ():
            corrections, offsets = _Corrections(segment, following), [frame.offset for frame in segment.frames]
            for number, frame in groups[segment.number]:
                corrected = corrections.behind(bisect_left(offsets, frame.offset))
                for record in segment.records(frame, None if only is None else only[number]):
                    if record.line.is_event:
                        yield number, Record(record.mark, corrected_line(record.line, corrected))

    def outcomes_of_jobs(self) -> Iterator[Record]:
        """What jobs made of events later, in order: lines that correct others, wherever these lie.

        :raises EnvironmentFault: `journal.damaged`.
        """
        for segment, _ in self._segments():
            for frame in segment.frames:
                if frame.corrects:
                    yield from (record for record in segment.records(frame) if record.line.job is not None)

    def find(self, identity: str) -> Iterator[Record]:
        """Lines of the events with this id, the source's own or the one that `event:` gave, oldest first. Corrections, and what
        replays brought about, are lines of their own.

        :raises EnvironmentFault: `journal.damaged`.
        """
        wanted = digests([identity])
        for segment, _ in self._segments():
            for frame in segment.holding(wanted):
                yield from (record for record in segment.records(frame) if identity in ids_of(record.line))

    def _segments(
        self, first: int = 0, last: int = _ANY, among: Container[int] | None = None
    ) -> Iterator[tuple[OpenSegment, int | None]]:
        """Segments from one number to another, each open as long as it is the current one, with the number of the next."""
        numbers = segment_numbers(self.directory)
        for number, following in zip_longest(numbers, numbers[1:]):
            if not first <= number <= last or (among is not None and number not in among) or self._is_behind(number):
                continue
            end = self.place.end if self.place is not None and number == self.place.segment else None
            segment = OpenSegment.open(self.directory, number, newest=following is None, end=end)
            if segment is not None:
                with segment:
                    yield segment, following

    def _is_behind(self, number: int) -> bool:
        return self.place is not None and number > self.place.segment


def _count(directory: Path, number: int) -> int:
    entries = read_entries(directory, number) or b""
    return count_lines(entries[: len(entries) - len(entries) % ENTRY_SIZE])


Corrected = Mapping[tuple[str, str, str, str], Line]
"""Corrections by receipt, partition, position and event id."""


class _Corrections:
    """The lines by which commits corrected others, in one segment. They follow what they correct; where the disk failed between
    the two, in the next segment."""

    def __init__(self, segment: OpenSegment, following: int | None) -> None:
        self._segment = segment
        self._following = following
        self._places = [place for place, frame in enumerate(segment.frames) if frame.corrects]
        self._kept: tuple[int, Corrected] = (-1, {})

    def behind(self, place: int) -> Corrected:
        """Those of the first frames behind this one that correct anything."""
        at = bisect_left(self._places, place)
        key = self._places[at] if at < len(self._places) else len(self._segment.frames)
        if self._kept[0] != key:
            self._kept = key, self._read(key)
        return self._kept[1]

    def _read(self, place: int) -> Corrected:
        if place < len(self._segment.frames):
            return _corrected(self._segment, place)
        if self._following is None:
            return {}
        segment = OpenSegment.open(self._segment.directory, self._following, newest=True)
        if segment is None:
            return {}
        with segment:
            return _corrected(segment, 0)


def _corrected(segment: OpenSegment, place: int) -> Corrected:
    """What the frames from this one on correct, up to the first that tells of events. What a job did later is no correction."""
    found = {}
    for frame in segment.frames[place:]:
        if not frame.corrects:
            break
        for record in segment.records(frame):
            line = record.line
            if line.corrects is not None and line.job is None:
                found[line.at, line.partition, line.position, line.corrects] = line
    return found


def corrected_line(line: Line, corrections: Corrected) -> Line:
    """The line with the outcome that its commit changed, where it did. Only what was offered to a sink was ever corrected."""
    if not corrections or line.outcome in ("filtered", "deduplicated"):
        return line
    found = corrections.get((line.at, line.partition, line.position, ids_of(line)[-1]))
    if found is None:
        return line
    return msgspec.structs.replace(line, outcome=found.outcome, step=found.step, letter=found.letter)


def ids_of(line: Line) -> list[str]:
    """The ids of a line's event: the one it went into the steps with, and last the source's own."""
    ids, given = [id_and_time(line).id], line.given.get("id") if line.given else None
    return ids if given is None else [*ids, given]


def moment(line: Line) -> float:
    """The event's own time, or that of its receipt: seconds since 1970."""
    time = id_and_time(line).time
    return timestamp(time if time is not None and is_time(time) else line.at)
