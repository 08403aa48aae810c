"""How a file is recognised: its head, the bytes before the checkpoint, and, for renames only, device and inode.

The rule (guarantees, row `file`): the same file is the one with the same head fingerprint and the same 4 KiB before the
checkpoint. Device and inode only recognise a rename, because a restore changes them, and because a new file may get the inode of
one that was removed. All digests are of decompressed bytes, so that a file that was compressed anew is still the same.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from connectors.sources._streams import TAIL, Damaged, Stream, open_stream
from penstock.errors import EnvironmentFault
from penstock.spi import Position

HEAD: Final = 4096
_HEAD_LENGTHS = (64, 256, 1024, HEAD)
_VERSION = b"\x01"
_ORDER = struct.Struct(">IQ")
_SKIP = 1 << 20
_FS_IOC_GETVERSION = 0x80087601


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """An earlier generation that was read to its end; recognises the rotated file, so that it is not read again."""

    generation: int
    device: int
    inode: int
    heads: list[tuple[int, bytes]]
    incarnation: int = 0


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """What `Position.detail` holds. Stored: a change of shape needs another version byte, but for a last field with a default.

    :ivar heads: digests of the file's first bytes, as (length, digest), shortest first.
    :ivar tail: digest of the `tail_length` bytes before the checkpoint.
    :ivar start: where reading can begin to get there, as (in the file, decompressed).
    :ivar finished: earlier generations whose files are still about.
    :ivar more: there were bytes behind the checkpoint when it was made.
    :ivar incarnation: of the inode; 0 where it is not known.
    :ivar again: the file is to be read from its beginning again, and the rest of the mark is of a checkpoint at this offset; 0:
        of the position's own.
    """

    heads: list[tuple[int, bytes]]
    tail_length: int
    tail: bytes
    device: int
    inode: int
    start: tuple[int, int]
    finished: list[Finished] = []
    more: bool = False
    incarnation: int = 0
    again: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """A checkpoint, unpacked. `mark` is None where only a position was given: then nothing can be compared."""

    generation: int
    offset: int
    mark: Mark | None

    @property
    def marked(self) -> int:
        """The offset that the mark describes."""
        return (self.mark.again if self.mark else 0) or self.offset


_decoder = msgspec.msgpack.Decoder(Mark)
_encoder = msgspec.msgpack.Encoder()


def digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def head_digests(head: bytes) -> list[tuple[int, bytes]]:
    """Of several lengths, so that a shorter file can be told apart too."""
    lengths = [n for n in _HEAD_LENGTHS if n <= len(head)]
    if len(head) not in (0, *lengths):
        lengths.append(len(head))
    return [(n, digest(head[:n])) for n in lengths]


def to_position(generation: int, offset: int, mark: Mark) -> Position:
    return Position(_ORDER.pack(generation, offset), _VERSION + _encoder.encode(mark))


def offset_of(order: bytes) -> int:
    """The offset in a position's order bytes."""
    offset: int = _ORDER.unpack(order)[1]
    return offset


def order_text(order: bytes) -> str:
    """A position's order bytes for people.

    :raises ValueError: these bytes are no position of a file.
    """
    try:
        generation, offset = _ORDER.unpack(order)
    except struct.error as error:
        raise ValueError(str(error)) from error
    return f"generation {generation}, byte {offset:,}"


def from_position(partition: str, position: Position) -> Known:
    """:raises EnvironmentFault: `source.unknown_checkpoint`, where a newer program wrote it, or it is damaged."""
    detail = position.detail
    try:
        generation, offset = _ORDER.unpack(position.order)
        if detail[:1] not in (b"", _VERSION):  # Invariant 11
            raise ValueError(f"version {detail[0]} of its detail is not known here")
        return Known(generation, offset, _decoder.decode(detail[1:]) if detail else None)
    except (struct.error, ValueError) as error:
        raise EnvironmentFault(
            "source.unknown_checkpoint",
            f"the checkpoint of {partition} cannot be read",
            why=str(error),
            help="run the version of Penstock that wrote it, or `pipe checkpoint reset`",
        ) from error


