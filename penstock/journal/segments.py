"""The files of one journal, as its one writer sees them: appended to, cut back, removed whole. Blocking; one thread calls it.

    segments = Segments(directory, faults)
    segments.open(place)             # cut to what the ledgers know
    place = segments.append(lines)   # on the disk when it returns
    segments.commit()                # its commit stands: readers may see it; or
    segments.rollback()              # it does not: as if it had not been written

A frame gets into the index once its commit stands, and readers trust the index: what a crash leaves behind it nobody sees, and
the next `open` cuts it off or, where its commit stands, puts it into the index. After a failed fsync pages may be gone although a
second one succeeds (fsync(2), "Errors"), so a segment that failed is cut to what was synced and never written again.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import EnvironmentFault, Unavailable
from penstock.faults import Faults
from penstock.files import DISK_FULL
from penstock.journal.encoding import LEVEL, Lines, frames_of
from penstock.journal.frames import Place
from penstock.journal.head import identity
from penstock.journal.index import disk_size, lone_sidecars, newest_receipt, remove_segment, repair, segment_numbers, tidy
from penstock.journal.segment import Segment

if TYPE_CHECKING:
    import zstandard

ROLL = 64 << 20
"""Bytes after which a segment is followed by the next."""
_PARTS = 8


def roll_for(max_size: int) -> int:
    """After how many bytes to begin the next segment: retention removes whole ones, so that a small journal has small ones."""
    return min(ROLL, max_size // _PARTS)


class Segments:
    """The writer of a journal."""

    def __init__(self, directory: Path, faults: Faults, roll: int = ROLL) -> None:
        self._directory = directory
        self._faults = faults
        self._roll = roll
        self._id = ""
        self._last = 0
        self._reached = Place("", 0, 0)
        self._segment: Segment | None = None
        self._spent: list[Segment] = []
        self._compressor: zstandard.ZstdCompressor | None = None

    def open(self, place: Place | None) -> str | None:
        """Take the journal over at `place`, which its ledgers hold: what lies behind was never committed.

        :param place: None: nothing is cut but what is torn.
        :returns: what is worth telling: the journal is another one, or shorter than its ledgers say.
        :raises EnvironmentFault: `journal.newer`, `journal.damaged`.
        :raises Unavailable: `journal.disk`.
        """
        import zstandard

        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
        try:
            self._id = identity(self._directory)
            return self._take_over(place)
        except OSError as error:
            raise self._fault(error) from error

    @property
    def place(self) -> Place:
        """Everything before it is on the disk."""
        *_, last = None, *self._in_hand()
        return Place(self._id, last.number, last.end) if last is not None else self._reached

    def append(self, lines: Lines) -> Place:
        """Write lines, and the place behind them. They are on the disk, and not committed.

        :raises Unavailable: `journal.disk`: full or failing; nothing was written, and it may be called again.
        """
        assert self._compressor is not None  # `open` comes first
        frames = list(frames_of(lines, self._compressor))
        try:
            segment = self._segment_for_more()
            segment.write(b"".join(data for data, _ in frames))
            self._faults.hit("inside_journal")
            segment.sync()
        except OSError as error:
            self._give_up()
            raise self._fault(error) from error
        segment.add([(len(data), about) for data, about in frames])
        return self.place

    def commit(self) -> None:
        """What was appended is committed: readers see it.

        :raises Unavailable: `journal.disk`: to be called again before anything else.
        """
        try:
            while self._spent:
                self._spent[0].commit()
                self._spent[0].seal()
                self._leave_spent()
            if self._segment is not None:
                self._segment.commit()
        except OSError as error:
            raise self._fault(error) from error

    def rollback(self) -> None:
        """What was appended and not committed is gone.

        :raises Unavailable: `journal.disk`: to be called again before anything else.
        """
        try:
            while self._spent:
                self._spent[0].rollback()
                self._leave_spent()
            if self._segment is not None:
                self._segment.rollback()
        except OSError as error:
            raise self._fault(error) from error

    def expire(self, before: float, max_size: int, spared: int | None) -> list[int]:
        """Remove the oldest segments: those all of whose events were received before `before` (seconds since 1970), and as many
        as it takes to get down to `max_size` bytes, sidecars included. The segment that is written to stays, and `spared` with
        what follows it.

        :returns: the numbers of those that went.
        :raises Unavailable: `journal.disk`.
        """
        try:
            return self._expire(before, max_size, spared)
        except OSError as error:
            raise self._fault(error) from error

    def close(self) -> None:
        """Harmless when not open. Where another run has taken the journal over, what was appended since is nothing."""
        for segment in self._in_hand():
            with suppress(OSError):  # whoever opens the journal next does it, too
                if segment_numbers(self._directory)[-1:] > [self._last]:
                    tidy(self._directory, segment.number)
            segment.close()
        self._spent, self._segment = [], None

    def _take_over(self, place: Place | None) -> str | None:
        if place is not None and place.journal != self._id:
            self._take_up(None)
            return f"the journal in {self._directory} is another one than the pipeline wrote last"
        self._take_up(place)
        if place is not None and place.end and self._reached < place:
            return f"the journal in {self._directory} is shorter than the pipeline wrote it"
        return None

    def _take_up(self, place: Place | None) -> None:
        """Go on behind a place, or what is there of it; without one, behind all that is whole."""
        kept = self._keep(place)
        self._reached = Place(self._id, place.segment if place is not None else 0, 0)
        if not kept:
            return
        for number in kept[:-1]:
            tidy(self._directory, number)
        end = place.end if place is not None and place.segment == kept[-1] else None
        frames = repair(self._directory, kept[-1], end)
        self._reached = Place(self._id, kept[-1], frames[-1].end if frames else 0)
        self._segment = Segment.resume(self._directory, kept[-1], frames)

    def _keep(self, place: Place | None) -> list[int]:
        """Remove what lies behind a place, and sidecars that are left over; the numbers of the segments that stay."""
        numbers, alone = segment_numbers(self._directory), lone_sidecars(self._directory)
        kept = [number for number in numbers if place is None or number <= place.segment]
        for number in numbers[len(kept) :]:
            remove_segment(self._directory, number)
        for number in alone:
            if number < max(numbers, default=0):  # a later one may be in the hands of a run that was taken over
                remove_segment(self._directory, number)
        self._last = max(*kept, *alone, place.segment if place is not None else 0, 0)
        return kept

    def _in_hand(self) -> list[Segment]:
        """What is open, oldest first."""
        return [*self._spent, *filter(None, [self._segment])]

    def _segment_for_more(self) -> Segment:
        segment = self._segment
        if segment is not None and segment.end >= self._roll and not segment.pending:
            segment.seal()
            self._leave(segment)
        while self._segment is None:
            self._last += 1  # a number that could not be used is not tried again
            try:
                self._segment = Segment.create(self._directory, self._last)
            except FileExistsError:  # made by a run that was taken over, after this one looked
                continue
        return self._segment

    def _leave(self, segment: Segment) -> None:
        """Nothing more is written to it."""
        self._segment = None
        if segment.end:
            self._reached = Place(self._id, segment.number, segment.end)
        segment.close()

    def _leave_spent(self) -> None:
        segment = self._spent.pop(0)
        self._reached = Place(self._id, segment.number, segment.end)
        segment.close()

    def _give_up(self) -> None:
        """Never write to the segment again whose disk failed; a commit may still cover what it held before."""
        segment = self._segment
        if segment is None:
            return
        segment.cut_back()
        if segment.pending:
            self._segment = None
            self._spent.append(segment)
            return
        self._leave(segment)
        if not segment.end:
            with suppress(OSError):  # no place will name it
                remove_segment(self._directory, segment.number)

    def _expire(self, before: float, max_size: int, spared: int | None) -> list[int]:
        numbers = segment_numbers(self._directory)
        first = next((each.number for each in self._in_hand() if each.committed), self._reached.segment)
        sizes = {number: disk_size(self._directory, number) for number in numbers}
        total, gone = sum(sizes.values()), []
        for number in numbers:
            if number >= first or (spared is not None and number >= spared):
                break
            if total <= max_size and newest_receipt(self._directory, number) >= before:
                break
            remove_segment(self._directory, number)
            gone.append(number)
            total -= sizes[number]
        return gone

    def _fault(self, error: OSError) -> Unavailable | EnvironmentFault:
        if error.errno in DISK_FULL:
            return Unavailable(
                "journal.disk",
                f"the journal cannot be written: {error.strerror}",
                where=str(self._directory),
                help="make room, or put it on another disk with `journal.path`; the run goes on by itself",
            )
        return EnvironmentFault(
            "journal.unusable",
            f"the journal cannot be written: {error.strerror}",
            where=str(error.filename or self._directory),
            help="`pipe doctor` looks at its directory, which `journal.path` names; `journal: off` keeps none",
        )
