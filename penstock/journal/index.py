"""The sidecars of a segment: which frames it has and which ids they hold; made again from the segment where they lost something.

Blocking. Of the newest segment whoever reads trusts the index alone, because behind it may lie what no commit covers. An older
one is whole: what its index has lost is read from itself. What lies behind a whole index nobody committed: it is left over from a
run that had been taken over and did not know it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from zlib import crc32

from penstock.journal.frames import ENTRY_SIZE, ID_SIZE, Frame, frame_of
from penstock.journal.scan import is_frame, rebuilt

SUFFIX = ".jsonl.zst"
_INDEX, _IDS = ".index", ".ids"


def segment_path(directory: Path, number: int) -> Path:
    """Where a segment lies. Numbers rise, and are never used again."""
    return directory / f"{number:010}{SUFFIX}"


def index_path(directory: Path, number: int) -> Path:
    return directory / f"{number:010}{_INDEX}"


def ids_path(directory: Path, number: int) -> Path:
    return directory / f"{number:010}{_IDS}"


def segment_numbers(directory: Path) -> list[int]:
    """The segments of a journal, oldest first; none where there is no journal."""
    return _numbers(directory, SUFFIX)


def lone_sidecars(directory: Path) -> list[int]:
    """Numbers of sidecars without a segment: of one that was being made, or removed, when the process died."""
    return sorted({*_numbers(directory, _INDEX), *_numbers(directory, _IDS)} - {*segment_numbers(directory)})


def _numbers(directory: Path, suffix: str) -> list[int]:
    try:
        names = [path.name.removesuffix(suffix) for path in directory.iterdir() if path.name.endswith(suffix)]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isdecimal())


def frames_in(entries: bytes, number: int) -> Iterator[Frame]:
    """The frames that an index names, up to its first torn entry, or one that does not follow the one before it."""
    offset = 0
    for start in range(0, len(entries), ENTRY_SIZE):
        frame = frame_of(entries[start : start + ENTRY_SIZE], number)
        if frame is None or frame.offset != offset:
            return
        yield frame
        offset = frame.end


def read_entries(directory: Path, number: int) -> bytes | None:
    """The index as it stands; None where there is none."""
    try:
        return index_path(directory, number).read_bytes()
    except FileNotFoundError:
        return None


def read_index(directory: Path, number: int) -> list[Frame]:
    """The frames that the index names, up to its first torn entry."""
    return list(frames_in(read_entries(directory, number) or b"", number))


def end_frame(directory: Path, number: int, last: bool = True) -> Frame | None:
    """The last frame that the index names, or the first; None where its entry is torn, or there is none."""
    try:
        with index_path(directory, number).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if last:
                file.seek(max(0, size - size % ENTRY_SIZE - ENTRY_SIZE))
            return frame_of(file.read(ENTRY_SIZE), number)
    except FileNotFoundError:
        return None


def repair(directory: Path, number: int, end: int | None) -> list[Frame]:
    """Bring the sidecars of a segment into line with it, up to `end` or its last whole frame; the frames they name then.

    :raises OSError: where they cannot be written.
    """
    size = segment_path(directory, number).stat().st_size
    named = [frame for frame in read_index(directory, number) if frame.end <= (size if end is None else min(end, size))]
    with segment_path(directory, number).open("rb") as segment:
        if named and not (has_ids(directory, named[-1]) and is_frame(segment, named[-1])):
            named = []
        last = named[-1] if named else None
        more = list(rebuilt(segment, number, last, end))
    _overwrite(ids_path(directory, number), (last.ids_end if last else 0) * ID_SIZE, b"".join(ids for _, ids in more))
    _overwrite(index_path(directory, number), len(named) * ENTRY_SIZE, b"".join(frame.entry() for frame, _ in more))
    return [*named, *(frame for frame, _ in more)]


def has_ids(directory: Path, last: Frame) -> bool:
    """Whether `.ids` holds what the index says, up to this frame's end."""
    check, left = 0, last.ids_end * ID_SIZE
    try:
        with ids_path(directory, last.segment).open("rb") as file:
            while left and (chunk := file.read(min(left, 1 << 20))):
                check, left = crc32(chunk, check), left - len(chunk)
    except FileNotFoundError:
        return False
    return not left and check == last.ids_check


def _overwrite(path: Path, size: int, data: bytes) -> None:
    """Cut a sidecar to `size` and write behind that."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.truncate(size)
        stream.seek(size)
        stream.write(data)
        sync(stream)


def tidy(directory: Path, number: int) -> None:
    """Bring a segment that is followed by another one into order: cut it to what a whole index names, because readers do not see
    what lies behind, and whoever looks at the file with other tools would; make an index anew that is torn or missing.

    :raises OSError: where that cannot be done.
    """
    path, index = segment_path(directory, number), index_path(directory, number)
    last, size = end_frame(directory, number), path.stat().st_size
    there = index.stat().st_size if index.exists() else -1
    if there < 0 or there % ENTRY_SIZE or (there and last is None) or (last is not None and last.end > size):
        repair(directory, number, None)
    elif size > (end := last.end if last is not None else 0):
        os.truncate(path, end)


def sync(file: IO[bytes]) -> None:
    """Put a file on the disk that is open for writing."""
    file.flush()
    os.fsync(file.fileno())


def newest_receipt(directory: Path, number: int) -> float:
    """When the last event of a segment was received, in seconds since 1970; when it was written, where its index is torn."""
    last, file = end_frame(directory, number), segment_path(directory, number).stat()
    return last.at.seconds[1] if last is not None and last.end == file.st_size else file.st_mtime


def segment_size(directory: Path, number: int) -> int:
    """Bytes of a segment alone; none, where it has been removed."""
    return _size(segment_path(directory, number))


def disk_size(directory: Path, number: int) -> int:
    """Bytes of a segment and its sidecars; none, where it has been removed."""
    return sum(map(_size, paths_of(directory, number)))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # retention works beside whoever asks
        return 0


def paths_of(directory: Path, number: int) -> tuple[Path, Path, Path]:
    """A segment, then its sidecars, in the order in which they are removed: sidecars alone are nothing."""
    return segment_path(directory, number), ids_path(directory, number), index_path(directory, number)


def remove_segment(directory: Path, number: int) -> None:
    """:raises OSError: where that cannot be done; it may be done again."""
    for path in paths_of(directory, number):
        path.unlink(missing_ok=True)
