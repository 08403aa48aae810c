"""The contract of a ledger: who stores epoch, checkpoint and dedup keys, the state store or a sink beside its rows.

`claim` comes first; every `commit` then compares and sets (epoch, group number), so that a run whose epoch is stale can change
nothing. The rules are in docs/guarantees.md; concurrency and classes of errors are those of `penstock.spi`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

from penstock.event import Event
from penstock.spi import Position

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals since the pipeline began (Invariant 3): received = delivered + filtered + deduplicated + dead_lettered."""

    received: int = 0
    delivered: int = 0
    filtered: int = 0
    deduplicated: int = 0
    dead_lettered: int = 0
    derived: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(
            self.received + other.received,
            self.delivered + other.delivered,
            self.filtered + other.filtered,
            self.deduplicated + other.deduplicated,
            self.dead_lettered + other.dead_lettered,
            self.derived + other.derived,
        )


class Key(NamedTuple):
    """A dedup key.

    :ivar key: 16 bytes, a digest of the dedup key, or an order prefix and a digest where keys come in order.
    :ivar brought_by: 8 bytes, a digest of the place of the event that brought it (without positions, of its source and id): an
        event read again is never its own repetition (rule 5).
    """

    key: bytes
    brought_by: bytes


class JobRecord(NamedTuple):
    """A job's delivery of an event, recorded in the ledger that took it (rule 10).

    :ivar event: the job's own name of it: of a replay, the id of its dead letter.
    """

    job: str
    event: str


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims a ledger, and what it expects to find there.

    :ivar epoch: issued by the state store, higher than any before it.
    :ivar scope: `PIPELINE/LEDGER`; one database can hold the ledgers of many pipelines.
    :ivar source: `Source.identity`.
    :ivar key_space: fingerprint of `dedup.key`, or empty without dedup: another one starts a new key space (rule 3).
    :ivar window: the dedup window in seconds of running time (rule 8); 0 without dedup.
    :ivar instance: the ledger's instance id as the state store noted it; None the first time.
    :ivar run_id: random, kept beside the epoch: two state stores (one of them restored from a backup) may issue the same epoch,
        never the same run id.
    :ivar issued: the epochs that the state store has issued since the last that it saw claim every ledger, that one included,
        each with its run id. A ledger with another epoch as high as these was claimed by another state store, or by a later
        state of this one. Empty: not compared.
    :ivar start: where a ledger stands that is new; `counts`: the pipeline's totals there.
    :ivar adopt: take the ledger over although source or instance differ (`pipe checkpoint adopt`).
    """

    epoch: int
    scope: str
    source: str
    key_space: str = ""
    window: float = 0.0
    instance: str | None = None
    run_id: str = ""
    issued: Mapping[int, str] = field(default_factory=dict)
    start: Mapping[str, Position] = field(default_factory=dict)
    counts: Counts = Counts()
    adopt: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """What a ledger held when it was claimed.

    :ivar instance: its random instance id.
    :ivar epoch: the epoch before this claim; 0 for a new ledger; the claimant's own where it claims again.
    :ivar group: number of the last group committed to it; 0 for a new ledger.
    :ivar counts: the pipeline's totals as of that group.
    :ivar sink_states: for each sink by name, what its last committed `flush` returned.
    :ivar jobs: replayed events whose delivery it has recorded and whose dead letters may not be settled yet.
    :ivar keys_high: the greatest dedup key that it may hold; a greater one need not be looked up. Empty: none are held.
    :ivar journal: how far the journal reached with that group; empty where none was kept.
    """

    instance: str
    epoch: int
    group: int
    positions: Mapping[str, Position]
    counts: Counts
    sink_states: Mapping[str, bytes]
    jobs: Sequence[JobRecord] = ()
    keys_high: bytes = b""
    journal: str = ""


@dataclass(slots=True)
class Commit:
    """One group, as one ledger takes it: all of it or nothing.

    :ivar epoch: compared with the ledger's; a mismatch is `Fenced` (Invariant 6).
    :ivar previous: the group number expected to stand there; a mismatch is `Fenced` too.
    :ivar group: the number that takes its place.
    :ivar positions: of the partitions that the group moved, and of those that groups moved which this ledger did not take: rows,
        keys, positions and counts are of one moment, so a backup of the ledger is one too.
    :ivar counts: the pipeline's totals as of this group.
    :ivar keys: of the events delivered or filtered in this ledger, in read order, none twice.
    :ivar settled: keys that stand for events without a position which the counts have and this ledger did not take; some may be
        held already.
    :ivar running: the pipeline's clock, seconds of running time since it began (rule 8).
    :ivar journal: how far the journal reaches, this group's lines included; empty leaves what stands there.
    :ivar jobs: records of the events of a job's group.
    :ivar forgotten: records of earlier groups, which the state store has noted: they go, before `jobs` are added. A ledger that
        keeps them until `forget_jobs` is right, too, but a claim of it reads them all.
    """

    epoch: int
    previous: int
    group: int
    positions: Mapping[str, Position]
    counts: Counts
    keys: Sequence[Key] = ()
    running: float = 0.0
    sink_states: Mapping[str, bytes] = field(default_factory=dict)
    jobs: Sequence[JobRecord] = ()
    settled: Sequence[Key] = ()
    journal: str = ""
    forgotten: Sequence[JobRecord] = ()


class Ledger(Protocol):
    """Stores epoch, checkpoint and dedup keys of one scope. `claim` first, then the others."""

    async def claim(self, claimant: Claimant) -> Claim:
        """Store the claimant's epoch, so that every older run is fenced, and say what is here. Where the answer was lost
        (`Transient`) the same claimant, with its `run_id`, may claim again.

        Nothing is stored where it raises otherwise.

        :raises Fenced: where a higher epoch stands, or one that is not among those `issued`.
        :raises EnvironmentFault: `ledger.mismatch`, where source or instance differ and `adopt` is not set.
        """
        ...

    async def seen(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Which of these 16-byte keys are held, each with its `brought_by`."""
        ...

    async def commit(self, commit: Commit) -> None:
        """Compare and set.

        :raises Fenced: the epoch or the group that stands there is another.
        :raises Fatal: `ledger.conflict`, where a key of the commit is already held.
        """
        ...

    async def committed(self) -> tuple[int, int]:
        """Epoch and group as they stand, read behind the ledger's lock: resolves an unknown outcome (Invariant 7)."""
        ...

    async def forget_jobs(self, job: str) -> None:
        """Remove a job's records, after the state store has noted its end."""
        ...


@runtime_checkable
class LedgerSink(Protocol):
    """A sink that holds its own ledger, in the same transaction as its rows: a `Sink` in everything but how it writes.

    `open` comes first, then the `Ledger` calls, then `write_and_commit` for each group.
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]

    async def open(self, recovered: bytes | None) -> None: ...
    async def close(self) -> None: ...
    async def claim(self, claimant: Claimant) -> Claim: ...
    async def seen(self, keys: Sequence[bytes]) -> dict[bytes, bytes]: ...
    async def commit(self, commit: Commit) -> None: ...
    async def committed(self) -> tuple[int, int]: ...
    async def forget_jobs(self, job: str) -> None: ...

    async def write_and_commit(self, events: Sequence[Event], commit: Commit) -> None:
        """Rows, keys, positions and epoch check in one transaction.

        :raises BatchError: with `nothing_delivered`, naming the events that can never go in, one at least; the engine
            dead-letters these and calls again with the others.
        """
        ...
