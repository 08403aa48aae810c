"""The sidecars of a segment: which frames it has and which ids they hold; made again from the segment where they are missing.

Blocking. Whoever reads trusts the index of the newest segment alone, because behind it may lie what no commit covers; an older
segment is whole, so that what its index lacks is read from itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import msgspec

from penstock.cloudevents import timestamp
from penstock.journal.encoding import span_of
from penstock.journal.frames import ENTRY_SIZE, ID_SIZE, About, Frame, Span, digests, frame_of
from penstock.journal.lines import decode_line

if TYPE_CHECKING:
    import zstandard

SUFFIX = ".jsonl.zst"
_INDEX, _IDS = ".index", ".ids"
_READ = 1 << 18
_SECOND = 1_000_000


def segment_path(directory: Path, number: int) -> Path:
    """Where a segment lies. Numbers rise, and are never used again."""
    return directory / f"{number:010}{SUFFIX}"


def index_path(directory: Path, number: int) -> Path:
    return directory / f"{number:010}{_INDEX}"


def ids_path(directory: Path, number: int) -> Path:
    return directory / f"{number:010}{_IDS}"


def segment_numbers(directory: Path) -> list[int]:
    """The segments of a journal, oldest first; none where there is no journal."""
    if not directory.is_dir():
        return []
    names = (path.name.removesuffix(SUFFIX) for path in directory.iterdir() if path.name.endswith(SUFFIX))
    return sorted(int(name) for name in names if name.isdecimal())


def read_index(directory: Path, number: int) -> list[Frame]:
    """The frames that the index names, up to its first torn entry, or one whose ids are missing."""
    try:
        entries = index_path(directory, number).read_bytes()
        ids_there = ids_path(directory, number).stat().st_size // ID_SIZE
    except FileNotFoundError:
        return []
    frames: list[Frame] = []
    offset = ids = 0
    for start in range(0, len(entries), ENTRY_SIZE):
        frame = frame_of(entries[start : start + ENTRY_SIZE], number, ids)
        if frame is None or frame.offset != offset or ids + frame.ids > ids_there:
            break
        frames.append(frame)
        offset, ids = frame.end, ids + frame.ids
    return frames


def repair(directory: Path, number: int, end: int | None) -> list[Frame]:
    """Bring the sidecars of a segment into line with it, up to `end` or its last whole frame; the frames they name then.

    :raises OSError: where they cannot be written.
    """
    named = [frame for frame in read_index(directory, number) if end is None or frame.end <= end]
    more = list(rebuilt(directory, number, named, end))
    frames = [*named, *(frame for frame, _ in more)]
    ids_there = named[-1].ids_before + named[-1].ids if named else 0
    with ids_path(directory, number).open("ab") as file:
        file.truncate(ids_there * ID_SIZE)
        file.write(b"".join(ids for _, ids in more))
        sync(file)
    with index_path(directory, number).open("ab") as file:
        file.truncate(len(named) * ENTRY_SIZE)
        file.write(b"".join(frame.entry() for frame, _ in more))
        sync(file)
    return frames


def tidy(directory: Path, number: int) -> None:
    """Cut a segment that is followed by another one to what its index names: what lies behind was written by a run that had been
    taken over and did not know it. Readers do not see it; whoever looks at the file with other tools would."""
    path, index = segment_path(directory, number), index_path(directory, number)
    if not index.exists():
        return
    frames = read_index(directory, number)
    whole = len(frames) * ENTRY_SIZE == index.stat().st_size
    end = frames[-1].end if frames else 0
    if whole and path.stat().st_size > end:
        os.truncate(path, end)


def sync(file: IO[bytes]) -> None:
    """Put a file on the disk that is open for writing."""
    file.flush()
    os.fsync(file.fileno())


def newest_receipt(directory: Path, number: int) -> float:
    """When the last event of a segment was received, in seconds since 1970; when it was written, where its index is lost."""
    frames = read_index(directory, number)
    return frames[-1].at.last / _SECOND if frames else segment_path(directory, number).stat().st_mtime


def remove_segment(directory: Path, number: int) -> None:
    """The segment first: sidecars alone are nothing."""
    for path in (segment_path(directory, number), ids_path(directory, number), index_path(directory, number)):
        path.unlink(missing_ok=True)


def scan(directory: Path, number: int, offset: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The whole frames of a segment from `offset` on: where each ends, and its lines. Stops before the first that is torn, or
    ends behind `end`.

    :raises OSError: the segment cannot be read.
    """
    import zstandard

    with segment_path(directory, number).open("rb") as file:
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
    parts, length = [], 0
    while not decompressor.eof:
        chunk = file.read(_READ)
        if not chunk:
            return None
        try:
            parts.append(decompressor.decompress(chunk))
        except error:
            return None
        length += len(chunk)
    return length - len(decompressor.unused_data), b"".join(parts)


def rebuilt(directory: Path, number: int, after: list[Frame], end: int | None = None) -> Iterator[tuple[Frame, bytes]]:
    """The frames behind those that the index names, with their ids, from the segment itself."""
    offset = after[-1].end if after else 0
    ids = after[-1].ids_before + after[-1].ids if after else 0
    for frame_end, text in scan(directory, number, offset, end):
        about = _about(text)
        yield Frame.placed(about, number, offset, frame_end - offset, ids), about.ids
        offset, ids = frame_end, ids + len(about.ids) // ID_SIZE


class _Envelope(msgspec.Struct):
    id: str
    time: str | None = None


_envelope = msgspec.json.Decoder(_Envelope).decode


def _about(text: bytes) -> About:
    """What an index says of a frame with these lines."""
    ids: list[str] = []
    times: list[str] = []
    lines = [decode_line(line) for line in text.split(b"\n")[:-1]]
    for line in lines:
        event = _Envelope(line.corrects or "") if not line.is_event else _envelope(line.event)
        ids.append(event.id)
        if line.given is not None and (given := line.given.get("id")) is not None:
            ids.append(given)
        times.append(event.time or line.at)
    moments = [timestamp(line.at) for line in lines]
    at = Span(int(min(moments) * _SECOND), int(max(moments) * _SECOND))
    corrections = sum(line.corrects is not None for line in lines)
    return About(digests(ids), len(lines), corrections, span_of(times), at)
