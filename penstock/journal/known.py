"""Which events a journal knows: its lines by what their source called them, for those who read the source again.

    known = Known.read(journal, start, end)        # blocking, like all of it
    numbers = known.numbers(events)                # for each its line's number, or None
    lines = known.lines(numbers)                   # in the same order, with the outcome as their commit left it

An event is known by the `source` and the `id` that it was received with. Of several lines of one event (it was read again after a
checkpoint was reset) the last one counts that says it was delivered; else the last dead-lettered, filtered, deduplicated one.

Memory: 16 bytes a line of the frames that the range touches, and while lines are fetched, one frame's text.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import msgspec

from penstock.journal.digests import digest_of
from penstock.journal.frames import Frame
from penstock.journal.lines import Line, Outcome
from penstock.journal.reader import EVER, JournalReader

_RANKS: Mapping[Outcome, int] = MappingProxyType(
    {"unknown": 0, "deduplicated": 0, "filtered": 1, "dead_lettered": 2, "delivered": 3}
)
_RANK, _FRAME, _LINES, _FRAMES = 62, 24, (1 << 24) - 1, (1 << 38) - 1
"""A place, in 64 bits: rank of the outcome (2), number of the frame among those of the range (38), line in the frame (24)."""


class Named(Protocol):
    """What has a source and an id: an event as it was received."""

    @property
    def source(self) -> str: ...
    @property
    def id(self) -> str: ...


class _Envelope(msgspec.Struct):
    id: str
    source: str


_envelope = msgspec.json.Decoder(_Envelope).decode


def name_of(line: Line) -> tuple[str, str]:
    """Source and id with which a line's event was received."""
    envelope, given = _envelope(line.event), line.given or {}
    return given.get("source") or envelope.source, given.get("id") or envelope.id


class Known:
    """The lines of a range, by source and id. `read` makes it; numbers go from 0 to `len(known) - 1`, one for each event.

    :ivar is_all: all of the journal lies in the range.
    """

    def __init__(self, reader: JournalReader, frames: Sequence[Frame], digests: array[int], places: array[int]) -> None:
        self.is_all = len(frames) == sum(1 for _ in reader.frames(*EVER))
        self._reader = reader
        self._frames = frames
        self._digests = digests
        self._places = places

    @classmethod
    def read(cls, reader: JournalReader, start: float, end: float) -> Known:
        """All lines of the frames that hold some of the range: those of events that happened outside of it as well, so that an
        event is found whose time is told otherwise by now, as long as it was received among these.

        :param start, end: seconds since 1970, half-open.
        :raises EnvironmentFault: `journal.damaged`.
        """
        frames = list(reader.frames(start, end))
        parts = [(array("Q"), array("Q")) for _ in range(256)]  # sorted one by one, so that little is needed to sort them
        for number, record in reader.lines_of(frames):
            digest = digest_of(*name_of(record.line))
            digests, places = parts[digest >> 56]
            digests.append(digest)
            places.append(_RANKS[record.line.outcome] << _RANK | number << _FRAME | record.mark.line)
        digests, places = array("Q"), array("Q")
        for part in parts:
            _sort_into(digests, places, *part)
        return cls(reader, frames, digests, places)

    def __len__(self) -> int:
        return len(self._digests)

    def numbers(self, events: Iterable[Named]) -> list[int | None]:
        """For each the number of its line; None where the journal has none.

        Found by digest: one in 2^64 / `len(known)` that are not known is taken for another. `lines` is certain.
        """
        digests, count = self._digests, len(self._digests)
        found: list[int | None] = []
        for event in events:
            digest = digest_of(event.source, event.id)
            at = bisect_left(digests, digest)
            found.append(at if at < count and digests[at] == digest else None)
        return found

    def lines(self, numbers: Sequence[int | None]) -> list[Line | None]:
        """The lines with these numbers, in the same order. Each frame is read once, so that many at a time cost least.

        None for None, and for what retention has removed meanwhile.

        :raises EnvironmentFault: `journal.damaged`.
        """
        found: list[Line | None] = [None] * len(numbers)
        wanted: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for at, number in enumerate(numbers):
            if number is not None:
                place = self._places[number]
                wanted[place >> _FRAME & _FRAMES][place & _LINES].append(at)
        order = sorted(wanted)
        frames = [self._frames[frame] for frame in order]
        for index, record in self._reader.lines_of(frames, [wanted[frame] for frame in order]):
            for at in wanted[order[index]][record.mark.line]:
                found[at] = record.line
        return found


def _sort_into(digests: array[int], places: array[int], part_digests: array[int], part_places: array[int]) -> None:
    """Add a part in the order of digests; of one event's places the best."""
    order = sorted(range(len(part_digests)), key=lambda n: (part_digests[n], part_places[n]))
    for n in order:
        if digests and digests[-1] == part_digests[n]:
            places[-1] = part_places[n]
        else:
            digests.append(part_digests[n])
            places.append(part_places[n])
