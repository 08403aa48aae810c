"""The segment that a journal is written to, with its sidecars. Blocking; every method raises `OSError` where the disk fails."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from penstock.files import sync_directory
from penstock.journal.frames import ENTRY_SIZE, ID_SIZE, About, Frame, place_frame
from penstock.journal.index import ids_path, index_path, remove_segment, segment_path


@dataclass(slots=True)
class Segment:
    """Files that are open, and how far they reach.

    :ivar entries: how many the index holds; `last`: the frame of the last one.
    :ivar pending: frames behind that, on the disk and not committed, with their ids.
    """

    number: int
    file: int
    index: int
    ids_file: int
    entries: int = 0
    last: Frame | None = None
    pending: list[tuple[Frame, bytes]] = field(default_factory=list)

    @property
    def committed(self) -> int:
        """Bytes that the index stands for."""
        return self.last.end if self.last is not None else 0

    @property
    def end(self) -> int:
        """Bytes that are on the disk."""
        return self.pending[-1][0].end if self.pending else self.committed

    @classmethod
    def create(cls, directory: Path, number: int) -> Segment:
        """A new one. Its index is there before it, so that a reader knows it for one that is being written.

        :raises FileExistsError: the number has been used.
        """
        files = _open(directory, number, os.O_CREAT | os.O_EXCL)
        segment = cls(number, *files)
        try:
            fcntl.flock(segment.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sync_directory(directory)
        except OSError:
            segment.close()
            remove_segment(directory, number)
            raise
        return segment

    @classmethod
    def resume(cls, directory: Path, number: int, frames: Sequence[Frame]) -> Segment | None:
        """The last one, cut to these frames, which its index holds; None where another process has it open still: a run that
        was taken over and may wake up. It is left to that one, whose frames nobody will ever commit."""
        segment = cls(number, *_open(directory, number, 0), len(frames), frames[-1] if frames else None)
        try:
            fcntl.flock(segment.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(segment.file, segment.end)
        except BlockingIOError:
            segment.close()
            return None
        except OSError:
            segment.close()
            raise
        return segment

    def write(self, data: bytes) -> None:
        """Behind what is there."""
        _write_all(self.file, data, self.end)

    def sync(self) -> None:
        os.fdatasync(self.file)

    def add(self, written: Sequence[tuple[int, About]]) -> None:
        """Frames of these lengths were written and synced."""
        before = self.pending[-1][0] if self.pending else self.last
        for length, about in written:
            before = place_frame(about, self.number, length, before)
            self.pending.append((before, about.ids))

    def commit(self) -> None:
        """Put what is pending into the index, ids first. Done again after a failure, it writes the same once more."""
        if not self.pending:
            return
        ids = self.last.ids_end if self.last is not None else 0
        _write_all(self.ids_file, b"".join(ids for _, ids in self.pending), ids * ID_SIZE)
        _write_all(self.index, b"".join(frame.entry() for frame, _ in self.pending), self.entries * ENTRY_SIZE)
        self.entries += len(self.pending)
        self.last = self.pending[-1][0]
        self.pending.clear()

    def rollback(self) -> None:
        """Forget what is pending."""
        os.ftruncate(self.file, self.committed)
        self.pending.clear()

    def cut_back(self) -> None:
        """After a write or a sync that failed: to what is known to be on the disk. What cannot be cut stays behind the index."""
        try:
            os.ftruncate(self.file, self.end)
        except OSError:  # nobody reads behind the index, and nothing is written to it again
            return

    def seal(self) -> None:
        """It is full: its index is on the disk too, so that a power cut leaves no older segment with half of one."""
        os.fsync(self.ids_file)
        os.fsync(self.index)

    def close(self) -> None:
        for file in (self.file, self.index, self.ids_file):
            os.close(file)


def _open(directory: Path, number: int, flags: int) -> tuple[int, int, int]:
    """The segment, its index, its ids; the index first. What was made goes again where one of them cannot be made."""
    opened: list[int] = []
    paths = index_path(directory, number), ids_path(directory, number), segment_path(directory, number)
    try:
        for path in paths:
            opened.append(os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600))
    except OSError:
        for path, file in zip(paths, opened, strict=False):
            os.close(file)
            if flags & os.O_CREAT:
                path.unlink()
        raise
    index, ids, segment = opened
    return segment, index, ids


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
