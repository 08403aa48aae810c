"""The contracts between the engine and everything that plugs into it: sources, transforms, sinks, ledgers, programs.

A component is a class with three class attributes: `name` (what stands in YAML), `Config` (its pydantic model, whose field
descriptions are its reference page) and a docstring whose first line is its summary. It is built as `Class(config, context)`
before any connection is opened, so constructors check and compile, and only `open` touches the world.

Concurrency: one asyncio loop. No two calls of one component overlap, but `Source.ack`, `release` and `close` may be called while
`batches()` waits. A blocking client runs in a thread that its component owns. Errors are classified at this edge (`Transient`,
`Permanent`, `Fatal` of `penstock.errors`), and a component never retries by itself what the engine retries.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel

from penstock.clock import Clock
from penstock.errors import ComponentError
from penstock.event import Event
from penstock.faults import Faults


class Position(NamedTuple):
    """Where a partition stands: everything up to and including it has been read.

    :ivar order: bytes that sort in source order within the partition; all that the engine compares.
    :ivar detail: whatever else the source needs to resume here (digests, offsets in a compressed file); opaque.
    """

    order: bytes
    detail: bytes = b""


Token = Any
"""What a source needs to acknowledge a batch; opaque to the engine, which hands back each token exactly once."""


@dataclass(slots=True)
class Batch:
    """Consecutive events of one partition, in source order.

    :ivar events: may be empty, when the batch only moves the position.
    :ivar end: where the partition stands after this batch; None for a source without positions.
    :ivar token: handed back to `ack` after the commit.
    :ivar size: bytes that the batch occupies, about; counts against `limits.in_flight_bytes`.
    :ivar cut: the position after the first n events, for a batch that must be divided; None where only its end is a position.
    :ivar rejects: records that the source could not make an event of, by index into `events` (a stand-in with id, source and
        what could be kept in `original` takes the place), each with its reason. They become dead letters.
    """

    partition: str
    events: list[Event]
    end: Position | None = None
    token: Token = None
    size: int = 0
    rejects: dict[int, ComponentError] = field(default_factory=dict)
    cut: Callable[[int], Position] | None = None

    def divide(self, count: int) -> tuple[Batch, Batch]:
        """The first `count` events and the others.

        The token goes with the second part, so that nothing is acknowledged before all of the batch is durable; without `cut` the
        first part moves no position.
        """
        share = self.size * count // max(1, len(self.events))
        end = self.cut(count) if self.cut is not None else None
        head = Batch(self.partition, self.events[:count], end, None, share)
        tail = Batch(self.partition, self.events[count:], self.end, self.token, self.size - share)
        head.rejects = {i: error for i, error in self.rejects.items() if i < count}
        tail.rejects = {i - count: error for i, error in self.rejects.items() if i >= count}
        if self.cut is not None:
            cut = self.cut
            tail.cut = lambda n: cut(count + n)
        return head, tail


@dataclass(frozen=True, slots=True)
class Resume:
    """What a source starts from.

    :ivar epoch: the run's epoch; part of ids that must differ between runs (rule 13).
    :ivar positions: by partition; a partition that is missing starts at its beginning.
    :ivar once: end `batches()` when all that is there now has been read, instead of following.
    :ivar identity: names the source as the ledgers know it (`Source.identity`).
    """

    epoch: int
    positions: Mapping[str, Position]
    once: bool = False


class Expressions(Protocol):
    """The jq seam: program text in, a callable over a batch out. What stands behind it is nobody's business.

    Views: `record` (what `event:` and `where` see: `Event.record`, or the data), `event` (`.data`, `.type`, …: what `dedup.key`
    and filters see) and `data` (the data, with `$event` and `$steps`: what transforms, `when` and `columns` see).
    """

    def program(self, text: str, view: View) -> Program:
        """Compile one program.

        :raises Permanent: code `jq.syntax` or `jq.forbidden`, with the place inside the program in `why`.
        """
        ...

    def fields(self, fields: Mapping[str, str], view: View) -> FieldsProgram:
        """Compile several expressions that each give one value; plain paths and literals are resolved without jq, the others
        are fused into one program. In each, a string that begins with `.`, `$`, `"`, `(`, `[`, `{` or `if ` is jq; any other
        is a literal.

        :raises Permanent: as for `program`; `where` names the field.
        """
        ...


View = Literal["record", "event", "data"]


class Program(Protocol):
    """A compiled program. For each event: the list of its outputs (none, one, several), or why it failed (`Permanent`)."""

    def __call__(self, events: Sequence[Event], /) -> list[list[Any] | ComponentError]: ...


class FieldsProgram(Protocol):
    """Compiled fields. For each event: a tuple of values in the order of the mapping, or why it failed."""

    def __call__(self, events: Sequence[Event], /) -> list[tuple[Any, ...] | ComponentError]: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a component is given besides its own configuration.

    :ivar pipeline: the pipeline's name.
    :ivar component: the component's own name within the pipeline (a step's, a sink's, or `source`).
    :ivar project: the project's root; relative paths resolve here.
    :ivar directory: where the pipeline file lies; `schemas/` is beside it.
    """

    pipeline: str
    component: str
    project: Path
    directory: Path
    expressions: Expressions
    clock: Clock
    random: random.Random
    faults: Faults


