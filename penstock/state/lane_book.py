"""Held lanes and waiting retries of one pipeline in its state store (`StateStore.lanes`). Each method is one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from penstock.clock import Clock
from penstock.state import due_queries, lane_tables, letter_tables
from penstock.state.database import Database
from penstock.state.dialect import Connection
from penstock.state.lane_queries import LanePlace
from penstock.state.pipeline_tables import check_epoch
from penstock.state.records import Lane, ParkedLane, Retries, Status


class LaneBook:
    """See `lane_tables`. Looking needs no hold; what changes anything is a run's, under its epoch (Invariant 6)."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # ---- looking

    async def heads(self, lanes: Iterable[Lane]) -> Mapping[Lane, bytes]:
        """Of these lanes those that are held, each with the position of its head: behind it nothing may be delivered."""
        by_partition: dict[str, list[str]] = {}
        for partition, lane in lanes:
            by_partition.setdefault(partition, []).append(lane)

        def work(db: Connection) -> dict[Lane, bytes]:
            return {
                Lane(partition, lane): position
                for partition, names in by_partition.items()
                for lane, position in lane_tables.heads(db, partition, names).items()
            }

        return await self._database.look(work) if by_partition else {}

    async def held(self) -> list[Lane]:
        """All that are held."""
        return await self._database.look(lane_tables.held)

    async def versions_held(self) -> list[str]:
        """The pipeline versions under which the letters of held lanes failed."""
        return await self._database.look(lane_tables.versions_held)

    async def parked(self, limit: int) -> tuple[int, list[ParkedLane]]:
        """How many lanes are held, and those with most behind their head."""
        return await self._database.read(lambda db: (lane_tables.count_held(db), lane_tables.parked(db, limit)))

    async def find(self, lane: Lane) -> ParkedLane | None:
        """One lane; None where nothing holds it."""
        return await self._database.look(lambda db: lane_tables.held_lane(db, *lane))

    async def count(self) -> int:
        """How many lanes are held."""
        return await self._database.look(lane_tables.count_held)

    async def retries(self) -> Retries:
        """Open letters that wait for their next retry."""
        return await self._database.look(lane_tables.retries)

    async def due(self) -> list[Literal["open", "parked"]]:
        """Of which status some letters are to be taken up by now: open ones for a retry, parked ones to be released."""
        now = self._clock.now()
        return await self._database.look(lambda db: due_queries.due(db, now))

    async def due_places(self, status: Status, due: float, upto: int, limit: int) -> list[LanePlace]:
        """The next letters to take up, in order.

        :param due: those that are by then; `upto`: none that came later (`StateStore.bounded`).
        """
        return await self._database.look(lambda db: due_queries.due_places(db, status, due, upto, limit))

    # ---- a run

    async def take_up(self, epoch: int, ids: Sequence[str], job: str, among: Iterable[Status]) -> list[str]:
        """Compare and set: a job delivers these letters from now on, but for those that would pass another one in their lane
        (Invariant 5), or that stand in another status by now. The ids of those that it has.

        :raises Fenced: a higher epoch was issued.
        """

        def work(db: Connection) -> list[str]:
            check_epoch(db, epoch)
            kept = set(ids).difference(lane_tables.passing(db, ids))
            return letter_tables.set_status(db, [one for one in ids if one in kept], "replaying", job, list(among))

        return await self._database.write(work)

    async def give_up(self, epoch: int, places: Sequence[LanePlace]) -> None:
        """These were due, and those of them that still stand could not be taken up: nobody tries by itself again.

        :raises Fenced: a higher epoch was issued.
        """

        def work(db: Connection) -> None:
            check_epoch(db, epoch)
            lane_tables.give_up(db, [place.seq for place in places])

        await self._database.write(work)

    async def free(self, epoch: int) -> None:
        """At a claim: parked letters with nothing before them are to be released.

        :raises Fenced: a higher epoch was issued.
        """

        def work(db: Connection) -> None:
            check_epoch(db, epoch)
            lane_tables.free(db)

        await self._database.write(work)

    async def unschedule(self, epoch: int) -> int:
        """At a claim, where the pipeline has no schedule: what waited for a retry waits for people. How many did.

        :raises Fenced: a higher epoch was issued.
        """

        def work(db: Connection) -> int:
            check_epoch(db, epoch)
            return lane_tables.unschedule(db)

        return await self._database.write(work)

    async def unpark(self, epoch: int) -> int:
        """At a claim, where the pipeline does not park: what was parked is open. How many were.

        :raises Fenced: a higher epoch was issued.
        """

        def work(db: Connection) -> int:
            check_epoch(db, epoch)
            return lane_tables.unpark(db)

        return await self._database.write(work)
