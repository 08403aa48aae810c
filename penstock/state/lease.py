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

from penstock.clock import Clock, rfc3339
from penstock.errors import EnvironmentFault, Fenced, PenstockError, Transient
from penstock.postgres import Session
from penstock.state.dialect import Connection
from penstock.state.migration import Schema
from penstock.state.pipeline_tables import CARRIES_ON
from penstock.state.postgres_database import ask, damaged

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
                number INTEGER PRIMARY KEY, holder TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, since REAL NOT NULL,
                counter INTEGER NOT NULL)""",
            "INSERT INTO penstock_lease VALUES (1, '', '', 0, 0, 0)",
        ]
    ],
)
"""Never to be changed: a newer program takes the lease before it migrates the store."""


@dataclass(frozen=True, slots=True)
class _Row:
    """:ivar holder: random, of one `hold`; empty where nobody holds the pipeline.
    :ivar since: wall time of the holder's machine, for people.
    """

    holder: str
    host: str
    pid: int
    since: float
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
        self._lost: PenstockError | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the pipeline, as far as it knows."""
        return self._renewing is not None and self._lost is None

    def check(self) -> None:
        """:raises PenstockError: the pipeline was held, and is no longer: another run took it, or renewing is refused."""
        if self._lost is not None:
            raise self._lost

    async def hold(self, *, wait: bool = False, take_over: bool = False) -> None:
        """See `StateStore.hold`. After `Transient` it may be called again."""
        self._mine = self._mine or secrets.token_hex(8)
        row, since = await ask(self._session, _read), self._clock.monotonic()
        while row.holder != self._mine:  # so it is also where the answer to taking it was lost
            seen = row
            if take_over or not seen.holder or self._clock.monotonic() - since >= LEASE:
                await self._take(seen)
            else:
                await self._clock.sleep(_LOOKING)
            row = await ask(self._session, _read)
            if row != seen:
                if row.holder not in ("", self._mine) and not (wait or take_over):
                    raise held_by(self._pipeline, row)
                since = self._clock.monotonic()
        self._lost = None
        self._renewing = asyncio.create_task(self._renew(), name=f"lease of {self._pipeline}")

    async def _take(self, seen: _Row) -> None:
        """Compare and set: nothing happens where somebody was quicker."""
        mine = (self._mine, socket.gethostname(), os.getpid(), self._clock.now())
        change = (
            "UPDATE penstock_lease SET holder = ?, host = ?, pid = ?, since = ?, counter = counter + 1 "
            "WHERE holder = ? AND counter = ?"
        )
        await ask(self._session, lambda db: db.execute(change, (*mine, seen.holder, seen.counter)))

    async def _renew(self) -> None:
        change = "UPDATE penstock_lease SET counter = counter + 1 WHERE holder = ?"
        while self._lost is None:
            await self._clock.sleep(RENEWAL)
            try:
                if await ask(self._session, lambda db: db.execute(change, (self._mine,)).rowcount) == 0:
                    self._lost = taken_over(self._pipeline, await ask(self._session, _read))
            except Transient:
                continue  # tried again; should the lease run out meanwhile, the epoch fences this run
            except PenstockError as error:
                self._lost = error

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
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if not mine:
            return
        change = "UPDATE penstock_lease SET holder = '', counter = counter + 1 WHERE holder = ?"
        with contextlib.suppress(PenstockError):  # the run ends, and with it what it could not tell
            await ask(self._session, lambda db: db.execute(change, (mine,)))


def held_by(pipeline: str, row: _Row) -> EnvironmentFault:
    """`state.held`."""
    return EnvironmentFault(
        "state.held",
        f"pipeline {pipeline} is being run by {_who(row)}",
        help="stop it, or wait for its end with --wait, or fence it with --take-over",
    )


def taken_over(pipeline: str, row: _Row) -> Fenced:
    """`state.fenced`, of a run that finds out by its lease."""
    by = f"by {_who(row)}" if row.holder else "by a run that has ended"
    return Fenced("state.fenced", f"pipeline {pipeline} was taken over {by}", help=CARRIES_ON)


def _who(row: _Row) -> str:
    return f"process {row.pid} on {row.host} since {rfc3339(row.since)}"


def _read(db: Connection) -> _Row:
    row = db.execute("SELECT holder, host, pid, since, counter FROM penstock_lease WHERE number = 1").fetchone()
    if row is None:
        raise damaged("its lease is gone")
    return _Row(*row)
