"""The typed pipeline: what the loader makes of a file, and all that the engine knows of it.

Component configurations are validated with the component's own `Config`; here they are already instances of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from penstock.config.secret import Secret
from penstock.errors import Location

if TYPE_CHECKING:
    from pydantic import BaseModel

Backoff = Literal["exponential", "constant"]
OnError = Literal["dead_letter", "skip", "stop"]
Effects = Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class Component:
    """One component of the file: its registered name (`jq`, `file`), its validated configuration, and where it stands."""

    kind: str
    config: BaseModel
    location: Location


@dataclass(frozen=True, slots=True)
class EventFields:
    """`source.event`: how a record becomes a CloudEvent. Each is jq over the record or a literal; None: its default."""

    id: str | None = None
    source: str | None = None
    type: str | None = None
    time: str | None = None
    subject: str | None = None
    partition_key: str | None = None
    dataschema: str | None = None

    def given(self) -> dict[str, str]:
        """The fields that are set, by the name of the `Event` attribute they fill."""
        names = {"partition_key": "partitionkey"}
        return {names.get(n, n): v for n in self.__slots__ if (v := getattr(self, n)) is not None}


@dataclass(frozen=True, slots=True)
class Retry:
    """`retry:` delays in seconds."""

    max_attempts: int = 8
    backoff: Backoff = "exponential"
    initial_delay: float = 0.2
    max_delay: float = 30.0
    max_elapsed: float = 900.0


@dataclass(frozen=True, slots=True)
class Step:
    """One transform. `name` is unique; unnamed ones are called after their kind and place: `jq-1`.

    :ivar effects: what it does to the world beside its outputs; None: nothing, it only computes.
    :ivar idempotency_key: jq over the data; of steps with effects alone.
    """

    name: str
    component: Component
    named: bool = False
    when: str | None = None
    on_error: OnError = "dead_letter"
    timeout: float | None = None
    retry: Retry | None = None
    set: Mapping[str, str] = field(default_factory=dict)
    effects: Effects | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class SinkEntry:
    """One sink, with the events that it takes."""

    name: str
    component: Component
    when: str | None = None


@dataclass(frozen=True, slots=True)
class Dedup:
    """`dedup:`. `window` in seconds; `key` is jq over the event, None for source + id."""

    window: float
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """`batching:` bytes and seconds."""

    count: int = 500
    bytes: int = 1 << 20
    period: float = 0.0


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """`dead_letter:` retention, and the delays of `retry`, in seconds."""

    retention: float = 30 * 86400.0
    alert_threshold: int | None = None
    lane: Literal["skip", "park", "stop"] = "skip"
    retry: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Journal:
    """`journal:` the pipeline's own directory, retention in seconds, bytes, and what is kept of outputs."""

    directory: Path
    retention: float = 30 * 86400.0
    max_size: int = 10 << 30
    outputs: Literal["off", "digest", "full"] = "digest"


@dataclass(frozen=True, slots=True)
class Limits:
    """`limits:` events, bytes, events per second."""

    in_flight_events: int = 10_000
    in_flight_bytes: int = 64 << 20
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Mock:
    """What stands for a step in a test: an output, or why it fails. `delay` in seconds."""

    output: Any = None
    error: str | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class TestCase:
    """One entry of `tests:`."""

    name: str
    input: Mapping[str, Any]
    output: Sequence[Mapping[str, Any]] | None
    mocks: Mapping[str, Mock]
    location: Location
    dead_letter: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline, resolved.

    :ivar version: content hash of everything that decides what happens to an event, secrets excluded.
    :ivar resolved: that content as it may be stored: secrets masked, references instead of what variables brought.
    :ivar content: the same with what they brought, for this process alone: never stored, never shown.
    :ivar schemas: text of every schema named, by `subject@version`.
    :ivar steps_digest: digest of the source of each Python step, by function (`module:name`).
    :ivar state: directory of the state store, resolved; of what a run spills, where that lies in `state_server`.
    :ivar state_server: the DSN of the state store in PostgreSQL; None: it is in `state`.
    :ivar registry: directory of the schemas, resolved; None: `schemas/` beside the file.
    """

    name: str
    description: str
    file: Path
    project: Path
    source: Component
    event: EventFields
    steps: Sequence[Step]
    sinks: Sequence[SinkEntry]
    version: str
    resolved: str
    schemas: Mapping[str, str]
    steps_digest: Mapping[str, str]
    state: Path
    content: str = field(default="", repr=False)
    state_server: Secret | None = None
    registry: Path | None = None
    dedup: Dedup | None = None
    route: Literal["all", "first"] = "all"
    batching: Batching = Batching()
    retry: Retry = Retry()
    dead_letter: DeadLetters = DeadLetters()
    limits: Limits = Limits()
    journal: Journal | None = None
    workers: int = 0
    transform_timeout: float = 5.0
    worker_memory: int = 512 << 20
    shutdown_timeout: float = 30.0
    promote: Literal["off", "required"] = "off"
    pause_after: int | None = None
    tests: Sequence[TestCase] = ()
    warnings: Sequence[str] = ()

    @property
    def directory(self) -> Path:
        """Where the file lies."""
        return self.file.parent
