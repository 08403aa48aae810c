"""Reads one generation of one file: blocks in, batches with their checkpoints out.

Blocking: everything but `batches` and `finish` belongs in the source's thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from connectors.sources._csv_records import CsvFormat
from connectors.sources._file_faults import rewritten, stat_of
from connectors.sources._json_records import JsonFormat
from connectors.sources._marks import (
    HEAD,
    Finished,
    Known,
    Mark,
    digest,
    head_digests,
    incarnation_of,
    offset_of,
    to_position,
)
from connectors.sources._records import BOM, Cut, Format, Limits, LineFormat, Naming, TextFormat
from connectors.sources._streams import TAIL, Stream, open_stream
from penstock.spi import Batch, Position

BLOCK = 512 << 10
"""Bytes read at once: about 2,700 lines of 190 bytes."""


def suffix_of(name: str) -> str:
    """Of the name under which the file was first seen, because a rotated one may be called anything."""
    return next((suffix for suffix in (".gz", ".zst") if name.endswith(suffix)), "")


def make_format(kind: str, naming: Naming, limits: Limits) -> Format:
    """The format, at the beginning of its input."""
    if kind == "csv":
        return CsvFormat(naming, limits)
    if kind == "json":
        return JsonFormat(naming, limits)
    return TextFormat(naming, limits) if kind == "text" else LineFormat(naming, limits)


def csv_header(path: Path, suffix: str, naming: Naming, limits: Limits) -> list[str] | None:
    """The columns that the first row of a file names; None where the file is empty.

    :raises EnvironmentFault: `source.csv_header`.
    :raises OSError: as `open` does.
    :raises Damaged: the file cannot be decompressed.
    """
    rows = CsvFormat(naming, limits)
    stream = open_stream(path, suffix)
    try:
        while rows.header is None and (block := stream.read(limits.max_record)):
            next(rows.feed(block), None)
        if rows.header is None:
            next(rows.finish(), None)
    finally:
        stream.close()
    return rows.header


def resume_format(kind: str, naming: Naming, limits: Limits, path: Path, offset: int, head: bytes, before: bytes) -> Format:
    """The format, at `offset`; `head` are the file's first bytes, `before` those before `offset`.

    :raises OSError: where the header of a CSV file cannot be read.
    """
    if offset == 0:
        return make_format(kind, naming, limits)
    if kind == "json":
        return JsonFormat(naming, limits, offset, array=head.removeprefix(BOM).lstrip().startswith(b"["))
    continued = bool(before) and not before.endswith(b"\n")
    if kind == "csv":
        header = csv_header(path, suffix_of(naming.source), naming, limits)
        return CsvFormat(naming, limits, offset, header=header, continued=continued)
    return (TextFormat if kind == "text" else LineFormat)(naming, limits, offset, continued=continued)


def _tail(block: bytes, block_start: int, before: bytes, offset: int) -> bytes:
    """The up to 4 KiB before `offset`, which is in or behind the block."""
    at = offset - block_start
    tail = block[max(0, at - TAIL) : at]
    return tail if len(tail) == TAIL else (before + tail)[-TAIL:]


class Reader:
    """One open file of one partition.

    :param home: the path that the partition is named after; the open file may have been renamed since.
    :param stream: stands where `format` begins.
    :param head: the file's first bytes, as far as they are known.
    :param before: the bytes before `stream.offset`, up to 4 KiB.
    """

    def __init__(
        self,
        partition: str,
        home: Path,
        generation: int,
        stream: Stream,
        format: Format,
        *,
        head: bytes = b"",
        before: bytes = b"",
        finished: Sequence[Finished] = (),
    ) -> None:
        self.partition = partition
        self.home = home
        self.generation = generation
        self.stream = stream
        self.quiet_since: float | None = None
        self.finished = list(finished)
        self._format = format
        self._head = head
        self._heads = head_digests(head)
        self._before = before
        self._block = b""
        self._block_start = self._given = stream.offset
        self._last: Mark | None = None
        self._identify()

    def _identify(self) -> None:
        status = os.fstat(self.stream.fileno())
        self.inode = (status.st_dev, status.st_ino)
        self.incarnation = incarnation_of(self.stream.fileno())
        self.size = status.st_size

    @property
    def heads(self) -> list[tuple[int, bytes]]:
        return self._heads

    def read(self) -> bytes:
        """The next block; empty where the file ends now.

        :raises Fatal: `source.rewritten`, where what was read before is no longer there.
        :raises Damaged: the compressed bytes cannot be read on.
        """
        self._before = (self._before + self._block)[-TAIL:]
        self._block, self._block_start = b"", self.stream.offset
        block = self.stream.read(BLOCK)
        self._check_unchanged()
        self._block = block
        missing = len(self._head) - self._block_start
        if len(self._head) < HEAD and missing >= 0 and block[missing:]:
            self._head += block[missing : HEAD - self._block_start]
            self._heads = head_digests(self._head)
        return block

    def _check_unchanged(self) -> None:
        """Looks after reading, so that a block read from a file rewritten in between is not believed."""
        file, at = self.stream.fileno(), self._block_start
        self.size = os.fstat(file).st_size
        if self.size < self.stream.consumed:
            raise rewritten(self.partition, self.generation, at, f"it has {self.size} bytes, and more were read")
        if suffix_of(self.partition):
            return
        before = os.pread(file, len(self._before), at - len(self._before))
        if before != self._before or os.pread(file, min(at, len(self._head)), 0) != self._head[:at]:
            raise rewritten(self.partition, self.generation, at, "bytes that were read have changed")

    def batches(self, block: bytes) -> Iterator[Batch]:
        """The batches that this block completes; to be used up before the next `read`."""
        return map(self._batch, self._format.feed(block))

    def finish(self) -> Iterator[Batch]:
        """The record that the end of the file ends, where no line end does."""
        return map(self._batch, self._format.finish())

    def _batch(self, cut: Cut) -> Batch:
        start, self._given = self.stream.start_before(max(0, self._given - TAIL)), cut.end
        mark = self.mark(cut.end)
        self._last = mark
        end = to_position(self.generation, cut.end, mark)
        inside = self._positions(cut, msgspec.structs.replace(mark, start=start))
        return Batch(self.partition, cut.events, end, cut.end, cut.size, cut.rejects, inside)

    def _positions(self, cut: Cut, mark: Mark) -> Callable[[int], Position]:
        """Positions inside the batch, which may be asked for when the reader is blocks further on."""
        block, block_start, before, events = self._block, self._block_start, self._before, cut.events

        def position(count: int) -> Position:
            offset = offset_of(events[count - 1].position)
            tail = _tail(block, block_start, before, offset)
            return to_position(
                self.generation, offset, msgspec.structs.replace(mark, tail_length=len(tail), tail=digest(tail), more=True)
            )

        return position

    def mark(self, offset: int) -> Mark:
        """How to recognise the file and the place, `offset` being in or behind the last block."""
        tail = _tail(self._block, self._block_start, self._before, offset)
        stream, start = self.stream, self.stream.start_before(max(0, offset - TAIL))
        more = offset < stream.offset or stream.consumed < self.size or stream.buffered
        return Mark(self._heads, len(tail), digest(tail), *self.inode, start, self.finished, more, self.incarnation)

    def settled(self) -> Iterator[Batch]:
        """At the end of the file: where the last checkpoint said that there is more, an empty batch that takes that back."""
        if self._last is not None and self._last.more:
            self._last = msgspec.structs.replace(self._last, more=False)
            yield Batch(self.partition, [], to_position(self.generation, self._given, self._last), self._given)

    def known(self) -> Known:
        """The place behind everything that was read, whether it made records or not."""
        return Known(self.generation, self.stream.offset, self.mark(self.stream.offset))

    def moved(self) -> bool:
        """Whether the partition's path no longer leads to the open file."""
        status = stat_of(self.home)
        return status is None or (status.st_dev, status.st_ino) != self.inode

    def deleted(self) -> bool:
        """Whether no name at all leads to the open file."""
        return os.fstat(self.stream.fileno()).st_nlink == 0

    def replace(self, stream: Stream) -> None:
        """Go on in a copy of the file, whose stream stands at the same place."""
        self.stream.close()
        self.stream = stream
        self._identify()

    def close(self) -> None:
        self.stream.close()
