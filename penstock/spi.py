"""The contracts between the engine and everything that plugs into it: sources, transforms, sinks, programs.

A component is a class with three class attributes: `name` (what stands in YAML), `Config` (its pydantic model, whose field
descriptions are its reference page) and a docstring whose first line is its summary. It is built as `Class(config, context)`
before any connection is opened, so constructors check and compile, and only `open` touches the world.

Concurrency: one asyncio loop. No two calls of one component overlap, but `Source.ack`, `release` and `close` may be called while
`batches()` waits, and `Signalled.signal` goes on beside all of them. A blocking client runs in a thread that its component owns.
Errors are classified at this edge (`Transient`, `Permanent`, `Fatal` of `penstock.errors`), and a component never retries by
itself what the engine retries. The contract of ledgers, a sink's own among them, is `penstock.ledger`; that of sinks that can
say what they lack (`Verifying`) is `penstock.inspection`.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from penstock.clock import Clock
from penstock.errors import ComponentError, PenstockError
from penstock.event import Event
from penstock.faults import Faults
from penstock.inspection import Absence as Absence
from penstock.inspection import Inspection as Inspection
from penstock.inspection import Verifying as Verifying

if TYPE_CHECKING:
    from pydantic import BaseModel


class Position(NamedTuple):
    """Where a partition stands: everything up to and including it has been read.

    :ivar order: bytes that sort in source order within the partition; all that the engine compares.
    :ivar detail: whatever else the source needs to resume here (digests, offsets in a compressed file); opaque.
    """

    order: bytes
    detail: bytes = b""


Token = Any
"""What a source needs to acknowledge a batch; opaque to the engine, which hands back each token until `ack` has returned for it:
once with success, and before that in each `ack` that failed."""


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
    :ivar take_over: this run fences the one before it (`pipe run --take-over`): what that one holds outside of the ledgers may be
        taken from it.
    """

    epoch: int
    positions: Mapping[str, Position]
    once: bool = False
    take_over: bool = False


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


class Notes(Protocol):
    """The log of a component: for what people who operate a pipeline want to know once, such as a table that has new columns.

    Never for single events, and never beside an error that is raised. Each line names pipeline and component. Of one code at most
    ten lines a minute are written; the next one says how many were left out.
    """

    def __call__(
        self,
        code: str,
        message: str,
        /,
        *,
        level: Literal["debug", "info", "warning"] = "info",
        why: str | None = None,
        help: str | None = None,
    ) -> None:
        """Write a line. Answers at once; from the loop's thread.

        :param code: stable and dotted, as an error's; a constant of the component.
        :param message: one line, no secrets (Invariant 9), and no values of events.
        :param help: what to do about it, where there is something.
        """
        ...


def _no_notes(
    code: str,
    message: str,
    /,
    *,
    level: Literal["debug", "info", "warning"] = "info",
    why: str | None = None,
    help: str | None = None,
) -> None:
    """`Notes` where nothing is run: while a file is checked, in `pipe doctor`, in a step's worker process."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a component is given besides its own configuration.

    :ivar pipeline: the pipeline's name.
    :ivar component: the component's own name within the pipeline (a step's, a sink's, or `source`).
    :ivar project: the project's root; relative paths resolve here.
    :ivar directory: where the pipeline file lies.
    :ivar registry: directory of the schemas, where the configuration names one.
    :ivar schema_texts: of the schemas that the pipeline names, by `subject@version`, as its version has them; None while it is
        loaded, and no version is known yet.
    :ivar log: writes to the run's log.
    :ivar asked: attributes of events that programs in the pipeline's file name, as `$event.NAME`: a source may leave out others
        that cost something.
    """

    pipeline: str
    component: str
    project: Path
    directory: Path
    expressions: Expressions
    clock: Clock
    random: random.Random
    faults: Faults
    registry: Path | None = None
    schema_texts: Mapping[str, str] | None = None
    log: Notes = _no_notes
    asked: frozenset[str] = frozenset()

    @property
    def schemas(self) -> Path:
        """Directory of the schemas: `registry`, or `schemas` beside the pipeline file."""
        return self.registry or self.directory / "schemas"


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
        """Batches as they become available; ends when the source is drained. Cancellation is how the engine stops it.

        After a `Transient` it is called again, and goes on behind the last batch that it gave, acknowledged or not. Positions
        rise within a partition from event to event and from batch to batch, or the run stops with `source.positions`.
        """
        ...

    async def ack(self, tokens: Sequence[Token]) -> None:
        """The outcomes are durable (Invariant 1). In read order within a partition; may raise `Transient`."""
        ...

    async def release(self, tokens: Sequence[Token], delay: float) -> None:
        """Hand back what was read and not delivered, to come again after `delay` seconds (queues)."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Identifying(Protocol):
    """A source that has to look before it can say what it reads: a server's own identifier. Asked in place of `identity`."""

    async def identify(self) -> str:
        """As `Source.identity`, awaited before the ledgers are claimed, and so before `open`. Leaves nothing open.

        :raises Transient: the server cannot be asked now.
        :raises EnvironmentFault: it refuses.
        """
        ...


