"""Reading a segment without its sidecars: its whole frames, one after the other, and what an index says of each. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from penstock.cloudevents import timestamp
from penstock.journal.encoding import span_of
from penstock.journal.frames import About, Frame, Span, digests, place_frame
from penstock.journal.lines import decode_line, id_and_time

if TYPE_CHECKING:
    import zstandard

_FIRST_READ = 1 << 12
_READ = 1 << 18


def scan(file: BinaryIO, offset: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The whole frames of a segment from `offset` on: where each ends, and its lines. Stops before the first that is torn, or
    ends behind `end`.

    :raises OSError: the segment cannot be read.
    """
    import zstandard

    while end is None or offset < end:
        file.seek(offset)
        found = _frame_at(file, zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError)
        if found is None or (end is not None and offset + found[0] > end):
            return
        length, text = found
        offset += length
        yield offset, text


def _frame_at(file: BinaryIO, decompressor: zstandard.ZstdDecompressionObj, error: type[Exception]) -> tuple[int, bytes] | None:
    """Length and lines of the frame at the file's place; None where there is no whole one."""
    parts: list[bytes] = []
    length, size = 0, _FIRST_READ  # many frames are small, and what was read behind one is read again
    while not decompressor.eof:
        chunk = file.read(size)
        if not chunk:
            return None
        try:
            parts.append(decompressor.decompress(chunk))
        except error:
            return None
        length, size = length + len(chunk), _READ
    return length - len(decompressor.unused_data), b"".join(parts)


def is_frame(file: BinaryIO, frame: Frame) -> bool:
    """Whether the segment has this frame where an index says it has."""
    for end, text in scan(file, frame.offset, frame.end):
        return end == frame.end and text.count(b"\n") == frame.lines
    return False


def rebuilt(file: BinaryIO, number: int, last: Frame | None, end: int | None = None) -> Iterator[tuple[Frame, bytes]]:
    """The frames behind `last`, each with its ids, from the segment itself. Stops where `scan` does, and before what is no frame
    of a journal.

    :raises OSError: as `scan`.
    """
    offset = last.end if last is not None else 0
    for frame_end, text in scan(file, offset, end):
        try:
            about = _about(text)
        except (msgspec.MsgspecError, ValueError):  # whole, and no lines: nothing that the journal wrote
            return
        last = place_frame(about, number, frame_end - offset, last)
        yield last, about.ids
        offset = frame_end


def _about(text: bytes) -> About:
    """What an index says of a frame with these lines.

    :raises msgspec.MsgspecError, ValueError: where these are none.
    """
    ids: list[str] = []
    others: list[str] = []
    times: list[str] = []
    lines = [decode_line(line) for line in text.split(b"\n")[:-1]]
    for line in lines:
        event = id_and_time(line)
        ids.append(event.id)
        if line.given is not None and (given := line.given.get("id")) is not None:
            others.append(given)
        times.append(event.time or line.at)
    moments = [timestamp(line.at) for line in lines]
    at = Span.of(min(moments), max(moments))
    corrections = sum(line.corrects is not None for line in lines)
    return About(digests(ids + others), len(lines), corrections, span_of(times, at), at)
