"""A table of a snapshot in a run: how far it was given, and what was read of it ahead.

What is read is *held* on the table until it may be given (`_cdc.snapshots`): a few chunks, so that memory stays bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from connectors.sources._cdc.snapshot_positions import END_OF_CHUNK, Progress, Reached, position, row_order
from connectors.sources._cdc.snapshot_rows import Shape
from connectors.sources._cdc.snapshot_tap import Listener
from connectors.sources._cdc.snapshot_touched import Moment
from penstock.errors import EnvironmentFault
from penstock.event import Event
from penstock.spi import Position

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

HELD = 4
"""Chunks of a table that are held at most."""


class Token:
    """Acknowledges a batch of a snapshot."""

    def __init__(self) -> None:
        self._done = asyncio.Event()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    @classmethod
    def settled(cls) -> Token:
        """Of something that is durable already."""
        token = cls()
        token.settle()
        return token

    def settle(self) -> None:
        self._done.set()

    async def wait(self) -> None:
        """Until it is durable."""
        await self._done.wait()


class Held(msgspec.Struct, frozen=True):
    """A declaration or a chunk that was read, in the order in which they are given.

    :ivar progress: of the table, once it is given.
    :ivar result: the rows; None: a declaration.
    :ivar seen: what the rows hold; None: they are of the exported snapshot, which nothing was given before.
    :ivar fault: why the table is read no further.
    """

    progress: Progress
    result: PGresult | None = None
    shape: Shape | None = None
    seen: Moment | None = None
    fault: EnvironmentFault | None = None


class Table:
    """A table of a snapshot, in a run.

    :ivar partition, generation: which use of which partition this is.
    :ivar progress, chunk: how far it was given.
    :ivar rows: that this run gave.
    :ivar exported: it is read in the exported snapshot.
    :ivar is_at_plan: where the run met it; then it is planned again, for not every ledger may have that.
    :ivar repeat: its last declaration is to be given again, for not every ledger may have it.
    :ivar planned: acknowledges its plan, where this run gave it.
    :ivar declared: acknowledges the last declaration that this run gave.
    :ivar held: what was read and not given.
    :ivar listener: where it is read beside the stream.
    :ivar settled: changes that were given before it was listened to are seen by every snapshot by now.
    :ivar waits_for: how many transactions it waits for until then.
    """

    def __init__(self, found: Reached, *, exported: bool = False) -> None:
        self.partition = found.partition
        self.generation = found.generation
        self.progress = found.progress
        self.chunk = found.chunk
        self.exported = exported
        self.repeat = found.place > END_OF_CHUNK and bool(found.progress.bounds)
        self.is_at_plan = not (found.chunk or found.place)
        self.rows = 0
        self.declared: Token | None = None
        self.planned: Token | None = None
        self.taken = False
        self.held: deque[Held] = deque()
        self.listener: Listener | None = None
        self.settled = False
        self.waits_for = 0
        self._moved = asyncio.Event()
        self._thrown_away = False

    @property
    def is_done(self) -> bool:
        return self.progress.done

    @property
    def may_be_given(self) -> bool:
        """Whether there is something to give, and every ledger has the plan and the declaration that it is of."""
        if not self.held:
            return False
        needed = (self.declared,) if self.held[0].result is None else (self.planned, self.declared)
        return all(token is None or token.is_done for token in needed)

    def row_order(self, place: int, event: Event) -> bytes:
        """Of an event at a place in the chunk at which it stands."""
        return row_order(self.generation, self.chunk, place, event.id)

    def position(self, place: int, progress: Progress) -> Position:
        """Of a place in that chunk."""
        return position(self.generation, self.chunk, place, progress)

    async def hold(self, held: Held) -> None:
        """Once there is room.

        :raises ReadAgain: what was held was thrown away.
        """
        await self._until(lambda: len(self.held) < HELD)
        self.held.append(held)

    async def given(self) -> None:
        """Until everything was given. Raises as `hold`."""
        await self._until(lambda: not self.held)

    def release(self) -> Held:
        """The first of what is held."""
        held = self.held.popleft()
        self._moved.set()
        return held

    def throw_away(self) -> None:
        """Whoever reads begins again behind what was given."""
        self.held.clear()
        self._thrown_away = True
        self._moved.set()

    def abandon(self) -> None:
        """What is held is not given, and not read again."""
        self.held.clear()
        self._thrown_away = False

    def forget(self) -> None:
        """Nobody reads any more, and what is held comes again."""
        self.held.clear()
        self.taken = self._thrown_away = False

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self._thrown_away:
            self._moved.clear()
            await self._moved.wait()
        if self._thrown_away:
            self._thrown_away = False
            raise ReadAgain


class ReadAgain(Exception):
    """Rows that were held may be older than changes that were given."""