@runtime_checkable
class Source(Protocol):
    """Reads events. `open`, then one task iterates `batches()`, then `close`.

    Keep-alives (visibility, standby status, heartbeats) are the source's own task, started in `open`, ended in `close`.
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]

    @property
    def identity(self) -> str:
        """Names what is read, so that a ledger notices when another source is put in its place (rule 3): no secrets,
        the same from run to run (`file:data/*.jsonl`, a database's system identifier)."""
        ...

    @property
    def has_positions(self) -> bool:
        """Whether batches carry `end` and events `position`; without, repetitions are recognised by key."""
        ...

    async def open(self, resume: Resume) -> None: ...

    def batches(self) -> AsyncIterator[Batch]:
        """Batches as they become available; ends when the source is drained. Cancellation is how the engine stops it."""
        ...

    async def ack(self, tokens: Sequence[Token]) -> None:
        """The outcomes are durable (Invariant 1). In read order within a partition; may raise `Transient`."""
        ...

    async def release(self, tokens: Sequence[Token], delay: float) -> None:
        """Hand back what was read and not delivered, to come again after `delay` seconds (queues)."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Rereadable(Protocol):
    """A source that can read one record again, for dead letters that keep only its head."""

    async def reread(self, partition: str, position: bytes) -> Event:
        """The event that begins or ends at `position`, as `batches()` would give it.

        :raises Permanent: `source.gone`, where the record is no longer there.
        """
        ...


@runtime_checkable
class Batched(Protocol):
    """A source that cuts batches itself: the engine sets the pipeline's `batching` on it before `open`.

    :ivar batch_count: events a batch holds at most.
    :ivar batch_bytes: bytes a batch holds at most; one record that is larger is a batch of its own.
    """

    batch_count: int
    batch_bytes: int


@runtime_checkable
class Progress(Protocol):
    """A source that knows how far it is: feeds progress bars with an estimated end."""

    def progress(self) -> tuple[int, int] | None:
        """Bytes read and bytes there are, of the source's stored form (compressed, where it is); None where unknown."""
        ...


@runtime_checkable
class Legible(Protocol):
    """A source whose positions mean something to people. Asked of the class: nothing is built or opened for it."""

    @staticmethod
    def position_text(order: bytes) -> str:
        """`Position.order` in words, such as `generation 0, byte 1,234`.

        :raises ValueError: these bytes are no position of this source.
        """
        ...


Result = Event | list[Event] | ComponentError | None
"""What a transform makes of one event: one event, several, nothing (filtered), or why it failed."""


class Transform(Protocol):
    """Makes of each event its results, in the same order: `len(apply(events)) == len(events)`.

    The events belong to the transform: it may hand the same object on. New events come from `event.replace(...)`, which keeps
    `origin`. With several outputs the engine suffixes the ids `-0`, `-1`, …. A failure of one event is returned as its
    `ComponentError`, so that its neighbours go on; raising stops the run.
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]

    def apply(self, events: Sequence[Event], /) -> list[Result] | Awaitable[list[Result]]: ...


@runtime_checkable
class Sink(Protocol):
    """Delivers events. `open`, any number of `write` and `flush`, `close`.

    A sink that is no ledger is covered by the state store's: what `flush` returns is stored there in the commit that counts
    the events as delivered, and handed back to `open` after a crash.
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]

    async def open(self, recovered: bytes | None) -> None:
        """Connect. `recovered` is what the last committed `flush` returned: undo whatever came after it."""
        ...

    async def write(self, events: Sequence[Event]) -> None:
        """Deliver all, or raise `BatchError` with a cause for each event that failed, or a `ComponentError` for all."""
        ...

    async def flush(self) -> bytes | None:
        """Make everything written so far durable. Called before each commit."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Revertible(Protocol):
    """A sink that can take back what was written and not committed.

    Order of calls: `open`, `flush` (its state is committed before the first write, where the ledger holds none), then any number
    of `write`…, `flush`, commit. After a `write` or `flush` that raised anything but `BatchError` comes `rollback`, and then
    everything since the last committed `flush` is written again.
    """

    async def rollback(self, recovered: bytes | None = None) -> None:
        """Take back everything since the `flush` that returned `recovered`; None: since the last `flush` that succeeded.

        :raises Unavailable: not possible for now; call again.
        """
        ...


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
    """A replayed event's delivery, recorded in the ledger that took it (rule 10)."""

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
    :ivar adopt: take the ledger over although source or instance differ (`pipe checkpoint adopt`).
    """

    epoch: int
    scope: str
    source: str
    key_space: str = ""
    window: float = 0.0
    instance: str | None = None
    adopt: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """What a ledger held when it was claimed.

    :ivar instance: its random instance id.
    :ivar epoch: the epoch before this claim; 0 for a new ledger.
    :ivar group: number of the last group committed to it; 0 for a new ledger.
    :ivar counts: the pipeline's totals as of that group.
    :ivar sink_states: for each sink by name, what its last committed `flush` returned.
    :ivar jobs: replayed events whose delivery it has recorded and whose dead letters may not be settled yet.
    :ivar keys_high: the greatest dedup key that it may hold; a greater one need not be looked up. Empty: none are held.
    """

    instance: str
    epoch: int
    group: int
    positions: Mapping[str, Position]
    counts: Counts
    sink_states: Mapping[str, bytes]
    jobs: Sequence[JobRecord] = ()
    keys_high: bytes = b""


@dataclass(slots=True)
class Commit:
    """One group, as one ledger takes it: all of it or nothing.

    :ivar epoch: compared with the ledger's; a mismatch is `Fenced` (Invariant 6).
    :ivar previous: the group number expected to stand there; a mismatch is `Fenced` too.
    :ivar group: the number that takes its place.
    :ivar positions: of the partitions that the group moved.
    :ivar counts: the pipeline's totals as of this group.
    :ivar keys: of the events delivered or filtered in this ledger, in read order, none twice.
    :ivar running: the pipeline's clock, seconds of running time since it began (rule 8).
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


class Ledger(Protocol):
    """Stores epoch, checkpoint and dedup keys of one scope. `claim` first, then the others."""

    async def claim(self, claimant: Claimant) -> Claim:
        """Store the claimant's epoch, so that every older run is fenced, and say what is here.

        :raises Fenced: where a higher epoch stands.
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

        :raises BatchError: with `nothing_delivered`, naming the events that can never go in; the engine dead-letters these and
            calls again with the others.
        """
        ...


@runtime_checkable
class Healthy(Protocol):
    """A component that can say how it is: feeds `/readyz` and a metric."""

    def health(self) -> str | None:
        """None when all is well, else one line about what is wrong."""
        ...


BuildComponent = Callable[[BaseModel, Context], Any]
