"""What the world answered to steps with an `idempotency_key`, until the events are committed (rule 14).

An answer is written before its event goes on, and goes with the note (step 3) of the group that holds the event; that of an event
which is parked is set aside, until it is released. What is left of a run that died is read when its events come again; the answer
of an event that never comes again expires.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.state import answer_tables, pipeline_tables
from penstock.state.answer_tables import FoundAnswer, KeptAnswer
from penstock.state.database import Database
from penstock.state.dialect import Connection

KEPT_FOR = 7 * 86400.0
"""Seconds after which nobody waits for an answer any more: its event was not read again."""


class AnswerBook:
    """Of one pipeline. As long as no answer of an earlier run is left, nothing is looked up that this object did not write."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._own: set[str] = set()
        self._others: bool | None = None

    async def keep(self, epoch: int, answers: Sequence[KeptAnswer]) -> None:
        """Durable when it returns, all or none. One that is there already is replaced.

        :raises Fenced: a higher epoch was issued.
        """

        def work(db: Connection) -> None:
            pipeline_tables.check_epoch(db, epoch)  # Invariant 6
            answer_tables.put(db, epoch, answers)

        await self._database.write(work)
        self._own.update(each.name for each in answers)

    async def find(self, epoch: int, names: Sequence[str]) -> dict[str, FoundAnswer]:
        """The answers that are there, by name."""
        if self._others is None:
            self._others = await self._database.look(lambda db: answer_tables.any_before(db, epoch))
        asked = names if self._others else [name for name in names if name in self._own]
        return await self._database.look(lambda db: answer_tables.found(db, asked)) if asked else {}

    def noted(self, gone: Sequence[str], aside: Sequence[str]) -> None:
        """These went with a note, or were set aside with it."""
        self._own.difference_update(gone, aside)
        if aside:
            self._others = True

    async def expire(self, before: float, limit: int = 500) -> int:
        """Remove up to `limit` answers that were given before. How many went; repeat until 0."""
        gone = await self._database.write(lambda db: answer_tables.expire(db, before, limit))
        self._own.difference_update(gone)
        self._others = None
        return len(gone)

    async def count(self) -> int:
        """How many there are."""
        return await self._database.look(answer_tables.count)
