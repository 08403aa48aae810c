"""A journal as time goes by: what was received in a while, and what is committed from now on. Without a lock, beside the run.

    for record in received(directory, start, end): …    # by time of receipt, in the order of writing

    tail = Tail(directory)                               # from here on
    for frame in tail.arrived(): …                       # committed since the last call: their entries alone
    for record in tail.records(frame): …                 # one of them, read

Blocking. What corrects an earlier line is among the lines as it was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.journal.frames import ENTRY_SIZE, Frame, Span, frame_of
from penstock.journal.index import end_frame, index_path, segment_numbers
from penstock.journal.opened import OpenSegment, Record


def received(directory: Path, start: float, end: float) -> Iterator[Record]:
    """Events that were received in `[start, end)`, to the precision of the commit that they came in with. No corrections.

    :param start, end: seconds since 1970.
    :raises EnvironmentFault: `journal.damaged`.
    """
    low, high = Span.of(start, end)
    numbers = segment_numbers(directory)
    for number in numbers:
        last = end_frame(directory, number)
        if last is not None and last.at.last < low:
            continue
        segment = OpenSegment.open(directory, number, newest=number == numbers[-1])
        if segment is None:
            continue
        with segment:
            for frame in segment.frames:
                if not frame.corrects and frame.at.overlaps(low, high):
                    yield from segment.records(frame)


class Tail:
    """What is committed to a journal from now on, whose run need not have begun, nor the journal exist."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number, self._read = 0, 0
        numbers = segment_numbers(directory)
        if numbers:
            self._number = numbers[-1]
            self._read = _entries(directory, numbers[-1])

    def arrived(self) -> list[Frame]:
        """Frames of events that were committed since the last call, in order. Reads their entries in the index alone."""
        frames: list[Frame] = []
        for number in segment_numbers(self._directory):
            if number < self._number:
                continue
            if number > self._number:
                self._number, self._read = number, 0
            frames += self._entries_behind()
        return frames

    def _entries_behind(self) -> list[Frame]:
        there = _entries(self._directory, self._number)
        if there <= self._read:
            self._read = there  # an index that was made anew may name less for a moment
            return []
        with index_path(self._directory, self._number).open("rb") as file:
            file.seek(self._read * ENTRY_SIZE)
            text = file.read((there - self._read) * ENTRY_SIZE)
        frames = []
        for start in range(0, len(text), ENTRY_SIZE):
            frame = frame_of(text[start : start + ENTRY_SIZE], self._number)
            if frame is None:
                break
            self._read += 1
            if not frame.corrects:
                frames.append(frame)
        return frames

    def records(self, frame: Frame) -> Iterator[Record]:
        """The lines of a frame; none where retention has removed it meanwhile.

        :raises EnvironmentFault: `journal.damaged`.
        """
        segment = OpenSegment.open(self._directory, frame.segment, newest=True)
        if segment is not None:
            with segment:
                yield from segment.records(frame)


def _entries(directory: Path, number: int) -> int:
    """How many whole entries the index of a segment has; 0 where there is none."""
    try:
        return index_path(directory, number).stat().st_size // ENTRY_SIZE
    except FileNotFoundError:
        return 0
