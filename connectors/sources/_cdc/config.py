"""Fields of the `postgres_cdc` source."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from connectors._pg_types import NumericMode
from connectors._postgres import PostgresFields, TableField
from connectors.sources._cdc.mask import LONGEST_KEY, SHORTEST_KEY, Mask
from penstock.config.base import ComponentConfig, Duration, ProjectPath, RecordProgram, Secret, Size
from penstock.errors import Permanent

Operation = Literal["insert", "update", "delete", "truncate"]
OPERATIONS: tuple[Operation, ...] = ("insert", "update", "delete", "truncate")

_LONGEST_NAME = 63


class SpillFields(ComponentConfig):
    """Where transactions that the server streams before their commit wait for it, in files that only their owner can read."""

    directory: ProjectPath = Field(
        ".penstock/spill",
        description="Each run makes a directory of its own there, removes it at its end, and those of runs that were killed. The "
        "default lies beside the state; one in memory (`/tmp`, often) would defeat the purpose.",
    )
    max: Size = Field(
        10 << 30,
        gt=0,
        description="Bytes of all transactions in progress together, beyond which the run stops. A row takes its values as text, "
        "and 5 bytes for each of them, and 20 for itself.",
    )


class PublicationFields(ComponentConfig):
    """What the server publishes."""

    name: str | None = Field(
        None, min_length=1, max_length=_LONGEST_NAME, description="Default: `penstock_` and the pipeline's name, `_` for `-`."
    )
    create: Literal["auto", "never"] = Field(
        "auto",
        description="`auto`: made where it is missing and there is no slot yet, for `tables` and `schemas`. One that exists is "
        "never changed: what it lacks is an error that names the SQL.",
    )


class SlotFields(ComponentConfig):
    """The replication slot: the server's memory of what was confirmed. No run drops it unless it is told to."""

    name: str | None = Field(
        None,
        pattern=r"^[a-z0-9_]{1,63}$",
        description="Default: `penstock_` and the pipeline's name, `_` for `-`.",
    )
    create: Literal["auto", "never"] = Field(
        "auto",
        description="`auto`: made where there is none and the pipeline has no checkpoint. One that exists without a checkpoint "
        "is read from where it stands.",
    )
    temporary: bool = Field(
        False,
        description="For trials: the slot lives as long as the connection, and each run begins where the server stands. What "
        "is changed between two runs, or while the connection is lost, is not seen.",
    )
    failover: bool = Field(
        False,
        description="The slot is made so that stand-bys keep a copy of it (PostgreSQL 17 and newer, `sync_replication_slots`).",
    )
    drop_on_stop: bool = Field(
        False,
        description="A run that ends by itself or is stopped drops the slot once everything it gave is acknowledged. What is "
        "changed after that is not seen: the next run stops with `slot.missing` until `pipe checkpoint reset`.",
    )

    @model_validator(mode="after")
    def _lives(self) -> Self:
        if self.temporary and (self.failover or self.drop_on_stop or self.create == "never"):
            raise ValueError(
                "a `temporary` slot is made by each run and gone with it: no `failover`, `drop_on_stop`, `create: never`"
            )
        return self


class SlotLagFields(ComponentConfig):
    """How much WAL the slot may hold back, and what happens then."""

    size: Size = Field(gt=0, description="WAL that the slot holds back.", examples=["10GiB"])
    action: Literal["unhealthy", "stop"] = Field(
        "unhealthy",
        description="`unhealthy`: the run says so. `stop`: the run ends with `slot.lag`. One that begins beyond the size may "
        "fall behind by as much again, so that it can catch up.",
    )


class HeartbeatFields(ComponentConfig):
    """A small message written to the WAL, so that the slot of a quiet database moves."""

    interval: Duration = Field(30.0, gt=0, description="Time between two messages.", examples=["30s"])
    message: str = Field(
        "heartbeat",
        min_length=1,
        max_length=1000,
        description="Content of the message, for other readers of the WAL; its prefix is `penstock`.",
    )


