"""The segment that a journal is written to, with its sidecars. Blocking; every method raises `OSError` where the disk fails."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from penstock.files import sync_directory
from penstock.journal.frames import ENTRY_SIZE, ID_SIZE, About, Frame
from penstock.journal.index import ids_path, index_path, segment_path


@dataclass(slots=True)
class Segment:
    """Files that are open, and how far they reach.

    :ivar entries: how many the index holds; `ids`: digests that `.ids` holds; `committed`: bytes that these stand for.
    :ivar end: bytes that are on the disk.
    :ivar pending: frames behind `committed`, with their ids.
    """

    number: int
    file: int
    index: int
    ids_file: int
    entries: int = 0
    ids: int = 0
    committed: int = 0
    end: int = 0
    pending: list[tuple[Frame, bytes]] = field(default_factory=list)

    @classmethod
    def create(cls, directory: Path, number: int) -> Segment:
        """A new one. Its index is there before it, so that a reader knows it for one that is being written."""
        segment = cls(number, *_open(directory, number, os.O_CREAT | os.O_EXCL))
        try:
            fcntl.flock(segment.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sync_directory(directory)
        except OSError:
            segment.close()
            raise
        return segment

    @classmethod
    def resume(cls, directory: Path, number: int, frames: Sequence[Frame]) -> Segment | None:
        """The last one, cut to these frames, which its index holds; None where another process has it open still: a run that
        was taken over and may wake up. It is left to that one, whose frames nobody will ever commit."""
        files = _open(directory, number, 0)
        last = frames[-1] if frames else None
        segment = cls(number, *files, len(frames), last.ids_before + last.ids if last else 0)
        segment.committed = segment.end = last.end if last else 0
        try:
            fcntl.flock(segment.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            segment.close()
            return None
        os.ftruncate(segment.file, segment.end)
        return segment

    def write(self, data: bytes) -> None:
        """Behind what is there."""
        _write_all(self.file, data, self.end)

    def sync(self) -> None:
        os.fdatasync(self.file)

    def add(self, written: Sequence[tuple[int, About]]) -> None:
        """Frames of these lengths were written and synced."""
        ids = self.ids + sum(frame.ids for frame, _ in self.pending)
        for length, about in written:
            frame = Frame.placed(about, self.number, self.end, length, ids)
            self.pending.append((frame, about.ids))
            self.end, ids = frame.end, ids + frame.ids

    def commit(self) -> None:
        """Put what is pending into the index, ids first. Done again after a failure, it writes the same once more."""
        if not self.pending:
            return
        _write_all(self.ids_file, b"".join(ids for _, ids in self.pending), self.ids * ID_SIZE)
        _write_all(self.index, b"".join(frame.entry() for frame, _ in self.pending), self.entries * ENTRY_SIZE)
        last = self.pending[-1][0]
        self.entries += len(self.pending)
        self.ids, self.committed = last.ids_before + last.ids, last.end
        self.pending.clear()

    def rollback(self) -> None:
        """Forget what is pending."""
        os.ftruncate(self.file, self.committed)
        self.end = self.committed
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
    """The segment, its index, its ids; the index first."""
    opened: list[int] = []
    try:
        for path in (index_path(directory, number), ids_path(directory, number), segment_path(directory, number)):
            opened.append(os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600))
    except OSError:
        for file in opened:
            os.close(file)
        raise
    index, ids, segment = opened
    return segment, index, ids


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
