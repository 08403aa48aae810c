"""Holding a pipeline among machines: a counter that its holder raises (rule 1).

A claimant watches the counter on its own monotonic clock, and takes over when it has not moved for `LEASE` seconds: the clocks
of two machines are never compared. A holder that stood still for longer may find itself replaced; the epoch, not the lease, keeps
it from writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from dataclasses import dataclass

from penstock.clock import Clock
from penstock.errors import EnvironmentFault, Transient
from penstock.postgres import Session
from penstock.state.dialect import Connection
from penstock.state.migration import Schema
from penstock.state.postgres_database import ask

LEASE = 3.0
"""Seconds without a move after which a holder counts as dead."""

RENEWAL = 0.5
_LOOKING = 0.2
_MOVES_WITHIN = 3 * RENEWAL

LEASE_SCHEMA = Schema(
    "lease",
    [
        [
            """CREATE TABLE penstock_lease (
                number INTEGER PRIMARY KEY, holder TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
                counter INTEGER NOT NULL)""",
            "INSERT INTO penstock_lease VALUES (1, '', '', 0, 0)",
        ]
    ],
)


@dataclass(frozen=True, slots=True)
class _Row:
    """:ivar holder: random, of one `hold`; empty where nobody holds the pipeline."""

    holder: str
    host: str
    pid: int
    counter: int


class Lease:
    """`hold`, then `release`; `holder` at any time.

    :param session: its own, so that no commit is waited for; opened and closed by the caller.
    """

    def __init__(self, session: Session, pipeline: str, clock: Clock) -> None:
        self._session = session
        self._pipeline = pipeline
        self._clock = clock
        self._mine = ""
        self._renewing: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the pipeline, as far as it knows."""
        return bool(self._mine)

    async def hold(self, *, wait: bool = False, take_over: bool = False) -> None:
        """See `StateStore.hold`."""
        seen, since = await ask(self._session, _read), self._clock.monotonic()
        while not self.held:
            if take_over or not seen.holder or self._clock.monotonic() - since >= LEASE:
                if await self._take(seen):
                    break
            else:
                await self._clock.sleep(_LOOKING)
            row = await ask(self._session, _read)
            if row != seen:
                if row.holder and not (wait or take_over):
                    raise held_by(self._pipeline, row.host, row.pid)
                seen, since = row, self._clock.monotonic()

    async def _take(self, seen: _Row) -> bool:
        mine, host, pid = secrets.token_hex(8), socket.gethostname(), os.getpid()

        def work(db: Connection) -> bool:
            change = (
                "UPDATE penstock_lease SET holder = ?, host = ?, pid = ?, counter = counter + 1 WHERE holder = ? AND counter = ?"
            )
            return db.execute(change, (mine, host, pid, seen.holder, seen.counter)).rowcount == 1

        if not await ask(self._session, work):
            return False
        self._mine = mine
        self._renewing = asyncio.create_task(self._renew(mine), name=f"lease of {self._pipeline}")
        return True

    async def _renew(self, mine: str) -> None:
        def work(db: Connection) -> bool:
            return db.execute("UPDATE penstock_lease SET counter = counter + 1 WHERE holder = ?", (mine,)).rowcount == 1

        while True:
            await self._clock.sleep(RENEWAL)
            with contextlib.suppress(Transient):  # tried again; should the lease run out meanwhile, the epoch fences this run
                if not await ask(self._session, work):
                    self._mine = ""
                    return

    async def holder(self) -> _Row | None:
        """Who holds the pipeline and is alive: seen to move, within one and a half seconds."""
        first = await ask(self._session, _read)
        deadline = self._clock.monotonic() + _MOVES_WITHIN
        while first.holder and self._clock.monotonic() < deadline:
            await self._clock.sleep(_LOOKING)
            row = await ask(self._session, _read)
            if row != first:
                return row if row.holder else None
        return None

    async def release(self) -> None:
        """Let go; harmless when not held. Where the server cannot be told, the lease runs out by itself."""
        task, self._renewing = self._renewing, None
        mine, self._mine = self._mine, ""
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])

        def work(db: Connection) -> None:
            db.execute("UPDATE penstock_lease SET holder = '', counter = counter + 1 WHERE holder = ?", (mine,))

        with contextlib.suppress(Transient):
            await ask(self._session, work)


def held_by(pipeline: str, host: str, pid: int) -> EnvironmentFault:
    """`state.held`."""
    return EnvironmentFault(
        "state.held",
        f"pipeline {pipeline} is being run by process {pid} on {host}",
        help="stop it, or wait for its end with --wait, or fence it with --take-over",
    )


def _read(db: Connection) -> _Row:
    return _Row(*db.execute("SELECT holder, host, pid, counter FROM penstock_lease WHERE number = 1").fetchone())
