"""The state store in SQL, of SQLite or of PostgreSQL: all but how it is opened and held.

Collaborators: `ledger_tables` (the ledger of all sinks that hold none), `pipeline_tables` (epochs, note, versions), `job_book`,
`letter_tables`, `replay_tables` and `letter_queries` (dead letters), `signal_box`.
Invariants 2, 6, 7 and 11 are enforced there; here each method is one transaction.
"""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from penstock.clock import Clock
from penstock.faults import Faults
from penstock.ledger import Claim, Claimant, Commit
from penstock.spi import Position
from penstock.state import (
    lane_queries,
    letter_history,
    letter_sieve,
    letter_tables,
    letter_tally,
    pipeline_tables,
    replay_tables,
)
from penstock.state import letter_queries as queries
from penstock.state.answer_book import AnswerBook
from penstock.state.database import Database
from penstock.state.dialect import Connection
from penstock.state.job_book import JobBook
from penstock.state.lane_book import LaneBook
from penstock.state.lane_queries import LanePlace
from penstock.state.ledger_tables import LedgerTables
from penstock.state.letter_desk import LetterDesk
from penstock.state.pipeline_records import Note, RunRecord, Version
from penstock.state.promotions import Promotions
from penstock.state.records import DeadLetter, Group, LetterQuery, OpenLetter, Repeat, Status
from penstock.state.signal_box import SignalBox

T = TypeVar("T")


