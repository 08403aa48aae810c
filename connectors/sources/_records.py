"""From blocks of bytes to events: what every record format has in common, and the formats whose record is a line.

A format is fed block after block and gives cuts: consecutive events, few enough for a batch. Nothing here touches a file; what is
held between blocks is at most one record, and of one longer than `max_record` only its head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

from penstock.errors import ComponentError, EnvironmentFault, Oversized, Permanent
from penstock.event import UNSET, Event

KEPT = 4096
"""Bytes kept of a record that is too long."""

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a cut ends, and how long a record may be."""

    count: int = 500
    bytes: int = 1 << 20
    max_record: int = 1 << 20


@dataclass(slots=True)
class Cut:
    """Consecutive events.

    :ivar end: offset behind the last of them.
    :ivar size: bytes from the first to the last.
    """

    events: list[Event]
    end: int
    size: int
    rejects: dict[int, ComponentError] = field(default_factory=dict)


class Format(Protocol):
    """Cuts a stream of bytes into records. `feed` any number of times, then `finish` where nothing more will come."""

    def feed(self, block: bytes) -> Iterator[Cut]: ...

    def finish(self) -> Iterator[Cut]:
        """The record that the end of the input ends.

        :raises EnvironmentFault: where the input cannot end here.
        """
        ...


@dataclass(frozen=True, slots=True)
class Naming:
    """Makes the events of one generation: id GENERATION-OFFSET of the record's start, position (generation, end)."""

    generation: int
    source: str
    type: str

    def event(
        self, start: int, end: int, *, raw: bytes | None = None, decoded: Any = UNSET, original: bytes | None = None
    ) -> Event:
        return Event(
            f"{self.generation}-{start}",
            self.source,
            self.type,
            raw=raw,
            decoded=decoded,
            original=original,
            position=self.prefix + end.to_bytes(8, "big"),
        )

    @property
    def prefix(self) -> bytes:
        return self.generation.to_bytes(4, "big")

    def events(self, lines: list[bytes], start: int) -> list[Event]:
        """One event a line, lines being apart by one byte. The hot path: everything is a local name, and positional."""
        make, none, label = Event, UNSET, f"{self.generation}-"
        source, kind, prefix = self.source, self.type, self.prefix
        events: list[Event] = []
        append = events.append
        for line in lines:
            end = start + len(line) + 1
            place = prefix + end.to_bytes(8, "big")
            append(make(f"{label}{start}", source, kind, None, None, line, none, None, None, None, None, place))
            start = end
        return events


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that is too long. `span` counts a carriage return at its end, `length` does not."""

    head: bytes
    span: int
    length: int
    digest: str

    @classmethod
    def of(cls, record: bytes) -> Skipped:
        return cls(record[:KEPT], len(record), len(record), blake2b(record, digest_size=16).hexdigest())


class Collector:
    """Collects one record from pieces, in bounded memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit + 1  # a carriage return at the end does not count
        self._clear()

    def _clear(self) -> None:
        self.length = 0
        self._pieces: list[bytes] = []
        self._head = self._last = b""
        self._hash: Any = None

    def add(self, piece: bytes) -> None:
        self.length += len(piece)
        if self._hash is None:
            self._pieces.append(piece)
            if self.length <= self._limit:  # Invariant 8: behind it, only head and digest
                return
            piece = b"".join(self._pieces)
            self._pieces, self._hash = [], blake2b(digest_size=16)
        self._head += piece[: KEPT - len(self._head)]
        piece = self._last + piece
        self._hash.update(memoryview(piece)[:-1])
        self._last = piece[-1:]

    def take(self) -> bytes | Skipped:
        """The record, and begin the next one."""
        if self._hash is None:
            record: bytes | Skipped = b"".join(self._pieces)
        else:
            ending = self._last == b"\r"
            if not ending:
                self._hash.update(self._last)
            length = self.length - ending
            record = Skipped(self._head[:length], self.length, length, self._hash.hexdigest())
        self._clear()
        return record


Record = tuple[int, int, bytes | Skipped]
"""Start, end, and the record itself."""


