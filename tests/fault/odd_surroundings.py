"""The command in surroundings that misbehave: a disk that is full until the test makes room, a wall clock that jumps.

Each function changes this process's surroundings, then runs the command. They run in processes of their own only.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.cli.main import main
from penstock.clock import SystemClock
from penstock.state.sqlite_database import Database

ROOM = 3
"""Pages that a database may still grow by while the disk is full."""

UNLIMITED = 1_073_741_823


def full_disk() -> None:
    """No database grows by more than a few pages until a file `space` is there; a file `full` says that one could not."""
    open_as_it_is, run_as_it_is = Database._open, Database._run

    def open_small(self: Database, prepare: Callable[[sqlite3.Connection], Any], create: bool) -> Any:
        result = open_as_it_is(self, prepare, create)
        assert self._connection is not None
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        self._connection.execute(f"PRAGMA max_page_count = {pages + ROOM}")
        return result

    def run(self: Database, work: Callable[[sqlite3.Connection], Any], connection: sqlite3.Connection) -> Any:
        if Path("space").exists():
            connection.execute(f"PRAGMA max_page_count = {UNLIMITED}")

        def noticing(given: sqlite3.Connection) -> Any:
            try:
                return work(given)
            except sqlite3.Error as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    Path("full").touch()
                raise

        return run_as_it_is(self, noticing, connection)

    Database._open = open_small  # type: ignore[method-assign]
    Database._run = run  # type: ignore[method-assign]
    main()


def jumping_clock() -> None:
    """Wall time is off by an hour, in either direction, from one look to the next."""
    rng = random.Random()
    SystemClock.now = staticmethod(lambda: time.time() + rng.choice((-3600.0, 0.0, 3600.0)))  # type: ignore[assignment]
    main()
