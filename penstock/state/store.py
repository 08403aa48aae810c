"""The state store's contract. It is the ledger of every sink that holds none of its own, and keeps what belongs to the pipeline:
epochs, the note of step 3, dead letters, versions, jobs.

Invariants 2, 6, 7 and 11 are enforced behind it. A store belongs to one pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from penstock.spi import Claim, Commit, Ledger, Position
from penstock.state.records import DeadLetter, Group, LetterQuery, Note, OpenLetter, Repeat, RunRecord, Status, Version


class StateStore(Ledger, Protocol):
    """Open it, hold the pipeline (`hold`), issue an epoch, claim, settle; then commit groups. Reading needs no hold.

    A busy or full database raises `Unavailable`; a damaged or newer one `EnvironmentFault` with what to do (Invariant 11).
    """

    async def open(self, *, create: bool = True) -> None:
        """:raises EnvironmentFault: `state.damaged`, `state.newer`, `state.missing` (without `create`)."""
        ...

    async def close(self) -> None: ...

    async def hold(self, *, wait: bool = False, take_over: bool = False) -> None:
        """Become the one run of the pipeline (rule 1).

        :raises EnvironmentFault: `state.held`, naming the holder's process id, unless `wait` or `take_over` is set.
        """
        ...

    async def holder(self) -> int | None:
        """Process id of the live run, or None."""
        ...

    async def issue_epoch(self, version: Version) -> int:
        """A new epoch, higher than any before it, for a run of this version (which is kept)."""
        ...

    async def read_note(self) -> Note: ...

    async def settle(self, epoch: int, claims: Mapping[str, Claim]) -> None:
        """Decide what a run that died left provisional (the paragraph "One commit" of docs/guarantees.md): a dead letter stands
        if a ledger that owes it has passed it, else it is deleted, and its event will be read again; the same for repeats.
        Job records of the claims resolve their dead letters."""
        ...

    async def put_dead_letters(self, epoch: int, group: int, letters: Sequence[DeadLetter], repeats: Sequence[Repeat]) -> None:
        """Step 1: provisional until the group is noted. A letter whose id is open already is merged: what it owes is united,
        attempts are added. Letters without position stand at once.

        :raises Fenced: a higher epoch was issued.
        """
        ...

    async def note(self, epoch: int, note: Note) -> None:
        """Step 3. Provisional letters and repeats up to the group are listed from now on.

        :raises Fenced: a higher epoch was issued.
        """
        ...

    async def commit_group(self, commit: Commit, letters: Sequence[DeadLetter], note: Note) -> None:
        """Steps 1 to 3 in one transaction, where this store is the only ledger.

        :raises Fenced: epoch or group differ.
        """
        ...

    async def has_open_letters(self) -> bool:
        """Whether any unresolved dead letter has a key; without one, no repetition need be looked up."""
        ...

    async def open_letters(self, keys: Sequence[bytes]) -> list[OpenLetter]: ...

    async def letters(
        self, query: LetterQuery, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[DeadLetter], str | None]:
        """One page in order of first failure, and the cursor of the next page. Provisional ones are not listed."""
        ...

    async def letter_groups(self, query: LetterQuery) -> list[Group]:
        """Most frequent first."""
        ...

    async def letter_counts(self) -> Mapping[Status, int]: ...

    async def set_status(self, epoch: int | None, ids: Sequence[str], status: Status, *, job: str | None = None) -> int:
        """How many changed."""
        ...

    async def versions(self) -> list[Version]: ...

    async def runs(self, limit: int = 10) -> list[RunRecord]: ...

    async def reset(self, epoch: int, positions: Mapping[str, Position] | None) -> None:
        """Forget the checkpoint of some partitions, or of all (`pipe checkpoint reset`)."""
        ...