def restarted(partition: str, position: Position) -> Position:
    """The beginning of the file that a checkpoint is of: read again under the same ids if it is still the same file, else under
    those of the next generation, for an id is never used again (rule 13)."""
    known = from_position(partition, position)
    if known.mark is None:
        return Position(_ORDER.pack(known.generation + 1, 0))
    return to_position(known.generation, 0, msgspec.structs.replace(known.mark, again=known.marked))


class Likeness(Enum):
    """How a file compares with a mark."""

    SAME = "same"
    DIFFERENT = "another file: it begins differently"
    SHORTER = "shorter than what was read already"
    CHANGED = "the bytes before the checkpoint are not those that were read"


def compare_heads(head: bytes, heads: list[tuple[int, bytes]]) -> Likeness:
    """SAME, DIFFERENT, or SHORTER where it is too short to tell (or empty) and agrees as far as it goes."""
    fitting = [(n, value) for n, value in heads if n <= len(head)]
    if fitting and digest(head[: fitting[-1][0]]) != fitting[-1][1]:
        return Likeness.DIFFERENT
    return Likeness.SAME if len(fitting) == len(heads) else Likeness.SHORTER


def read_head(path: Path, suffix: str) -> bytes:
    """The first bytes, decompressed. What cannot be decompressed is the reader's to report.

    :raises OSError: as `open` does.
    """
    stream = open_stream(path, suffix)
    try:
        return _read_until(stream, HEAD)
    finally:
        stream.close()


def _read_until(stream: Stream, offset: int) -> bytes:
    """Read on to `offset`, or to the end or the damage before it; the last bytes of that."""
    last = b""
    try:
        while stream.offset < offset:
            block = stream.read(min(_SKIP, offset - stream.offset))
            if not block:
                break
            last = (last + block)[-TAIL:] if len(block) < TAIL else block[-TAIL:]
    except Damaged:
        pass  # as good as shorter: the caller compares the offset
    return last


@dataclass(slots=True)
class Comparison:
    """What a file is; where it is the SAME, with a stream that stands at the checkpoint, to be closed by its taker."""

    likeness: Likeness
    head: bytes
    before: bytes = b""
    stream: Stream | None = None


def compare(path: Path, suffix: str, mark: Mark, offset: int) -> Comparison:
    """Compare a file with a checkpoint.

    :raises OSError: as `open` does.
    """
    head = read_head(path, suffix)
    likeness = compare_heads(head, mark.heads)
    if likeness is not Likeness.SAME:
        return Comparison(likeness, head)
    start = mark.start if suffix in (".gz", ".zst") else (max(0, offset - TAIL),) * 2
    stream = open_stream(path, suffix, start)
    try:
        before = _read_until(stream, offset)
    except OSError:
        stream.close()
        raise
    if stream.offset == offset and digest(before[len(before) - mark.tail_length :]) == mark.tail:
        return Comparison(likeness, head, before, stream)
    likeness = Likeness.SHORTER if stream.offset < offset else Likeness.CHANGED
    stream.close()
    return Comparison(likeness, head)


def incarnation_of(file: int) -> int:
    """Tells an open file from those that had its inode before; 0 where the file system does not say.

    Source: FS_IOC_GETVERSION of linux/fs.h, which ext4, xfs, btrfs and f2fs answer.
    """
    try:
        return int.from_bytes(fcntl.ioctl(file, _FS_IOC_GETVERSION, bytes(8))[:4], sys.byteorder)
    except OSError:
        return 0


def is_other_file(path: Path, inode: tuple[int, int], incarnation: int) -> bool:
    """Whether another file than the one with this device, inode and incarnation stands at `path`.

    :raises OSError: as `open` does.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        found = incarnation_of(file) if incarnation else 0
    finally:
        os.close(file)
    return (status.st_dev, status.st_ino) != inode or (0 not in (found, incarnation) and found != incarnation)


def find_inode(directory: Path, device: int, inode: int) -> list[Path]:
    """Regular files in `directory` with this device and inode, in name order."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.inode() == inode and entry.is_file(follow_symlinks=False) and entry.stat().st_dev == device:
                found.append(directory / entry.name)
    return sorted(found)
