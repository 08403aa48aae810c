"""The pipeline file's own fields, as typed models: the one place that validation, defaults, help and the JSON Schema come from.

Components are left open here (`Any`): their own `Config` says what they take.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from penstock.config.base import (
    ComponentConfig,
    DataField,
    DataProgram,
    Duration,
    EventField,
    ProjectPath,
    Rate,
    RecordField,
    Size,
)

Name = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}$")]
StepName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,62}$")]
OnError = Literal["dead_letter", "skip", "stop"]
Effects = Literal["read", "write"]


class EventFile(ComponentConfig):
    """How a record becomes a CloudEvent."""

    id: RecordField | None = Field(None, description="Its id; by default the source's own, stable under reading again.")
    source: RecordField | None = Field(None, description="Its source attribute.")
    type: RecordField | None = Field(None, description="Its type.", examples=["order.line"])
    time: RecordField | None = Field(None, description="When it happened: RFC 3339 with a time zone.", examples=[".created_at"])
    subject: RecordField | None = Field(None, description="What it is about.", examples=[".order_id"])
    partition_key: RecordField | None = Field(None, description="Events with the same key keep their order.")
    dataschema: RecordField | None = Field(None, description="URI of the schema that its data adheres to.")


class RetryFile(ComponentConfig):
    """Attempts in memory: exponential backoff with full jitter."""

    max_attempts: int = Field(8, ge=1, description="Attempts in all, the first one included.")
    backoff: Literal["exponential", "constant"] = Field("exponential", description="How the delay grows.")
    initial_delay: Duration = Field(0.2, description="Upper bound of the first delay.", examples=["200ms"])
    max_delay: Duration = Field(30.0, description="Upper bound of any delay.")
    max_elapsed: Duration = Field(900.0, le=900.0, description="No attempt starts later than this after the first; at most 15m.")


class DedupFile(ComponentConfig):
    """Repetitions inside the window are delivered once."""

    window: Duration = Field(description="How long a key is remembered, in running time.", examples=["24h"])
    key: EventField | None = Field(None, description="What names one change: jq over the event; by default source + id.")


class BatchingFile(ComponentConfig):
    """How much goes together; what is ready goes at once unless `period` says to wait."""

    count: int = Field(500, ge=1, le=100_000, description="Events a batch holds at most.")
    bytes: Size = Field(1 << 20, ge=1, description="Bytes a batch holds at most.", examples=["1MiB"])
    period: Duration = Field(0.0, description="How long to wait for more; 0 does not wait.")


class DeadLetterFile(ComponentConfig):
    """What happens to events that fail for good."""

    retention: Duration = Field(
        30 * 86400.0, description="How long those that are settled (resolved, superseded, discarded) are kept; others stay."
    )
    alert_threshold: int | None = Field(
        None,
        ge=1,
        description="Dead letters that are not settled from which a warning is logged, and `pipe dlq stats --check` fails.",
    )
    lane: Literal["skip", "park", "stop"] = Field(
        "skip",
        description="What follows one: `skip` goes on; `park` holds the events of the same `event.partition_key` back, in order, "
        "until it is delivered or discarded; `stop` ends the run before it.",
    )
    retry: Literal["never"] | list[Annotated[Duration, Field(gt=0)]] = Field(
        "never",
        min_length=1,
        description="Delays after which one is replayed by itself, each counted from its last failure; then it waits for people.",
        examples=[["5s", "5m", "30m"]],
    )


class JournalFile(ComponentConfig):
    """The record of what came in and what became of it: what `pipe explain`, backfills and `pipe verify` read."""

    path: ProjectPath | None = Field(
        None, description="Its directory, in which each pipeline has one; by default `journal` beside the state."
    )
    retention: Duration = Field(30 * 86400.0, gt=0, description="How long events are kept.")
    max_size: Size = Field(10 << 30, ge=1 << 20, description="Bytes after which the oldest go first.", examples=["10GiB"])
    outputs: Literal["off", "digest", "full"] = Field(
        "digest", description="What is kept of the events that were made: nothing, a check value, or all of them."
    )


class LimitsFile(ComponentConfig):
    """Bounds of what is in flight, from reading to commit."""

    in_flight_events: int = Field(10_000, ge=1, description="Events read and not yet committed.")
    in_flight_bytes: Size = Field(64 << 20, ge=1, description="Their bytes.", examples=["64MiB"])
    rate: Rate | None = Field(None, description="Events a second that are read at most.", examples=["5000/s"])


class SourceFields(ComponentConfig):
    """What may stand beside a source's own block."""

    event: EventFile = Field(EventFile(), description="How a record becomes a CloudEvent.")


class StepFields(ComponentConfig):
    """What may stand beside a transform's own block."""

    name: StepName | None = Field(None, description="Shows in metrics and dead letters; other steps see it as $steps.NAME.")
    when: DataProgram | None = Field(None, description="The step concerns only events for which this is neither false nor null.")
    on_error: OnError = Field("dead_letter", description="`skip`: the event goes on without the step; `stop`: the run ends.")
    on_invalid: Literal["dead_letter", "drop", "stop"] | None = Field(None, description="For `validate` alone.")
    timeout: Duration | None = Field(None, description="Of one attempt of an asynchronous step.")
    retry: RetryFile | None = Field(None, description="Attempts of this step, instead of the pipeline's.")
    effects: Effects | None = Field(
        None, description="Beyond its outputs: `write`, it changes the world; `read`, it asks the world and changes nothing."
    )
    idempotency_key: DataProgram | None = Field(
        None,
        description="Names what is asked of the world: jq over the data, one text or number for each event. The answer is kept "
        "until the event is committed, so that a crash does not ask twice.",
        examples=[".payment_id"],
    )
    set: dict[str, DataField] = Field(default_factory=dict, description="Attributes of the events that the step makes.")


