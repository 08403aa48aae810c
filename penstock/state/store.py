"""The state store's contract. It is the ledger of every sink that holds none of its own, and keeps what belongs to the pipeline:
epochs, the note of step 3, dead letters, versions, jobs, signals.

Invariants 2, 6, 7 and 11 are enforced behind it. A store belongs to one pipeline.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from penstock.ledger import Claim, Commit, Ledger
from penstock.spi import Position
from penstock.state.answer_book import AnswerBook
from penstock.state.job_book import JobBook
from penstock.state.lane_book import LaneBook
from penstock.state.lane_queries import LanePlace
from penstock.state.letter_desk import LetterDesk
from penstock.state.pipeline_records import Note, RunRecord, Version
from penstock.state.promotions import Promotions
from penstock.state.records import DeadLetter, Group, LetterQuery, OpenLetter, Repeat, Status
from penstock.state.signal_box import SignalBox


class StateStore(Ledger, Protocol):
    """Open it, hold the pipeline (`hold`), issue an epoch, claim, settle; then commit groups. Reading needs no hold.

    A busy or full database raises `Unavailable`; a damaged or newer one `EnvironmentFault` with what to do (Invariant 11).
    """

    @property
    def signals(self) -> SignalBox:
        """What people ask of the pipeline, and whether it is paused."""
        ...

    @property
    def desk(self) -> LetterDesk:
        """What people do with dead letters, beside a run or without one."""
        ...

    @property
    def jobs(self) -> JobBook:
        """Replays, backfills and what else is carried out beside the live work (rule 10)."""
        ...

    @property
    def answers(self) -> AnswerBook:
        """What the world answered to steps with an idempotency key (rule 14)."""
        ...

    @property
    def lanes(self) -> LaneBook:
        """Lanes that a dead letter holds, and what waits for its next retry (rules 10 and 12)."""
        ...

    @property
    def promotions(self) -> Promotions:
        """Versions that somebody has let through."""
        ...

    async def open(self, *, create: bool = True) -> None:
        """:raises EnvironmentFault: `state.damaged`, `state.foreign`, `state.newer`, `state.missing` (without `create`)."""
        ...

    async def close(self) -> None: ...

    async def hold(self, *, wait: bool = False, take_over: bool = False) -> None:
        """Become the one run of the pipeline (rule 1). After `Transient` it may be called again.

        :raises EnvironmentFault: `state.held`, naming the holder (process id; among machines also host, and since when), unless
            `wait` or `take_over` is set.
        """
        ...

    def check_hold(self) -> None:
        """Whether the pipeline is still held, as far as is known without asking: cheap, for a run that has nothing to commit.

        :raises Fenced: another run has taken it over.
        :raises EnvironmentFault: it cannot be held any longer.
        """
        ...

    async def holder(self) -> int | None:
        """Process id of the live run, or None."""
        ...

    async def issue_epoch(self, version: Version, *, above: int = 0) -> int:
        """A new epoch, higher than any before it and than `above` (what a ledger to be adopted holds), for a run of this version
        (which is kept)."""
        ...

    async def issued(self, since: int) -> Mapping[int, str]:
        """The epochs from `since` on, each with its run id: random, so that no other store, and no later state of this one,
        can have issued the same (rule 3). Empty where an older program issued the epoch."""
        ...

    async def read_note(self) -> Note: ...

    async def settle(self, epoch: int, claims: Mapping[str, Claim]) -> None:
        """Decide what a run that died left provisional (the paragraph "One commit" of docs/guarantees.md): a dead letter stands
        if a ledger that owes it has passed it, else it is deleted, and its event will be read again; the same for repeats. What
        stands is owed by the ledgers that have passed it: the others read the event again. Job records of the claims
        (`JobRecord.event` is a dead letter's id) resolve the dead letters that carry that job, ledger by ledger."""
        ...

    async def rewind(self, epoch: int, ledger: str, claim: Claim) -> int:
        """A ledger was restored from a backup, and stands at this claim again. Dead letters that it owes beyond its positions are
        owed by the other ledgers alone, for it reads their events again; with none left they end as `superseded`. Those that it
        took by replay in a later group, and whose events are not read again, are open again and owed by it: how many.

        :raises Fenced: a higher epoch was issued.
        """
        ...

    async def hand_over(self, epoch: int, heirs: Mapping[str, Sequence[str]], ids: Sequence[str] | None = None) -> None:
        """Unresolved dead letters that the ledgers named by `heirs` owe are owed by their heirs instead: all, or those with these
        ids. A ledger may be among its own heirs. Doing it again changes nothing.

        :raises Fenced: a higher epoch was issued.
        """
        ...

    async def put_dead_letters(
        self,
        epoch: int,
        group: int,
        letters: Sequence[DeadLetter],
        repeats: Sequence[Repeat],
        superseded: Sequence[Repeat] = (),
    ) -> None:
        """Step 1: provisional until the group is noted. A letter whose id is open already is merged: what it owes is united,
        attempts are added; one that was settled is open again. Letters without position stand at once. A group may be put again:
        its letters are replaced.

        :param superseded: events that got through with the key of an open letter and other data (rule 7): given here as well as
            to `note`, so that a crash between the two does not lose it.
        :raises Fenced: a higher epoch was issued.
        """
        ...

    async def note(self, epoch: int, note: Note) -> None:
        """Step 3. Provisional letters and repeats up to the group are listed from now on. Its repeats are those that went
        through `put_dead_letters`; they are counted once.

        :raises Fenced: a higher epoch was issued.
        """
        ...

    async def commit_group(self, commit: Commit, letters: Sequence[DeadLetter], note: Note) -> None:
        """Steps 1 to 3 in one transaction, where this store is the only ledger.

        :raises Fenced: epoch or group differ.
        """
        ...

    async def has_open_letters(self) -> bool:
        """Whether any unresolved or discarded dead letter has a key; without one, no repetition need be looked up."""
        ...

    async def open_letters(self, keys: Sequence[bytes]) -> list[OpenLetter]:
        """Unresolved letters with these keys, and discarded ones, for discarding keeps the key (rule 7). Provisional ones too."""
        ...

    async def standing_letters(self, ids: Sequence[str]) -> list[OpenLetter]:
        """Unresolved letters with these ids, in any order; ids that have none are passed over. What a run asks about events that
        it reads again. Provisional ones too."""
        ...

    async def letters(
        self, query: LetterQuery, *, after: str | None = None, limit: int = 100, bodies: bool = True
    ) -> tuple[list[DeadLetter], str | None]:
        """One page in order of first failure, and the cursor of the next page. Provisional ones are not listed. Where the query
        looks into events a page may be shorter than `limit`, or empty, although another one follows.

        :param bodies: without, `record` is empty and `original` None: cheaper where many are listed. `edited` is then empty where
            there is an edited event.
        :raises UsageError: `dlq.unknown`, `dlq.ambiguous`: a prefix of no id or fingerprint, or of several; `dlq.bad_filter`,
            `dlq.filter_failed`.
        """
        ...

    async def bounded(self, query: LetterQuery) -> tuple[LetterQuery, int]:
        """What a job over these letters is made with: the query with whole ids for prefixes, and the bound of what stands now.

        :raises UsageError: as `letters`.
        """
        ...

    async def lane_places(self, query: LetterQuery, upto: int, after: LanePlace | None, limit: int) -> list[LanePlace]:
        """One page of what `bounded` selects, in the order in which the events were read, partition by partition."""
        ...

    async def letters_at(self, places: Sequence[LanePlace], query: LetterQuery) -> list[DeadLetter]:
        """The letters at these places that still have one of the query's statuses, in order, with their bodies."""
        ...

    async def letter_groups(self, query: LetterQuery) -> list[Group]:
        """Most frequent first."""
        ...

    async def letter_counts(self) -> Mapping[Status, int]: ...

    async def set_status(
        self,
        epoch: int | None,
        ids: Sequence[str],
        status: Status,
        *,
        job: str | None = None,
        among: Collection[Status] | None = None,
    ) -> list[str]:
        """Compare and set: of these letters, the ids of those that changed.

        :param among: only letters that stand in one of these; None: in any. A letter is looked at before it is changed, and
            somebody else (a replay, a discard) may have changed it in between.
        """
        ...

    async def expire_letters(self, before: float, limit: int = 500) -> int:
        """Remove up to `limit` letters that are settled (resolved, superseded, discarded) and to which nothing has happened since
        `before`, with their history. What is not settled stays for as long as it takes. How many went; repeat until 0. Small
        steps, so that commits need not wait."""
        ...

    async def versions(self) -> list[Version]: ...

    async def runs(self, limit: int = 10) -> list[RunRecord]: ...

    async def reset(self, epoch: int, positions: Mapping[str, Position] | None) -> None:
        """Move the checkpoint of some partitions, or forget it for all (None): the note's, and this store's as a ledger.

        A position with an empty order is the beginning. A sink that holds its own ledger is reset by a commit of the same
        positions.
        """
        ...
