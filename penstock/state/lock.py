"""Holding a pipeline on this machine: an flock on a file that names the holder's process id (rule 1).

The kernel releases the lock when the process dies, whatever it dies of. A take-over puts a new lock file in the place of the old
one, so that the newcomer holds the name; the old run is fenced by its epoch.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_TRIES = 5
_BETWEEN_TRIES = 0.01  # seconds: `holder_of` takes the lock for microseconds, which must not count as a live run


class PipelineLock:
    """`acquire` and `release` may be called again; not shared between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    @property
    def lost(self) -> bool:
        """Whether it was held, and another run has put its own in its place."""
        return self._descriptor is not None and self.path.exists() and not _is_at(self._descriptor, self.path)

    def acquire(self, *, take_over: bool = False) -> int | None:
        """Take the lock. None when it is ours, else the holder's process id (0 where that is unknown)."""
        if self._descriptor is not None:
            return None
        for _ in range(_TRIES):
            if self._try():
                return None
            time.sleep(_BETWEEN_TRIES)
        if not take_over:
            return _read_pid(self.path) or 0
        fresh = self.path.with_suffix(f".{os.getpid()}.lock")
        descriptor = _open(fresh)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._keep(descriptor)
        fresh.replace(self.path)
        return None

    def _try(self) -> bool:
        descriptor = _open(self.path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        if not _is_at(descriptor, self.path):  # taken over between open and flock
            os.close(descriptor)
            return False
        self._keep(descriptor)
        return True

    def _keep(self, descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; harmless when not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)


def holder_of(path: Path) -> int | None:
    """Process id of whoever holds the lock (0 where that is unknown), or None."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(path) or 0
    finally:
        os.close(descriptor)
    return None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read_pid(path: Path) -> int | None:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    return int(text) if text.strip().isdigit() else None
