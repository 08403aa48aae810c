"""Signals of one pipeline in its state store: people send them, a run follows them. Each method is one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.clock import Clock
from penstock.state import signal_tables
from penstock.state.database import Database
from penstock.state.dialect import Connection
from penstock.state.pipeline_tables import check_epoch
from penstock.state.signal_records import Inbox, Pause, SignalOutcome, SignalRecord


class SignalBox:
    """`StateStore.signals`. Whoever sends needs no hold, whether a run is alive or not; `take` and `decide` are a run's."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # ---- people

    async def send(self, kind: str, arguments: Sequence[str], by: str) -> int:
        """Store a signal for the source of the pipeline.

        :param by: who sends it, such as `user@host`.
        :return: its id.
        """
        now = self._clock.now()
        return await self._database.write(lambda db: signal_tables.send(db, kind, arguments, by, now))

    async def pause(self, by: str, why: str | None = None) -> int:
        """The pipeline is paused from now on, through restarts; its run follows. One that is paused already stays as it is.

        :return: the id of the signal that the run answers when everything it had read is committed.
        """
        now = self._clock.now()
        return await self._database.write(lambda db: signal_tables.pause(db, by, why, now))

    async def resume(self, by: str) -> int:
        """The pipeline is no longer paused.

        :return: the id of the signal that the run answers when it reads again.
        """
        now = self._clock.now()
        return await self._database.write(lambda db: signal_tables.resume(db, by, now))

    async def paused(self) -> Pause | None:
        """Since when, by whom and why; None where it is not."""
        return (await self.inbox()).pause

    async def latest(self, limit: int = 20) -> list[SignalRecord]:
        """Newest first."""
        return await self._database.look(lambda db: signal_tables.latest(db, limit))

    async def find(self, identity: int) -> SignalRecord | None:
        """One signal; None where it is no longer on record."""
        return await self._database.look(lambda db: signal_tables.find(db, identity))

    # ---- a run

    async def inbox(self) -> Inbox:
        """What a run follows, as of one moment. Cheap, and beside a commit that may be under way: asked once a second."""
        return await self._database.look(signal_tables.inbox)

    async def take(self, epoch: int, identity: int) -> None:
        """The run begins with a signal.

        :raises Fenced: a higher epoch was issued.
        """
        now = self._clock.now()

        def work(db: Connection) -> None:
            check_epoch(db, epoch)  # Invariant 6
            signal_tables.take(db, identity, now)

        await self._database.write(work)

    async def decide(self, epoch: int, identity: int, outcome: SignalOutcome, why: str | None = None) -> None:
        """What became of a signal; the first decision stands, so that it may be said again.

        :raises Fenced: a higher epoch was issued.
        """
        now = self._clock.now()

        def work(db: Connection) -> None:
            check_epoch(db, epoch)  # Invariant 6
            signal_tables.decide(db, identity, outcome, why, now)

        await self._database.write(work)