class SnapshotFields(ComponentConfig):
    """The rows that are there when a pipeline begins, each an event of its own (`op` is `snapshot`), before or beside changes."""

    mode: Literal["initial", "never", "initial_only", "when_needed"] = Field(
        "initial",
        description="`initial`: all rows once, then changes. `never`: changes alone, and the rows that a signal asks for. "
        "`initial_only`: the run ends behind the rows; its slot stays, for `initial` to go on from (or `slot.drop_on_stop`). "
        "`when_needed`: as `initial`, and again, where the slot was lost, dropped or confirmed by somebody else, or the server "
        "was restored to before the checkpoint; rows that were deleted in the gap are not noticed.",
    )
    batch_rows: int | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Rows of a chunk, which is one batch. Default: `batching.count`, fewer where rows are large.",
    )
    parallel_tables: int = Field(1, ge=1, le=32, description="Tables that are read at a time, each over a connection of its own.")
    select: dict[TableField, str] = Field(
        default_factory=dict,
        description="For a table: SQL condition of the rows that its snapshots hold. Changes are not held to it.",
        examples=[{"public.orders": "created_at > now() - interval '30 days'"}],
    )
    keyless: Literal["fail", "at_least_once", "skip"] = Field(
        "fail",
        description="A table whose rows no key tells apart, or only one with masked columns. `fail`: the run does not begin. "
        "`at_least_once`: it is read in one go, and all over again after a crash or a lost connection. `skip`: its rows are left "
        "out, its changes are not.",
    )


class SignalsFields(ComponentConfig):
    """A table in the source's database by which snapshots are asked for."""

    table: TableField = Field(
        description="With the columns `id` (unique), `kind` (`snapshot`) and `arguments` (`text[]`: tables). It is looked at "
        "once a second, and never written to: ids that were taken are remembered in the checkpoint as long as their rows are "
        "there, and refused ones become dead letters."
    )


