"""The loop behind `batches()`: changes of the stream and rows of snapshots, in the one order in which both are exact.

    reading = Reading(stream, snapshots, reselection, clock)
    reading.begin(changes, goal)
    async for batch in reading.batches(count, size): …

Plans of snapshots come first of all. Rows of an exported snapshot come before the stream begins; rows that are read beside it
once everything that was collected of the stream has been given. A fault of the stream comes behind what was read before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from connectors.sources._cdc.changes import Changes
from connectors.sources._cdc.positions import END
from connectors.sources._cdc.snapshots import Snapshots
from connectors.sources._cdc.stream import Stream
from connectors.sources._cdc.toast import Reselection
from penstock.clock import Clock
from penstock.errors import Fatal, Transient
from penstock.spi import Batch, Token

_QUIET = 1.0
"""Seconds between two batches that carry nothing but an LSN to confirm."""


class Reading:
    """Reads one run.

    :ivar tasks: beside the reading; one that ends, ends the run with its reason.
    :ivar sound: the last `batches` ended by itself or was stopped from outside.
    :param snapshot_only: end once everything of the snapshots was given.
    """

    def __init__(
        self, stream: Stream, snapshots: Snapshots, reselection: Reselection, clock: Clock, *, snapshot_only: bool
    ) -> None:
        self.tasks: Sequence[asyncio.Task[None]] = ()
        self._last: Token | None = 0  # nothing was given
        self.sound = False
        self._stream = stream
        self._snapshots = snapshots
        self._reselection = reselection
        self._clock = clock
        self._snapshot_only = snapshot_only
        self._changes: Changes | None = None
        self._goal: int | None = None

    async def begin(self, changes: Changes, goal: int | None) -> None:
        """Connect, unless an exported snapshot comes first.

        :param goal: end once the stream has passed this LSN.
        """
        self._changes, self._goal = changes, goal
        if not (self._snapshots.exporting or self._has_all):
            await self._stream.open(changes)

    async def batches(self, count: int, size: int) -> AsyncGenerator[Batch, None]:
        """As `Source.batches`.

        :raises Transient: a connection was lost; called again, everything goes on behind what was given.
        """
        self.sound = False
        try:
            async with aclosing(self._exported()) as exported:
                async for batch in exported:
                    self._last = batch.token
                    yield batch
            if not self._has_all:
                await self._connect()
                async with aclosing(self._beside(count, size)) as beside:
                    async for batch in beside:
                        self._last = batch.token
                        yield batch
            self.sound = True
        except Transient:
            await self._snapshots.stop()
            await self._stream.disconnect()
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self.sound = True
            raise

    def is_settled(self, confirmed: int) -> bool:
        """Whether nothing is left of what was given: a token acknowledges what came before it, too.

        :param confirmed: the last LSN that was acknowledged.
        """
        changes, last = self._changes, self._last
        whole = changes is not None and not changes.in_transaction and changes.start.place in (0, END)
        return self.sound and whole and not self._snapshots.busy and isinstance(last, int) and confirmed >= last

    async def _connect(self) -> None:
        if self._changes is None:
            raise Transient("source.disconnected", "the source database is not connected")
        if not self._stream.begun:
            await self._stream.open(self._changes)
        elif not self._stream.connected:
            await self._stream.reconnect()
        self._snapshots.start()

    async def _exported(self) -> AsyncGenerator[Batch, None]:
        """All rows of the exported snapshot, between the stream's first position and its first change."""
        snapshots, changes = self._snapshots, self._changes
        if not snapshots.exporting or changes is None:
            return
        snapshots.start()
        while (plan := snapshots.take_plan()) is not None:
            yield plan
        if (first := changes.take()) is not None:
            yield first
        while snapshots.exporting:
            self._check()
            snapshots.news.clear()
            batch = snapshots.take_plan() or snapshots.take(0)
            if batch is not None:
                yield batch
            else:
                await self._until_news()
        await snapshots.stop()

    async def _beside(self, count: int, size: int) -> AsyncGenerator[Batch, None]:
        """Changes as they are committed, cut as soon as no more have arrived, and rows of snapshots in between."""
        stream, snapshots = self._stream, self._snapshots
        changes, due = stream.changes, 0.0
        while True:
            self._check()
            snapshots.news.clear()
            while (plan := snapshots.take_plan()) is not None:
                yield plan
            fault = None
            try:
                more = await stream.gather(count, size)
            except Fatal as error:
                fault = error
            if changes.unsent:
                await self._reselection.fill(changes.unsent, changes.events, changes.rejects)
                changes.unsent.clear()
            now = self._clock.monotonic()
            over = self._is_over(changes)
            told = changes.count or stream.asked or over or fault or now >= due
            if told and (batch := changes.take()) is not None:
                due = now + _QUIET
                yield batch
            if fault is not None:
                raise fault
            stream.asked = False
            if over:
                return
            if (rows := snapshots.take_plan() or snapshots.take(changes.end)) is not None:  # asked for meanwhile
                yield rows
            elif not more:
                await self._wait(due - now)

    @property
    def _has_all(self) -> bool:
        """Whether there is nothing to read but changes, which are not wanted."""
        return self._snapshot_only and not self._snapshots.busy

    def _is_over(self, changes: Changes) -> bool:
        """A transaction that goes on beyond the goal is left in its middle: on a busy server there is always one."""
        if self._snapshots.busy:
            return False
        return self._snapshot_only or (self._goal is not None and changes.end >= self._goal)

    async def _wait(self, seconds: float) -> None:
        """Until more arrives, an LSN is to be handed on, rows were read, or a task beside the stream has ended."""
        waiting = asyncio.ensure_future(self._stream.wait(seconds, hurry=self._goal is not None))
        try:
            await self._until_news(waiting)
            if waiting.done():
                waiting.result()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _until_news(self, *others: asyncio.Future[None]) -> None:
        news = asyncio.ensure_future(self._snapshots.news.wait())
        awaited: list[asyncio.Future[Any]] = [news, *others, *self.tasks]
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    def _check(self) -> None:
        """:raises Exception: what ended a task beside the stream, or one that reads rows."""
        self._snapshots.check()
        for task in self.tasks:
            if task.done():
                task.result()