class SqlStateStore(ABC):
    """`StateStore`, whose methods are described there, over tables; but for `open`, `close`, and who holds the pipeline."""

    def __init__(self, pipeline: str, clock: Clock, faults: Faults, database: Database) -> None:
        self.pipeline = pipeline
        self._clock = clock
        self._faults = faults
        self._database = database
        self._ledger = LedgerTables(f"{pipeline}/state")
        self._no_letters = False
        self._letter_writes = 0
        self._signals = SignalBox(database, clock)
        self._jobs = JobBook(database, clock)
        self._lanes = LaneBook(database, clock)
        self._promotions = Promotions(database, clock)
        self._answers = AnswerBook(database)
        self._desk = LetterDesk(database, pipeline, clock)

    @property
    def signals(self) -> SignalBox:
        return self._signals

    @property
    def desk(self) -> LetterDesk:
        return self._desk

    @property
    def jobs(self) -> JobBook:
        return self._jobs

    @property
    def answers(self) -> AnswerBook:
        return self._answers

    @property
    def lanes(self) -> LaneBook:
        return self._lanes

    @property
    def promotions(self) -> Promotions:
        return self._promotions

    @property
    @abstractmethod
    def _holds(self) -> bool:
        """Whether this object is the pipeline's one run."""

    # ---- the pipeline

    async def issue_epoch(self, version: Version, *, above: int = 0) -> int:
        pid, host, now = os.getpid(), socket.gethostname(), self._clock.now()
        return await self._database.write(lambda db: pipeline_tables.issue_epoch(db, version, above, pid, host, now))

    async def issued(self, since: int) -> Mapping[int, str]:
        return await self._database.run(lambda db: pipeline_tables.issued(db, since))

    async def read_note(self) -> Note:
        return await self._database.read(pipeline_tables.read_note)

    async def note(self, epoch: int, note: Note) -> None:

        def work(db: Connection) -> None:
            pipeline_tables.check_epoch(db, epoch)
            pipeline_tables.write_note(db, epoch, note)

        await self._write_letters(("note", epoch, note), work, any_letters=bool(note.failed_again))
        self._answers.noted(note.answered, note.set_aside)

    async def versions(self) -> list[Version]:
        return await self._database.run(pipeline_tables.versions)

    async def runs(self, limit: int = 10) -> list[RunRecord]:
        return await self._database.run(lambda db: pipeline_tables.runs(db, limit))

    async def reset(self, epoch: int, positions: Mapping[str, Position] | None) -> None:

        def work(db: Connection) -> None:
            pipeline_tables.check_epoch(db, epoch)
            pipeline_tables.reset_note(db, positions)
            self._ledger.reset(db, positions)

        await self._database.write(work)

    # ---- the ledger

    async def claim(self, claimant: Claimant) -> Claim:

        def work(db: Connection) -> Claim:
            claim = self._ledger.claim(db, claimant)
            self._faults.hit("mid_claim")
            return claim

        return await self._database.write(work)

    async def seen(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return await self._database.look(lambda db: self._ledger.seen(db, keys))

    async def commit(self, commit: Commit) -> None:

        def work(db: Connection) -> None:
            self._ledger.commit(db, commit)
            self._faults.hit("inside_commit")

        await self._database.write(work)

    async def committed(self) -> tuple[int, int]:
        return await self._database.write(self._ledger.committed)  # Invariant 7: behind the lock, though it writes nothing

    async def forget_jobs(self, job: str) -> None:
        await self._database.write(lambda db: self._ledger.forget_jobs(db, job))

    # ---- dead letters

    async def put_dead_letters(
        self,
        epoch: int,
        group: int,
        letters: Sequence[DeadLetter],
        repeats: Sequence[Repeat],
        superseded: Sequence[Repeat] = (),
    ) -> None:

        def work(db: Connection) -> None:
            pipeline_tables.check_epoch(db, epoch)
            letter_tables.put(db, group, letters)
            self._faults.hit("mid_dead_letters")
            letter_tables.put_repeats(db, group, "repeat", repeats)
            letter_tables.put_repeats(db, group, "superseded", superseded)
            letter_tables.promote(db, 0)
            letter_tables.count_repeats(db, repeats)

        self._faults.hit("before_dead_letters")
        call = ("put_dead_letters", epoch, group, letters, repeats, superseded)
        await self._write_letters(call, work, any_letters=bool(letters))

    async def commit_group(self, commit: Commit, letters: Sequence[DeadLetter], note: Note) -> None:

        def work(db: Connection) -> None:
            pipeline_tables.check_epoch(db, commit.epoch)
            self._ledger.commit(db, commit)
            if letters:
                letter_tables.put(db, note.group, letters)
                self._faults.hit("mid_dead_letters")
            pipeline_tables.write_note(db, commit.epoch, note)
            letter_tables.count_repeats(db, note.repeats)
            self._faults.hit("inside_commit")

        if letters:
            self._faults.hit("before_dead_letters")
        await self._write_letters(None, work, any_letters=bool(letters or note.failed_again))
        self._answers.noted(note.answered, note.set_aside)

    async def settle(self, epoch: int, claims: Mapping[str, Claim]) -> None:

        def work(db: Connection) -> None:
            pipeline_tables.check_epoch(db, epoch)
            letter_tables.settle(db, claims)
            replay_tables.settle(db, claims)
            letter_history.tell_settled(db, claims, now)

        now = self._clock.now()
        await self._database.write(work)

    async def rewind(self, epoch: int, ledger: str, claim: Claim) -> int:

        def work(db: Connection) -> int:
            pipeline_tables.check_epoch(db, epoch)
            return replay_tables.rewind(db, ledger, claim)

        return await self._database.write(work)

    async def hand_over(self, epoch: int, heirs: Mapping[str, Sequence[str]], ids: Sequence[str] | None = None) -> None:

        def work(db: Connection) -> None:
            pipeline_tables.check_epoch(db, epoch)
            replay_tables.hand_over(db, heirs, ids)

        await self._database.write(work)

    async def _write_once(self, call: object, work: Callable[[Connection], T]) -> T:
        """As `Database.write`, for what would count twice if it were done twice. Where no COMMIT can go unanswered, that is all.

        :param call: the same for a call and its repetitions, and for no other.
        """
        return await self._database.write(work)

    async def _write_letters(self, call: object | None, work: Callable[[Connection], None], *, any_letters: bool) -> None:
        """:param call: as `_write_once` has it; None for a commit, whose outcome `committed` tells."""
        try:
            await (self._database.write(work) if call is None else self._write_once(call, work))
        finally:
            if any_letters:  # behind the write: a look beside it still saw none, and must not be remembered
                self._forget_no_letters()

    def _forget_no_letters(self) -> None:
        self._letter_writes += 1
        self._no_letters = False

    async def has_open_letters(self) -> bool:
        """While this object holds the pipeline nobody else makes letters: "none" is remembered until it writes one itself."""
        if self._no_letters:
            return False
        asked_at = self._letter_writes
        found = await self._database.look(queries.has_open)
        self._no_letters = self._holds and not found and asked_at == self._letter_writes
        return found

    async def open_letters(self, keys: Sequence[bytes]) -> list[OpenLetter]:
        return await self._database.look(lambda db: queries.open_by_key(db, keys)) if keys else []

    async def standing_letters(self, ids: Sequence[str]) -> list[OpenLetter]:
        return await self._database.look(lambda db: queries.open_by_id(db, ids)) if ids else []

    async def letters(
        self, query: LetterQuery, *, after: str | None = None, limit: int = 100, bodies: bool = True
    ) -> tuple[list[DeadLetter], str | None]:
        return await self._desk.page(query, after, limit, bodies)

    async def bounded(self, query: LetterQuery) -> tuple[LetterQuery, int]:
        return await self._database.read(lambda db: (letter_sieve.resolved(db, self.pipeline, query), lane_queries.newest(db)))

    async def lane_places(self, query: LetterQuery, upto: int, after: LanePlace | None, limit: int) -> list[LanePlace]:
        return await self._database.look(lambda db: lane_queries.places(db, query, upto, after, limit))

    async def letters_at(self, places: Sequence[LanePlace], query: LetterQuery) -> list[DeadLetter]:
        return await self._database.look(lambda db: lane_queries.letters_at(db, self.pipeline, places, query))

    async def letter_groups(self, query: LetterQuery) -> list[Group]:
        return await self._desk.groups(query)

    async def letter_counts(self) -> Mapping[Status, int]:
        return await self._database.run(letter_tally.counts)

    async def set_status(
        self,
        epoch: int | None,
        ids: Sequence[str],
        status: Status,
        *,
        job: str | None = None,
        among: Collection[Status] | None = None,
    ) -> list[str]:

        def work(db: Connection) -> list[str]:
            if epoch is not None:
                pipeline_tables.check_epoch(db, epoch)
            return letter_tables.set_status(db, ids, status, job, among)

        try:
            return await self._database.write(work)
        finally:
            self._forget_no_letters()

    async def expire_letters(self, before: float, limit: int = 500) -> int:
        return await self._database.write(lambda db: letter_tables.expire(db, before, limit))