class RecordFormat:
    """What the formats have in common: turning records into events and rejects, and cutting them.

    :param continued: the next record is the rest of a line that was a record already, as the file ended there when it was read.
    """

    def __init__(self, naming: Naming, limits: Limits, *, continued: bool = False) -> None:
        self.naming = naming
        self.limits = limits
        self._continued = continued

    def decode(self, start: int, end: int, record: bytes) -> Event:
        """:raises Permanent: where no event can be made of the record."""
        return self.naming.event(start, end, raw=record)

    def cuts(self, records: Iterable[Record]) -> Iterator[Cut]:
        """Cuts of at most `limits.count` records and `limits.bytes`, or of one record."""
        cut: Cut | None = None
        try:
            for start, end, record in records:
                if cut is not None and (len(cut.events) >= self.limits.count or cut.size + end - start > self.limits.bytes):
                    yield cut
                    cut = None
                cut = cut or Cut([], start, 0)
                event, error = self._event(start, end, record)
                if error is not None:
                    cut.rejects[len(cut.events)] = error
                cut.events.append(event)
                cut.size += end - start
                cut.end = end
        except EnvironmentFault:  # the records before it count all the same
            if cut is not None:
                yield cut
            raise
        if cut is not None:
            yield cut

    def _event(self, start: int, end: int, record: bytes | Skipped) -> tuple[Event, ComponentError | None]:
        if isinstance(record, bytes) and len(record) > self.limits.max_record:
            record = Skipped.of(record)
        if isinstance(record, Skipped):
            return self.naming.event(start, end, original=record.head), self._too_long(start, record)
        if self._continued:
            return self.naming.event(start, end, original=record), _continued(self.naming, start)
        try:
            return self.decode(start, end, record), None
        except Permanent as error:
            return self.naming.event(start, end, original=record), error

    def _too_long(self, start: int, record: Skipped) -> Oversized:
        return Oversized(
            "source.record_too_long",
            f"the record is longer than max_record ({self.limits.max_record} bytes)",
            length=record.length,
            digest=record.digest,
            where=f"{self.naming.source}, offset {start}",
            why=f"it has {record.length} bytes",
            help="raise `max_record` and replay: the record is then read again",
        )


class LineFormat(RecordFormat):
    """`jsonl`: a record is a line, and its bytes are the data. An empty line is a record too.

    :param offset: of the first byte fed.
    :param continued: the byte before it was no line end. A line end that comes first then only ends that line; anything else
        before it is the rest of a line that was read as a record of its own.
    """

    def __init__(self, naming: Naming, limits: Limits, offset: int = 0, *, continued: bool = False) -> None:
        super().__init__(naming, limits, continued=continued)
        self._start = offset
        self._held = Collector(limits.max_record)
        self._fast = type(self).decode is RecordFormat.decode

    def feed(self, block: bytes) -> Iterator[Cut]:
        first, newline, rest = block.partition(b"\n")
        self._held.add(first)
        if not newline:
            return
        begin = self._held.take()
        lines = rest.split(b"\n")
        self._held.add(lines.pop())
        if isinstance(begin, bytes) and self._is_plain(begin, block, lines):
            yield from self._plain([begin, *lines])
        else:
            yield from self.cuts(self._records([begin, *lines]))

    def finish(self) -> Iterator[Cut]:
        if self._held.length:
            yield from self.cuts(self._records([self._held.take()], terminated=0))

    def _is_plain(self, begin: bytes, block: bytes, lines: list[bytes]) -> bool:
        return (
            self._fast
            and not self._continued
            and begin[-1:] != b"\r"
            and not (self._start == 0 and begin.startswith(BOM))
            and b"\r\n" not in block
            and len(begin) <= self.limits.max_record
            and (len(block) <= self.limits.max_record or max(map(len, lines), default=0) <= self.limits.max_record)
        )

    def _plain(self, lines: list[bytes]) -> Iterator[Cut]:
        """Lines that need no second look."""
        for at in range(0, len(lines), self.limits.count):
            part = lines[at : at + self.limits.count]
            size = sum(map(len, part)) + len(part)
            if size > self.limits.bytes:
                yield from self.cuts(self._records(part))
                continue
            events = self.naming.events(part, self._start)
            self._start += size
            yield Cut(events, self._start, size)

    def _records(self, lines: Iterable[bytes | Skipped], terminated: int = 1) -> Iterator[Record]:
        for line in lines:
            start, span = self._start, line.span if isinstance(line, Skipped) else len(line)
            end = self._start = start + span + terminated
            if isinstance(line, bytes):
                line = line.removeprefix(BOM) if start == 0 else line
                line = line[:-1] if line[-1:] == b"\r" else line
            if not self._continued or line:
                yield start, end, line
            self._continued = False  # only now: `_event` is called for this record before the next one is asked for


def _continued(naming: Naming, start: int) -> Permanent:
    return Permanent(
        "source.continued_line",
        "a line went on after it had been read as a record",
        where=f"{naming.source}, offset {start}",
        why="when it was read, the file ended there, without a line end",
        help="write whole lines, or read a growing file with `follow: true`",
    )


class TextFormat(LineFormat):
    """`text`: a record is a line, and the data is that line as a string."""

    def decode(self, start: int, end: int, record: bytes) -> Event:
        try:
            return self.naming.event(start, end, decoded=record.decode(), original=record)
        except UnicodeDecodeError as error:
            raise Permanent("decode.invalid_utf8", f"the line is not UTF-8 (byte {error.start})") from error