class PostgresCdcConfig(PostgresFields):
    """Fields of the `postgres_cdc` source."""

    tables: tuple[TableField, ...] = Field(
        (), description="Tables whose changes are read. Of a publication that has more, the others are left out."
    )
    schemas: tuple[str, ...] = Field((), description="Schemas all of whose tables are read (PostgreSQL 15 and newer).")
    columns: tuple[str, ...] | None = Field(
        None,
        description="Columns of the rows in events, in every table that has them; without, all.",
        examples=[["id", "status"]],
    )
    exclude_columns: tuple[str, ...] = Field((), description="Columns that events leave out, in every table that has them.")
    publication: PublicationFields = Field(
        default_factory=PublicationFields,
        description="The publication, which says what the server sends.",
        examples=[{"name": "shop", "create": "never"}],
    )
    slot: SlotFields = Field(default_factory=SlotFields, description="The replication slot.", examples=[{"name": "shop_orders"}])
    snapshot: SnapshotFields = Field(
        default_factory=SnapshotFields,
        description="The rows that are there when a pipeline begins.",
        examples=[{"mode": "initial", "parallel_tables": 4}],
    )
    signals: SignalsFields | None = Field(
        None,
        description="A table by which snapshots are asked for, beside `pipe signal`.",
        examples=[{"table": "public.penstock_signals"}],
    )
    operations: tuple[Operation, ...] = Field(
        OPERATIONS, min_length=1, description="Which changes become events. A changed key is a `delete` and an `insert`."
    )
    where: RecordProgram | None = Field(
        None,
        description="jq over the record. The change becomes an event unless the program gives `false`, `null` or nothing; "
        "several values make a dead letter.",
        examples=[".before.status != .after.status"],
    )
    include_before: bool = Field(False, description="The data is `{before, after}`; without, the row (of a delete, the old one).")
    transaction_metadata: bool = Field(
        False,
        description="Events tell of their transaction (`.transaction` of the record; extensions `txid`, `txindex`), and behind "
        "each transaction comes an event `transaction.end` with the number of its changes by table.",
    )
    sequence: Literal["asked", "always"] = Field(
        "asked",
        description="Events have the extension `sequence`: text whose order is that of the commits, and of the changes within a "
        "transaction, for `order_by: $event.sequence` in a sink. `asked`: where the pipeline's file has `$event.sequence`, for "
        "it costs about a microsecond an event. `always`: for those who read it elsewhere, or will some day.",
    )
    toast: Literal["placeholder", "reselect", "fail"] = Field(
        "fail",
        description="A large value that an update left as it was is not sent, unless the table has REPLICA IDENTITY FULL. "
        "`fail`: the event becomes a dead letter. `placeholder`: the text `__penstock_unchanged` stands for the value. "
        "`reselect`: the value is read from the table by key as it is now, which may be newer than the change; `.reselected` of "
        "the record and the extension `reselected` name the columns. Where the row is gone, as `fail`.",
    )
    mask: dict[str, Mask] = Field(
        default_factory=dict,
        description="What stands for the values of these columns, in every table that has them, before anything leaves the "
        "source: `hash` (a digest under `mask_key`: equal values, equal digests), `null`, or a pattern. `where` and `event:` see "
        "it too. A column of a key can only be hashed.",
        examples=[{"email": "hash", "notes": None, "card": {"keep_last": 4}}],
    )
    mask_key: Secret | None = Field(
        None,
        description=f"Key of the digests, {SHORTEST_KEY} to {LONGEST_KEY} bytes. Whoever has it can find short values by trying.",
        examples=["${file:/run/secrets/mask}"],
    )
    schema_change: Literal["evolve", "freeze", "quarantine"] = Field(
        "evolve",
        description="When columns of a table that events hold are added, dropped or change their type. `evolve`: events follow. "
        "`freeze`: the run stops before the first row that is different. `quarantine`: changes of the table become dead letters. "
        "A run with `evolve` accepts what the table looks like now.",
    )
    origin: Literal["any", "none"] = Field(
        "any",
        description="`none`: changes that came to the server by replication from another one are left out (PostgreSQL 16 and "
        "newer).",
    )
    truncate: Literal["event", "fail", "ignore"] = Field(
        "event", description="TRUNCATE of a table: an event without rows; the run stops; or nothing."
    )
    heartbeat: HeartbeatFields | None = Field(
        None, description="Off by default: keepalives move the slot of a busy server.", examples=[{"interval": "30s"}]
    )
    status_interval: Duration = Field(
        10.0, gt=0, description="Time between two status messages to the server; well below its `wal_sender_timeout`."
    )
    max_slot_lag: Annotated[Size, Field(gt=0)] | SlotLagFields | None = Field(
        None,
        description="WAL that the slot may hold back: a size alone, beyond which the run calls itself unhealthy, or a block.",
        examples=["10GiB", {"size": "50GiB", "action": "stop"}],
    )
    streaming: Literal["on", "off"] = Field(
        "on",
        description="Transactions beyond the server's `logical_decoding_work_mem` come while they are in progress, and wait in "
        "`spill` for their commit. `off`: the server keeps them on its own disk until then, as versions before 14 always do.",
    )
    spill: SpillFields = Field(
        default_factory=SpillFields,
        description="Where transactions in progress wait for their commit.",
        examples=[{"directory": "/var/lib/penstock/spill", "max": "100GiB"}],
    )
    numeric: NumericMode = Field("string", description="`numeric` values as text with every digit, or as exact numbers.")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.publication.create == "auto" and not (self.tables or self.schemas):
            raise ValueError("name `tables` or `schemas`; or a publication that exists, with `publication: { create: never }`")
        if self.columns is not None and self.exclude_columns:
            raise ValueError("`columns` and `exclude_columns` do not go together")
        return self

    @model_validator(mode="after")
    def _masked(self) -> Self:
        hashed = "hash" in self.mask.values()
        if hashed and self.mask_key is None:
            raise ValueError("`hash` needs `mask_key`: without a key, whoever guesses a value can check it")
        if self.mask_key is not None and not SHORTEST_KEY <= len(self.mask_key.reveal().encode()) <= LONGEST_KEY:
            raise ValueError(f"`mask_key` must have {SHORTEST_KEY} to {LONGEST_KEY} bytes")
        return self

    @property
    def lag_bound(self) -> int | None:
        """Bytes of `max_slot_lag`."""
        bound = self.max_slot_lag
        return bound.size if isinstance(bound, SlotLagFields) else bound

    @property
    def stops_at_lag(self) -> bool:
        """Whether the run ends beyond `max_slot_lag`."""
        return isinstance(self.max_slot_lag, SlotLagFields) and self.max_slot_lag.action == "stop"


def default_name(pipeline: str, given: str | None, field: str) -> str:
    """The name of slot or publication.

    :raises Permanent: `source.name_too_long`, where the pipeline's name leaves no room.
    """
    name = given or f"penstock_{pipeline.replace('-', '_')}"
    if len(name.encode()) > _LONGEST_NAME:
        raise Permanent(
            "source.name_too_long", f"{name} is longer than the {_LONGEST_NAME} bytes of a name", help=f"set `{field}.name`"
        )
    return name
