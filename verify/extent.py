"""What a verification can go by: how far the journal reaches, whether it is the pipeline's, and what of it is gone. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from penstock.clock import rfc3339
from penstock.config.model import Journal
from penstock.journal.frames import Place, Span
from penstock.journal.head import read_head
from penstock.journal.index import end_frame, segment_numbers, segment_path, segment_size
from penstock.journal.reader import JournalReader
from verify.findings import Gap

PART = "journal"


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back a journal reaches.

    :ivar began: when its first event was received, in seconds since 1970; None: it is empty.
    :ivar whole: its first segment is there, and nothing of it is known to be lost: before `began` nothing was ever journalled.
    :ivar full: it is so large that retention may have made room in it.
    :ivar kept_from: what was received before retention may have removed, for its age.
    """

    began: float | None
    whole: bool
    full: bool
    kept_from: float

    @classmethod
    def of(cls, declared: Journal, now: float, *, sound: bool) -> Reach:
        """:param now: seconds since 1970.
        :param sound: nothing of it is known to be lost (`gaps_of`)."""
        extent = JournalReader(declared.directory).extent(count=False)
        first = next(iter(segment_numbers(declared.directory)), None)
        full = extent.size >= declared.max_size // 2
        return cls(extent.first, sound and first in (None, 1), full, now - declared.retention)

    def may_have_lost(self, at: float) -> bool:
        """Whether what happened then may rightly have no line: before the journal began, or removed by retention."""
        if self.began is not None and at >= self.began:
            return False
        return self.whole or self.full or at < self.kept_from

    def told(self) -> str:
        """From when on it tells."""
        return (
            "the journal is empty"
            if self.began is None
            else f"the journal tells of what was received from {rfc3339(self.began)} on"
        )


def gaps_of(directory: Path, place: Place | None, start: float, end: float) -> Iterator[Gap]:
    """What a journal lacks as a whole.

    :param place: how far it reaches, as the pipeline's state store notes.
    :param start, end: seconds since 1970: of holes in it, those are told that events of this range may have lain in.
    """
    help = "put it back from a backup; pipe doctor looks at it"
    head = read_head(directory)
    if place is not None and (head is None or head.id != place.journal):
        what = "not there" if head is None else "another one than the pipeline wrote last"
        yield Gap(PART, f"the journal is {what}", where=str(directory), help=help)
        return
    numbers = segment_numbers(directory)
    if place is not None and place.end and segment_size(directory, place.segment) < place.end:
        where = str(segment_path(directory, place.segment))
        yield Gap(PART, "the journal is shorter than the pipeline wrote it", where=where, help=help)
    for before, behind in pairwise(numbers):
        if behind > before + 1 and _between(directory, before, behind).overlaps(*Span.of(start, end)):
            said = f"segment {before + 1:010}" if behind == before + 2 else f"segments {before + 1:010} to {behind - 1:010}"
            what = f"{said} of the journal not there: removed, or never begun for want of room on the disk"
            yield Gap(PART, what, where=str(directory), help=help)


def written(directory: Path) -> JournalReader:
    """A reader of everything that is on the disk, whether its commit stands or not: a line is there before any sink commits what
    it tells of, so that whatever a sink shows is among them."""
    last = next(reversed(segment_numbers(directory)), None)
    return JournalReader(directory, None if last is None else Place("", last, segment_size(directory, last)))


def _between(directory: Path, before: int, behind: int) -> Span:
    """About the time of events between two segments: from the last of one to the first of the other, in whichever order."""
    frames = [frame for frame in (end_frame(directory, before), end_frame(directory, behind, last=False)) if frame is not None]
    firsts, lasts = [frame.time.first for frame in frames], [frame.time.last for frame in frames]
    return Span(min(firsts, default=0), max(lasts, default=0))