@runtime_checkable
class Rereadable(Protocol):
    """A source that can read one record again, for dead letters that keep only its head."""

    async def reread(self, partition: str, position: bytes) -> Event:
        """The event that begins or ends at `position`, as `batches()` would give it.

        :raises Permanent: `source.gone`, where the record is no longer there.
        """
        ...


@runtime_checkable
class Readmitting(Protocol):
    """A source that refuses events for reasons that may pass, such as a schema change that nobody had accepted yet, and that can
    make such an event whole again from what its dead letter keeps. Asked when that is replayed, without `open`."""

    def readmit(self, event: Event, code: str) -> Event:
        """The event as `batches()` would give it by today's configuration.

        :param event: its envelope as it was refused, without data; in `original`, the bytes that the source put there.
        :param code: of the error with which it was refused.
        :raises Permanent: it is refused still.
        """
        ...


@runtime_checkable
class RangeSource(Protocol):
    """A source whose past can be read again by time: what native backfills and `pipe verify` read. Asked of a source of its own,
    in place of `open` and `batches`; `close` follows. Changes nothing: no slot, no cursor, no lock of a live run's."""

    def read_range(self, span: tuple[datetime, datetime] | None, known: Mapping[str, Position]) -> AsyncIterator[Batch]:
        """Everything there still is whose time may lie in `span`, as `batches()` gives it: with the same ids, in the same
        partitions.

        Of events whose own `time` lies outside of the span, a source may leave out what it can; what has no time, and what no
        event can be made of (`Batch.rejects`), it gives. Whoever asks chooses by the time that `event:` gives.

        `Event.position` is the one that `batches()` gives the event, so that it can be compared with a checkpoint, though it need
        not rise here; it is empty where that cannot be told. `end`, `token` and `cut` of a batch mean nothing.

        :param span: half-open, with time zones; None: everything, whatever its time.
        :param known: the pipeline's checkpoint: what it takes to give what was read the ids that it had.
        :raises EnvironmentFault: `source.no_time`, where a span is given and records have no time.
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
class Restartable(Protocol):
    """A source whose ids count from a partition's beginning, so that a beginning is a matter of its own. Asked before `open`."""

    def restart(self, partition: str, position: Position) -> Position:
        """Where `pipe checkpoint reset` puts a partition that stands at `position`: what is read from there has the ids that it
        had before where it is the same, and else new ones (rule 13).

        :raises EnvironmentFault: the position cannot be read.
        """
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
class Keyed(Protocol):
    """A transform that can hand an idempotency key on to the world, which so recognises what it was asked before (rule 14).
    Called in place of `apply` where the step has an `idempotency_key`."""

    def apply_keyed(self, events: Sequence[Event], keys: Sequence[str], /) -> list[Result] | Awaitable[list[Result]]:
        """As `Transform.apply`.

        :param keys: one for each event, of 1 to 255 characters. An event that is tried again, or read again after a crash, has
            the key that it had.
        """
        ...


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
class Concluding(Protocol):
    """A sink to which it matters that the last run ended by itself."""

    async def conclude(self) -> bytes | None:
        """Called behind the last commit of a run that ends by itself. What it returns is committed in the place of what the last
        `flush` returned; the next run's `open` is given it, and its first `flush` says that the sink is in use again."""
        ...


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


