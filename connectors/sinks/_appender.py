"""A file that is appended to, and cut back: the disk's part of the `file` sink. Blocking; one thread calls it.

The lock is held on a descriptor of its own for life, so that the one that writes can be opened anew after a failed fsync: the
kernel reports such a failure once, and may have dropped the pages (fsync(2), "Errors").
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import zlib
from pathlib import Path
from typing import Any

import zstandard

from connectors.sinks._file_state import shorter
from penstock.errors import ComponentError, EnvironmentFault, Unavailable
from penstock.files import DISK_FULL, make_directory_durably, sync_directory


def disk_error(path: Path, error: OSError) -> ComponentError:
    """A full or failing disk is waited for; anything else is the surroundings' fault."""
    reason = error.strerror or str(error)
    if error.errno in DISK_FULL:
        return Unavailable("sink.disk", f"cannot write {path}: {reason}", help="make room; the run goes on by itself")
    return EnvironmentFault("sink.file", f"cannot write {path}: {reason}")


class Appender:
    """The open file. Compression is one frame (gzip: member) from one `seal` to the next.

    :ivar length: of the file, in bytes, as far as this process wrote or cut it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self._lock = -1
        self._file = -1
        self._encoder: Any = None

    def open(self) -> None:
        """Take the file, creating it and its directories where they are missing, durably.

        :raises EnvironmentFault: `sink.file_symlink`, `sink.file_held`, `sink.file`.
        """
        try:
            make_directory_durably(self.path.parent)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._lock = os.open(self.path, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP and self.path.is_symlink():
                raise EnvironmentFault(
                    "sink.file_symlink", f"{self.path} is a symbolic link", help="name the file that it leads to"
                ) from error
            raise disk_error(self.path, error) from error
        try:
            self._take()
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        status = os.fstat(self._lock)
        if not stat.S_ISREG(status.st_mode):
            raise EnvironmentFault("sink.file", f"{self.path} is no regular file")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EnvironmentFault(
                "sink.file_held", f"{self.path} is being written by another run", help="end that run, or write to another file"
            ) from error
        try:
            sync_directory(self.path.parent)
            self._reopen()
        except OSError as error:
            raise disk_error(self.path, error) from error

    def _reopen(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1  # its number is free even where closing it fails
            os.close(file)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        status = os.fstat(self._file)
        if not os.path.samestat(status, os.fstat(self._lock)):
            raise EnvironmentFault(
                "sink.file_replaced", f"{self.path} was replaced by another file", help="put the file back that the run wrote"
            )
        self.length = status.st_size

    def inode(self) -> tuple[int, int]:
        status = os.fstat(self._lock)
        return status.st_dev, status.st_ino

    def append(self, data: bytes) -> None:
        """:raises OSError: the file may then hold a part of it."""
        if self.path.suffix in (".gz", ".zst"):
            if self._encoder is None:
                self._encoder = _encoder(self.path.suffix)
            data = self._encoder.compress(data)
        self._write(data)

    def seal(self) -> None:
        """End the compressed frame, and make everything durable.

        :raises OSError: nothing is known of what was written since the last `seal`; cut it off.
        :raises EnvironmentFault: `sink.file_replaced`, `sink.file_shared`.
        """
        if self._encoder is not None:
            data, self._encoder = self._encoder.flush(), None
            self._write(data)
        self._check_sole()
        os.fsync(self._file)

    def _check_sole(self) -> None:
        """What is made durable must be found under its name, and be this run's alone."""
        status = os.fstat(self._file)
        try:
            there = os.path.samestat(status, self.path.lstat())
        except FileNotFoundError:
            there = False
        if not there:
            raise EnvironmentFault(
                "sink.file_replaced",
                f"{self.path} was removed, renamed or replaced while the run writes to it",
                help="put it back and run again: nothing behind the last commit counts as delivered",
            )
        if status.st_size != self.length:
            raise EnvironmentFault(
                "sink.file_shared",
                f"{self.path} has {status.st_size} bytes, and this run left it with {self.length}",
                why="something else writes to it",
                help="give every writer a file of its own",
            )

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._file, view)
            self.length += written
            view = view[written:]

    def cut(self, length: int) -> None:
        """Give up everything behind `length`, in a descriptor that knows of no earlier failure.

        :raises OSError: not possible now.
        :raises EnvironmentFault: `sink.file_replaced`, `sink.file_shorter`.
        """
        self._encoder = None
        self._reopen()
        if self.length < length:
            raise shorter(self.path, self.length, length)
        os.ftruncate(self._file, length)
        os.fsync(self._file)
        self.length = length

    def ends_line(self) -> bool:
        """Whether a further line can be appended as it is. Of compressed files it is taken for granted."""
        if not self.length or self.path.suffix in (".gz", ".zst"):
            return True
        return os.pread(self._file, 1, self.length - 1) == b"\n"

    def trim(self, length: int) -> None:
        """Cut off what is behind `length`, at the end; without the certainty of `cut`.

        :raises OSError: not possible.
        """
        if self._file >= 0 and self.length > length:
            os.ftruncate(self._file, length)

    def close(self) -> None:
        file, lock, self._file, self._lock = self._file, self._lock, -1, -1
        try:
            if file >= 0:
                os.close(file)
        finally:
            if lock >= 0:
                os.close(lock)


def _encoder(suffix: str) -> Any:
    if suffix == ".gz":
        return zlib.compressobj(wbits=31)
    return zstandard.ZstdCompressor().compressobj()