class SinkFields(ComponentConfig):
    """What may stand beside a sink's own block."""

    name: Name | None = Field(None, description="Its name; by default its kind.")
    when: DataProgram | None = Field(None, description="It takes only events for which this is neither false nor null.")


class ValidateFile(ComponentConfig):
    """`validate:` at the top of the file."""

    schema_: str = Field(alias="schema", description="subject[@version|@latest] of the registry.")
    on_invalid: Literal["dead_letter", "drop", "stop"] = Field(
        "dead_letter", description="What becomes of an event that does not fit."
    )


class MockFile(ComponentConfig):
    """What stands for a step in a test."""

    output: Any = Field(
        None, description="Data that the step answers with; a list: one event for each item; null or []: the event is filtered."
    )
    error: str | None = Field(
        None, min_length=1, description="It fails instead: `transient` at every attempt, any other text for good, with this text."
    )
    delay: Duration = Field(0.0, description="How long an attempt takes, which passes at once; the step's `timeout` counts it.")

    @model_validator(mode="after")
    def _answers(self) -> MockFile:
        if ("output" in self.model_fields_set) == (self.error is not None):
            raise ValueError("a mock has an `output`, or an `error`")
        return self


class TestFile(ComponentConfig):
    """One case of `tests:`."""

    __test__ = False
    name: str = Field(min_length=1, description="Says what it shows.")
    input: dict[str, Any] = Field(
        description="Attributes and data of the event that goes in; `text` in the place of `data` is a record as it came, which "
        "need not be JSON, and `record` what `event:` sees, where that is more than the data."
    )
    output: list[dict[str, Any]] | None = Field(None, description="The events expected, by what they mention.")
    dead_letter: dict[str, Any] | None = Field(None, description="The failure expected: any of code, step, message.")
    mocks: dict[str, MockFile] = Field(default_factory=dict, description="By step, what stands for it: it is not run.")

    @model_validator(mode="after")
    def _expects_something(self) -> TestFile:
        if self.output is None and self.dead_letter is None:
            raise ValueError("a test says what it expects: `output` (an empty list for a filtered event) or `dead_letter`")
        return self


class Defaults(ComponentConfig):
    """What `penstock.yaml` may set for every pipeline of the project."""

    batching: BatchingFile = Field(BatchingFile(), description="How much goes together.")
    retry: RetryFile = Field(RetryFile(), description="Attempts in memory.")
    dead_letter: DeadLetterFile = Field(DeadLetterFile(), description="What happens to events that fail for good.")
    limits: LimitsFile = Field(LimitsFile(), description="Bounds of what is in flight.")
    workers: int = Field(0, ge=0, le=256, description="Worker processes; 0 processes in the main process.")
    transform_timeout: Duration = Field(
        5.0, gt=0, description="Of all steps for one event; enforced in workers, reported without."
    )
    worker_memory: Size = Field(512 << 20, ge=16 << 20, description="What a worker may allocate.", examples=["512MiB"])
    shutdown_timeout: Duration = Field(30.0, description="How long a run may drain after SIGTERM.")
    journal: JournalFile | Literal["off"] = Field(JournalFile(), description="The record of what came in; `off` keeps none.")
    state: str = Field(
        "sqlite:.penstock/",
        pattern=r"^(sqlite:.+|postgres(ql)?://.+)",
        repr=False,
        description="Where the state stores are: `sqlite:DIRECTORY`, or a PostgreSQL database that several machines share, a "
        "schema `penstock_PIPELINE` for each: `postgresql://USER:PASSWORD@HOST/DATABASE` (its password from `${VARIABLE}`).",
    )
    pause_after: int | None = Field(
        None, ge=1, description="Events failed for good in a row after which the run pauses itself; `pipe resume` goes on."
    )
    promote: Literal["off", "required"] = Field(
        "off", description="`required`: a changed version runs only once `pipe backfill promote` has let it through."
    )
    registry: ProjectPath | None = Field(
        None,
        description="Directory of the schemas, `SUBJECT/VERSION.json`; by default `schemas` beside the pipeline file.",
        examples=["schemas"],
    )


class PipelineFile(Defaults):
    """A pipeline: a source, transforms, one or more sinks, and how events are delivered."""

    pipeline: Name = Field(description="Its name, which is also the namespace of its state.", examples=["orders"])
    description: str = Field("", description="One line about it.")
    source: Any = Field(description="Where events come from.")
    validate_: str | ValidateFile | None = Field(
        None, alias="validate", description="The schema that every event must fit first."
    )
    dedup: DedupFile | None = Field(None, description="Repetitions inside the window are delivered once.")
    transforms: list[Any] = Field(default_factory=list, description="Steps, in order.")
    sink: Any = Field(None, description="Where events go.")
    sinks: list[Any] = Field(default_factory=list, description="Where events go: several, each with `name` and `when`.")
    route: Literal["all", "first"] = Field("all", description="`first`: an event goes to the first sink whose `when` holds.")
    tests: list[TestFile] = Field(default_factory=list, description="Cases that `pipe test` runs.")