@runtime_checkable
class Overwriting(Protocol):
    """A sink in which one event can take the place of another's, such as the row of a key (rule 11). Sinks that only ever add are
    none.

    :ivar overwrites: an event that is delivered late, by a replay or a live backfill, could take the place of a newer one, or
        remove it: such a delivery is asked for with `--overwrite`. False where the sink knows which is the newer (`order_by`),
        and where it is so configured that what is there stays. Known once the sink is built, and constant.
    :ivar stale: of the events delivered since it was built, those that changed nothing, being older than what is there; rises
        with each commit that stands. None where it compares none.
    """

    @property
    def overwrites(self) -> bool: ...

    @property
    def stale(self) -> int | None: ...


@runtime_checkable
class Measured(Protocol):
    """A source with figures of its own: feeds `/metrics`."""

    def gauges(self) -> Mapping[str, float]:
        """Name → value in base units, as of now, such as `slot_lag_bytes`; what is not known yet is missing.

        Names are constants of the source, of lower-case letters, digits and underscores. Called at any time between `open` and
        `close`, from the loop's thread, and answers at once.
        """
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and how it was found: what `pipe doctor` prints.

    :ivar severity: `error`: the pipeline cannot run, or not as it is declared; `warning`: it can, until something happens that
        the message names; `ok`: looked at, and as it should be.
    :ivar code: of what was looked at, stable and dotted; where a run would stop for it, the code of the run's error.
    :ivar message: one line, no secrets (Invariant 9).
    :ivar help: the exact SQL, command or field that mends it.
    """

    severity: Literal["error", "warning", "ok"]
    code: str
    message: str
    why: str | None = None
    help: str | None = None

    @classmethod
    def of(cls, error: PenstockError) -> Finding:
        """An error that a run would stop for."""
        return cls("error", error.code, error.message, error.why, error.help)


@runtime_checkable
class Examined(Protocol):
    """A source or sink that can find what would keep it from running well: feeds `pipe doctor`. Asked in place of `open`."""

    async def examine(self, checkpoint: Mapping[str, Position]) -> list[Finding]:
        """Everything that was looked at, sound or not. Changes nothing anywhere, and leaves nothing open.

        An error that is raised, such as of a server that is not there, becomes a finding of its own.

        :param checkpoint: positions of the pipeline's checkpoint by partition; empty for a sink, and where there is none.
        """
        ...


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that somebody asked of a pipeline (`pipe signal`).

    :ivar id: rises from signal to signal of a pipeline, and is never used again.
    :ivar kind: one of `Signalled.signals`.
    :ivar arguments: as they were given; the source checks them.
    """

    id: int
    kind: str
    arguments: tuple[str, ...] = ()


@runtime_checkable
class Signalled(Protocol):
    """A source that takes signals while it is read, such as `snapshot TABLE…`. `pause` and `resume` are the engine's own.

    :ivar signals: the kinds that it takes.
    """

    signals: ClassVar[frozenset[str]]

    async def signal(self, signal: Signal) -> None:
        """Returns as soon as what is asked for is durable on the source's side (a position of its own that was acknowledged), so
        that it need not be asked for again; it is then carried out through `batches()`, also by later runs.

        Called between `open` and `close`, one signal at a time, in order of ids. It may take as long as it takes, while
        `batches()` and `ack` go on; while the pipeline is paused, no batch is asked for. A run that ends meanwhile cancels
        it, and the next run calls it again with the same id: of one that was durable already nothing is done twice. Under
        `Resume.once`, `batches()` is called again where it ended and a signal is left: each signal is taken, and what it asks
        for is read, before the run ends.

        :raises Transient: called again after a while, without limit.
        :raises Permanent: the signal is refused with this reason.
        :raises Fatal: the signal is refused with this reason, and the run ends.
        """
        ...


@runtime_checkable
class Healthy(Protocol):
    """A component that can say how it is: feeds `/readyz` and a metric."""

    def health(self) -> str | None:
        """None when all is well, else one line about what is wrong."""
        ...
