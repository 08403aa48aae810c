"""Where copies of native ranges lie, and how they go again: `STATE/ranges/PIPELINE/NAME/`, a journal each, for their owner alone.

A copy belongs to the one job that names it. While it is made, its directory is locked; once its job is stored, the job keeps it.
What is neither locked nor named by an open job is left over: of a command that died, or of a job that has ended. Blocking.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import EnvironmentFault
from penstock.files import make_directory_durably

_NAME = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies of one pipeline.

    :ivar directory: of all of them; need not exist.
    """

    directory: Path

    @classmethod
    def of(cls, state: Path, pipeline: str) -> Copies:
        """:param state: directory of the state store (`Pipeline.state`)."""
        return cls(state / "ranges" / pipeline)

    def path(self, name: str) -> Path:
        """Where a copy lies.

        :raises EnvironmentFault: `backfill.no_copy`, it is not there.
        """
        path = self.directory / name
        if _NAME.fullmatch(name) is None or not path.is_dir():  # Invariant 12: no path comes from what is stored
            raise EnvironmentFault(
                "backfill.no_copy",
                "the copy of the range, which this backfill reads, is not here",
                where=str(path),
                why="it was removed, or made on another machine",
                help="start the backfill again; a native one goes on only where it was begun",
            )
        return path

    @contextmanager
    def making(self) -> Iterator[Path]:
        """An empty directory for a new copy, locked until the context ends: its job is to be stored before that. What fails
        inside removes it.

        :raises EnvironmentFault: `backfill.disk`.
        """
        with ExitStack() as stack:
            try:
                path = self._make(stack)
            except OSError as error:
                raise no_room(f"no directory can be made: {error.strerror}", str(self.directory)) from error
            try:
                yield path
            except BaseException:
                shutil.rmtree(path)
                raise

    def _make(self, stack: ExitStack) -> Path:
        make_directory_durably(self.directory, 0o700)
        with _locked(self.directory):  # no sweep comes between the directory and its lock
            path = self.directory / secrets.token_hex(8)
            path.mkdir(0o700)
            stack.enter_context(_locked(path))
        return path

    async def sweep(self, named: Callable[[], Awaitable[Collection[str]]]) -> None:
        """Remove what is left over.

        :param named: the copies that open jobs name: asked once none of those that are to go can be getting a job any more.
        """
        if not self.directory.is_dir():
            return
        with ExitStack() as stack:
            stack.enter_context(_locked(self.directory))
            free = [path for path in self.directory.iterdir() if _NAME.fullmatch(path.name) and _try_lock(path, stack)]
            kept = await named() if free else ()
            for path in free:
                if path.name not in kept:
                    shutil.rmtree(path)

    def remove(self, name: str) -> None:
        """A copy whose job has ended. Harmless where it is gone."""
        if _NAME.fullmatch(name) is not None:
            shutil.rmtree(self.directory / name, ignore_errors=True)


def no_room(message: str, where: str) -> EnvironmentFault:
    """A copy cannot be written."""
    return EnvironmentFault(
        "backfill.disk",
        f"the range cannot be copied: {message}",
        where=where,
        help="make room where the state store lies, or take a shorter range; nothing of the copy was kept",
    )


def _locked(directory: Path) -> AbstractContextManager[None]:
    """Waits for others; those who hold it do so for a moment only."""
    return _holding(directory, fcntl.LOCK_EX)


def _try_lock(directory: Path, stack: ExitStack) -> bool:
    """Whether nobody holds it; held until the stack ends."""
    try:
        stack.enter_context(_holding(directory, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


@contextmanager
def _holding(directory: Path, how: int) -> Iterator[None]:
    """Source: flock(2); a directory is locked as a file is, and the kernel lets go of it with the process."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, how)
        yield
    finally:
        os.close(file)
