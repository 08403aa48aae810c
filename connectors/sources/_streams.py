"""Bytes of a file as its lines see them: plain, gzip or zstd, read in bounded pieces, forward only.

A stream knows where compressed members (gzip) or frames (zstd) begin, so that a later run can start at the last one instead of at
the beginning of the file. What could be decompressed before a damaged block is always handed out before the damage is raised.

Sources: RFC 1952 (gzip: members may be concatenated), RFC 8878 (zstd frames).
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import zstandard

RAW_BLOCK = 256 << 10
"""Bytes asked of the operating system at once."""

TAIL = 4096
"""Bytes before a checkpoint that tell whether the file is still the same."""

_GZIP_PIECE = 64
_ZSTD_PIECE = 256
"""Compressed bytes fed at once: a zstd block of 4 bytes can become 128 KiB, so that 256 become 8 MiB, and no call bounds that."""


class Damaged(Exception):
    """The compressed bytes cannot be read on.

    :ivar kind: `gzip` or `zstd`.
    :ivar offset: of the damage in the compressed file, about.
    :ivar cut: the file ends in the middle of a member, rather than holding something wrong.
    """

    def __init__(self, kind: str, offset: int, why: str, *, cut: bool = False) -> None:
        super().__init__(why)
        self.kind = kind
        self.offset = offset
        self.cut = cut


class Stream(Protocol):
    """An open file.

    :ivar offset: of the next byte that `read` gives, among the decompressed bytes.
    :ivar consumed: bytes of the file itself that were read.
    :ivar buffered: some of these were not given yet.
    """

    offset: int
    consumed: int

    @property
    def buffered(self) -> bool: ...

    def read(self, limit: int) -> bytes:
        """At most `limit` bytes; empty at what is the end of the file now (there may be more later).

        :raises Damaged: after everything before the damage was given.
        """
        ...

    def check_end(self) -> None:
        """:raises Damaged: where the file, as far as it was read, ends in the middle of a member."""
        ...

    def start_before(self, offset: int) -> tuple[int, int]:
        """The last place at or before the decompressed `offset` where reading can begin: (in the file, decompressed)."""
        ...

    def fileno(self) -> int: ...

    def close(self) -> None: ...


def open_stream(path: Path, suffix: str, start: tuple[int, int] = (0, 0)) -> Stream:
    """Open `path`, whose kind of compression `suffix` tells, at `start`: (in the file, decompressed).

    :raises OSError: as `open` does.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.lseek(file, start[0], os.SEEK_SET)
    if suffix == ".gz":
        return _GzipStream(file, start)
    if suffix == ".zst":
        return _ZstdStream(file, start)
    return _PlainStream(file, start)


class _PlainStream:
    buffered = False

    def __init__(self, file: int, start: tuple[int, int]) -> None:
        self._file = file
        self.offset = self.consumed = start[0]

    def read(self, limit: int) -> bytes:
        block = os.read(self._file, limit)
        self.offset += len(block)
        self.consumed = self.offset
        return block

    def check_end(self) -> None:
        pass

    def start_before(self, offset: int) -> tuple[int, int]:
        return offset, offset

    def fileno(self) -> int:
        return self._file

    def close(self) -> None:
        os.close(self._file)


class _MemberStream:
    """What gzip and zstd have in common: members one behind the other, each with its own decompressor."""

    kind = ""
    padding = b""
    raw_block = RAW_BLOCK

    def __init__(self, file: int, start: tuple[int, int]) -> None:
        self._file = file
        self.consumed, self.offset = start
        self._starts: deque[tuple[int, int]] = deque([start])
        self._pending = b""
        self._ready, self._ready_at = b"", 0
        self._decoder: Any = None
        self._damage: Damaged | None = None

    def read(self, limit: int) -> bytes:
        if self._ready_at >= len(self._ready):
            self._ready, self._ready_at = self._decompress(limit), 0
        block = self._ready[self._ready_at : self._ready_at + limit]
        self._ready_at += len(block)
        self.offset += len(block)
        return block

    @property
    def buffered(self) -> bool:
        return bool(self._pending) or self._ready_at < len(self._ready)

    def _decompress(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while size < limit and self._damage is None:
            if not self._pending and not self._fill():
                break
            pieces.append(self._step(limit - size, self.offset + size))
            size += len(pieces[-1])
        if self._damage is not None and not size:
            raise self._damage
        return b"".join(pieces)

    def check_end(self) -> None:
        if self._decoder is not None:
            raise Damaged(self.kind, self.consumed, f"the file ends in the middle of a {self.kind} member", cut=True)

    def start_before(self, offset: int) -> tuple[int, int]:
        starts = self._starts
        while len(starts) > 1 and starts[1][1] <= offset:
            starts.popleft()
        return starts[0]

    def fileno(self) -> int:
        return self._file

    def close(self) -> None:
        os.close(self._file)

    def _fill(self) -> bool:
        self._pending = os.read(self._file, self.raw_block)
        self.consumed += len(self._pending)
        return bool(self._pending)

    def _step(self, limit: int, offset: int) -> bytes:
        if self._decoder is None:
            self._pending = self._pending.lstrip(self.padding) if self.padding else self._pending
            if not self._pending:
                return b""
            start = (self.consumed - len(self._pending), offset)
            if start != self._starts[-1]:
                self._starts.append(start)
            self._decoder = self._new()
        piece = self._decode(limit)
        if self._damage is None and self._decoder.eof:
            self._pending = self._decoder.unused_data + self._pending
            self._decoder = None
        return piece

    def _new(self) -> Any:
        raise AssertionError("every kind has its own decompressor")

    def _decode(self, limit: int) -> bytes:
        raise AssertionError("every kind decompresses its own way")

    def _damaged(self, error: Exception) -> Damaged:
        return Damaged(self.kind, self.consumed - len(self._pending), str(error))


class _GzipStream(_MemberStream):
    kind = "gzip"
    padding = b"\0"

    def _new(self) -> Any:
        return zlib.decompressobj(wbits=31)

    def _decode(self, limit: int) -> bytes:
        before, pending = self._decoder.copy(), self._pending
        try:
            piece: bytes = self._decoder.decompress(pending, limit)
            # behind the end of a member zlib names the same bytes twice, as unused and as unconsumed
            self._pending = b"" if self._decoder.eof else self._decoder.unconsumed_tail
            return piece
        except zlib.error:
            self._decoder = before
            return self._salvage(pending)

    def _salvage(self, pending: bytes) -> bytes:
        """zlib gives nothing of a call that fails, so feed smaller pieces, at last the bytes one by one."""
        pieces: list[bytes] = []
        at, width = 0, _GZIP_PIECE
        while True:
            before = self._decoder.copy()
            try:
                pieces.append(self._decoder.decompress(pending[at : at + width]))
                at += width
            except zlib.error as error:
                self._decoder = before
                if width == 1:
                    self._pending = pending[at:]
                    self._damage = self._damaged(error)
                    return b"".join(pieces)
                width = 1


class _ZstdStream(_MemberStream):
    kind = "zstd"
    raw_block = 16 << 10

    def _new(self) -> Any:
        return zstandard.ZstdDecompressor().decompressobj()

    def _decode(self, limit: int) -> bytes:
        # Invariant 8: what one call may give is bounded by what it gets
        given, self._pending = self._pending[:_ZSTD_PIECE], self._pending[_ZSTD_PIECE:]
        try:
            piece: bytes = self._decoder.decompress(given)
            return piece
        except zstandard.ZstdError as error:
            self._damage = self._damaged(error)
            return b""
