"""The disk's part of streamed transactions: a private directory, and in it a file for each transaction in progress. Blocking.

    spill = SpillDirectory(base, slot)
    spill.open()
    size = spill.append(xid, chunk)             # as often as there is something; `size` bytes further
    chunk, at = spill.read(xid, at)             # from 0 up to where the last `append` ended
    spill.remove(xid)
    spill.close()

Nothing here outlives the connection: the server sends a transaction again that was not confirmed. So nothing is synced, and what
is damaged is asked for again. A file is chunks, each behind its length and checksum.

An owner holds a lock on a file in its directory for life, so that a directory whose owner is gone is known by its lock, in
whichever process, container or boot it was made, and is removed by whoever opens the next one beside it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from struct import Struct

from penstock.errors import ComponentError, EnvironmentFault, Transient, Unavailable
from penstock.files import DISK_FULL

_DIRECTORY = re.compile(r"cdc-[a-z0-9_]{1,63}-[0-9]+-[0-9]+")
_FILE = re.compile(r"[0-9]+\.changes")
_OWNER = "owner"
_HEAD = Struct("!II")
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class SpillDirectory:
    """One directory below `base`, of one source. Not for several threads at once."""

    def __init__(self, base: Path, slot: str) -> None:
        self._base = base
        self._slot = slot
        self._path: Path | None = None
        self._lock = -1

    def open(self) -> None:
        """Remove what others left, and make a directory of one's own; harmless when open.

        :raises Unavailable: `source.spill_disk`.
        :raises EnvironmentFault: `source.spill`.
        """
        if self._path is not None:
            return
        with _failing(self._base):
            self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(self._base)
            self._path = self._make()

    def append(self, xid: int, chunk: bytes | bytearray) -> int:
        """Put a chunk behind the others of this transaction; the bytes that it takes there.

        :raises Unavailable: `source.spill_disk`: the disk is full or failing; the file may hold a part of the chunk.
        :raises EnvironmentFault: `source.spill`.
        """
        path = self._file(xid)
        with _failing(path), _opened(path, _APPEND) as file:
            _write(file, _HEAD.pack(len(chunk), zlib.crc32(chunk)))
            _write(file, chunk)
        return _HEAD.size + len(chunk)

    def read(self, xid: int, at: int) -> tuple[bytes, int]:
        """The chunk at `at`, and where the next one begins.

        :raises Transient: `source.spill_damaged`: it is not what was written; the server has it still.
        """
        path = self._file(xid)
        try:
            with _opened(path, _READ) as file:
                head = os.pread(file, _HEAD.size, at)
                if len(head) < _HEAD.size:
                    raise _damaged(path, f"it ends before byte {at + _HEAD.size:,}")
                length, checksum = _HEAD.unpack(head)
                chunk = _read(file, length, at + _HEAD.size)
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from error
        if len(chunk) != length or zlib.crc32(chunk) != checksum:
            raise _damaged(path, f"what begins at byte {at:,} is not what was written there")
        return chunk, at + _HEAD.size + length

    def remove(self, xid: int) -> None:
        """:raises EnvironmentFault: `source.spill`."""
        path = self._file(xid)
        with _failing(path):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove every transaction's file.

        :raises EnvironmentFault: `source.spill`.
        """
        if self._path is not None:
            with _failing(self._path):
                _empty(self._path)

    def close(self) -> None:
        """Remove the directory; harmless when not open.

        :raises EnvironmentFault: `source.spill`.
        """
        path, self._path = self._path, None
        if path is not None:
            try:
                with _failing(path):
                    _remove(path)
            finally:
                os.close(self._lock)

    def _file(self, xid: int) -> Path:
        if self._path is None:
            raise Transient("source.disconnected", "the spill directory is not open")
        return self._path / f"{xid}.changes"

    def _make(self) -> Path:
        """A directory that nobody has, locked. One that is swept away before it is locked is given up for the next name."""
        for number in count():
            path = self._base / f"cdc-{self._slot}-{os.getpid()}-{number}"
            try:
                path.mkdir(mode=0o700)
                lock = os.open(path / _OWNER, _LOCK | os.O_CREAT | os.O_EXCL, 0o600)
            except (FileExistsError, FileNotFoundError):
                continue
            if _locked(lock, path / _OWNER):
                self._lock = lock
                return path
            os.close(lock)
        raise AssertionError("unreachable")


def _locked(lock: int, path: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _sweep(base: Path) -> None:
    """Remove the directories of this user whose owner is gone. A name that is not one of ours is left alone."""
    with os.scandir(base) as entries:
        named = [entry for entry in entries if _DIRECTORY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)]
    for entry in named:
        if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
            _sweep_one(Path(entry.path))


def _sweep_one(path: Path) -> None:
    try:
        lock = os.open(path / _OWNER, _LOCK)
    except FileNotFoundError:  # its maker died, or has yet to lock it and will then see that it is gone
        _remove_empty(path)
        return
    try:
        if _locked(lock, path / _OWNER):
            _remove(path)
    finally:
        os.close(lock)


def _remove(path: Path) -> None:
    _empty(path)
    (path / _OWNER).unlink(missing_ok=True)
    _remove_empty(path)


def _empty(path: Path) -> None:
    with os.scandir(path) as entries:
        files = [entry.path for entry in entries if _FILE.fullmatch(entry.name)]
    for file in files:
        Path(file).unlink(missing_ok=True)


def _remove_empty(path: Path) -> None:
    """What holds files that are not ours stays, with these."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def _write(file: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _read(file: int, length: int, at: int) -> bytes:
    """Up to `length` bytes: one call reads no more than 2 GiB, and may be given less."""
    parts = []
    while length and (part := os.pread(file, length, at)):
        parts.append(part)
        length -= len(part)
        at += len(part)
    return b"".join(parts)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags, 0o600)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: Path, error: OSError) -> ComponentError:
    """A full or failing disk is waited for; anything else is the surroundings' fault."""
    reason = error.strerror or str(error)
    if error.errno in DISK_FULL:
        return Unavailable(
            "source.spill_disk",
            f"a transaction in progress cannot be spilled to {path}: {reason}",
            help="make room, and the run goes on by itself: the server sends the transaction again",
        )
    return EnvironmentFault(
        "source.spill",
        f"{path} cannot be used: {reason}",
        help="`spill.directory` names where large transactions wait for their commit; `streaming: off` leaves that to the server",
    )


def _damaged(path: Path, why: str) -> Transient:
    return Transient("source.spill_damaged", f"{path} was changed by something else", why=f"{why}; the server sends it again")
