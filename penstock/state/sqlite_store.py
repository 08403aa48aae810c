"""The embedded state store: one SQLite database a pipeline, beside a lock file that names the live run.

Collaborators: `sqlite_database` (connection, thread, error classes), `sqlite_opening` (the file and its format), `lock`;
`sql_store` is the rest.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from penstock.clock import Clock
from penstock.errors import EnvironmentFault, Fenced
from penstock.faults import Faults
from penstock.state.lock import PipelineLock, holder_of
from penstock.state.pipeline_tables import CARRIES_ON
from penstock.state.sql_store import SqlStateStore
from penstock.state.sqlite_database import BUSY_TIMEOUT, Database
from penstock.state.sqlite_opening import NAMING, check_file, prepare

_WAIT = 0.5  # seconds between two tries of `hold(wait=True)`


class SqliteStateStore(SqlStateStore):
    """`StateStore` over `path`, with the lock in the file of the same name and the suffix `.lock`.

    :param busy_timeout: seconds that a statement waits for another process before `Unavailable`.
    """

    def __init__(self, path: Path, pipeline: str, clock: Clock, faults: Faults, *, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self.path = path
        self._file = Database(path, NAMING, busy_timeout=busy_timeout)
        self._lock = PipelineLock(path.with_suffix(".lock"))
        super().__init__(pipeline, clock, faults, self._file)

    @property
    def _holds(self) -> bool:
        return self._lock.held

    async def open(self, *, create: bool = True) -> None:
        """See `StateStore.open`."""
        check_file(self.path, self.pipeline, self._lock, create=create)
        await self._file.open(lambda db: prepare(db, self.path, self._lock, self._faults), create=create)

    async def close(self) -> None:
        """Close the database and let go of the pipeline; harmless when not open."""
        try:
            await self._file.close()
        finally:
            self._lock.release()

    async def hold(self, *, wait: bool = False, take_over: bool = False) -> None:
        """See `StateStore.hold`. The lock ends with the process, or with `close`."""
        while (pid := await asyncio.to_thread(self._lock.acquire, take_over=take_over)) is not None:
            if not wait:
                raise EnvironmentFault(
                    "state.held",
                    f"pipeline {self.pipeline} is being run by process {pid}",
                    where=str(self._lock.path),
                    help="stop it, or wait for its end with --wait, or fence it with --take-over",
                )
            await self._clock.sleep(_WAIT)

    def check_hold(self) -> None:
        """See `StateStore.check_hold`."""
        if self._lock.lost:
            raise Fenced("state.fenced", f"pipeline {self.pipeline} was taken over by another run", help=CARRIES_ON)

    async def holder(self) -> int | None:
        """See `StateStore.holder`."""
        return os.getpid() if self._lock.held else holder_of(self._lock.path)
