"""Dead letters as people work with them: counted, edited, discarded, taken in from elsewhere. Each change is one transaction, and
stands in the letter's history with who made it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from penstock.clock import Clock
from penstock.state import lane_tables, letter_groups, letter_history, letter_tables, replay_tables
from penstock.state.database import Database
from penstock.state.dialect import Connection
from penstock.state.letter_queries import by_ids, page
from penstock.state.letter_sieve import portions, sifted_page
from penstock.state.records import DeadLetter, Group, Happening, LetterQuery, LetterStats, Status, Timeline

T = TypeVar("T")

_PAGE = 500
_PORTION = 8 << 20
"""Bytes of records that are held at once where bodies are read."""


@dataclass(frozen=True, slots=True)
class Act:
    """Who does something with dead letters, and why.

    :ivar by: such as `user@host`.
    """

    by: str
    reason: str | None = None

    def happening(self, at: float, what: str, more: Mapping[str, str] | None = None) -> Happening:
        """For the history."""
        reason = {} if self.reason is None else {"reason": self.reason}
        return Happening(at, what, self.by, {**reason, **(more or {})})


class LetterDesk:
    """`StateStore.desk`. Needs no hold, whether a run is alive or not."""

    def __init__(self, database: Database, pipeline: str, clock: Clock) -> None:
        self._database = database
        self._pipeline = pipeline
        self._clock = clock

    # ---- looking

    async def page(self, query: LetterQuery, after: str | None, limit: int, bodies: bool) -> tuple[list[DeadLetter], str | None]:
        """See `StateStore.letters`."""
        turn = sifted_page if query.sifts else page
        return await self._database.read(lambda db: turn(db, self._pipeline, query, after, limit, bodies))

    async def whole(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """The same letters with their bodies, in order of first failure; those that have gone since are left out."""
        ids = [letter.id for letter in letters]
        return await self._database.read(lambda db: by_ids(db, self._pipeline, ids, bodies=True))

    async def found(self, ids: Sequence[str]) -> dict[str, DeadLetter]:
        """The letters with these whole ids that there are, by id, whatever their status; without bodies."""
        letters = await self._database.read(lambda db: by_ids(db, self._pipeline, ids, bodies=False))
        return {letter.id: letter for letter in letters}

    async def portion(self, query: LetterQuery, after: str | None) -> tuple[list[list[DeadLetter]], str | None]:
        """One page without bodies, in portions of which `whole` may be asked (Invariant 8), and the next page's cursor."""
        letters, cursor = await self.page(query, after, _PAGE, bodies=False)
        return list(portions(letters, _PORTION)), cursor

    async def groups(self, query: LetterQuery) -> list[Group]:
        """See `StateStore.letter_groups`."""
        if query.sifts:
            return (await self._folded(query)).groups()
        return await self._database.read(lambda db: letter_groups.groups(db, query))

    async def timeline(self, query: LetterQuery, cells: int) -> Timeline | None:
        """When what the query selects failed first, in at most so many cells; None where it selects nothing.

        :raises UsageError: as `StateStore.letters`.
        """
        if query.sifts:
            return (await self._folded(query)).timeline(query, cells)
        return await self._database.read(lambda db: letter_groups.timeline(db, query, cells))

    async def stats(self, query: LetterQuery) -> LetterStats:
        """What the query selects, in figures.

        :raises UsageError: as `StateStore.letters`.
        """
        if query.sifts:
            folded = await self._folded(query)
            return folded.stats(folded.oldest)
        return await self._database.read(lambda db: letter_groups.stats(db, query))

    async def _folded(self, query: LetterQuery) -> letter_groups.Fold:
        folded, cursor = letter_groups.Fold(), None
        while True:
            letters, cursor = await self.page(query, cursor, _PAGE, bodies=False)
            for letter in letters:
                folded.add(letter)
            if cursor is None:
                return folded

    async def history(self, letter: str) -> list[Happening]:
        """What was done with the letter of this id, oldest first."""
        return await self._database.read(lambda db: letter_history.read(db, letter))

    async def takers(self, ids: Collection[str]) -> dict[str, list[str]]:
        """By id of a letter, the ledgers that took its event by replay; none where nobody did."""
        return await self._database.read(lambda db: replay_tables.takers(db, ids))

    # ---- changing

    async def discard(self, ids: Sequence[str], among: Collection[Status], act: Act) -> list[str]:
        """Close letters without delivering their events. The ids of those that changed: others stood in none of `among`."""

        def work(db: Connection, now: float) -> list[str]:
            changed = letter_tables.set_status(db, ids, "discarded", None, among)
            letter_history.add(db, changed, act.happening(now, "discarded"))
            return changed

        return await self._write(work)

    async def edit(self, looked_at: DeadLetter, record: bytes | None, among: Collection[Status], act: Act) -> bool:
        """Keep an edited event, which a replay sends in the place of what came; None: that again.

        :param looked_at: the letter with its bodies, as it was when the edit was made.
        :param record: a structured CloudEvent with the source and the id of the letter's own.
        :return: False: somebody else has edited or settled the letter since; nothing was changed.
        """

        def work(db: Connection, now: float) -> bool:
            found = by_ids(db, self._pipeline, [looked_at.id], bodies=True)
            if not found or found[0].edited != looked_at.edited or found[0].status not in among:
                return False
            letter = found[0]
            letter_history.put_edit(db, letter.id, record)
            after = letter.record if record is None else record
            texts = {"before": letter.effective.decode(), "after": after.decode()}
            letter_history.add(db, [letter.id], act.happening(now, "restored" if record is None else "edited", texts))
            return True

        return await self._write(work)

    async def take_in(self, letters: Sequence[tuple[DeadLetter, Sequence[Happening]]], act: Act) -> list[DeadLetter | None]:
        """Add letters from elsewhere with their history, each as a whole or not at all.

        :return: for each, the letter that has its id already and was left as it is, with its bodies; None where it was added.
        """

        def work(db: Connection, now: float) -> list[DeadLetter | None]:
            there = {each.id: each for each in by_ids(db, self._pipeline, [letter.id for letter, _ in letters], bodies=True)}
            outcomes: list[DeadLetter | None] = []
            for letter, history in letters:
                outcomes.append(there.get(letter.id))
                if letter.id in there:
                    continue
                there[letter.id] = letter
                letter_tables.take_in(db, [replace(letter, pipeline=self._pipeline)])
                for happening in history:
                    letter_history.add(db, [letter.id], happening)
                letter_history.add(db, [letter.id], act.happening(now, "imported"))
            parked = [letter.id for letter, _ in letters if letter.status == "parked"]
            lane_tables.free(db, parked)  # what holds them may be elsewhere
            return outcomes

        return await self._write(work)

    async def _write(self, work: Callable[[Connection, float], T]) -> T:
        now = self._clock.now()
        done: Any = await self._database.write(lambda db: work(db, now))
        result: T = done
        return result
