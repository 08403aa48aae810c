"""Fields of the `postgres_cdc` source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from connectors._pg_types import NumericMode
from connectors._postgres import PostgresFields, TableField
from penstock.config.base import ComponentConfig, Duration, RecordProgram, Size
from penstock.errors import Permanent

Operation = Literal["insert", "update", "delete", "truncate"]
OPERATIONS: tuple[Operation, ...] = ("insert", "update", "delete", "truncate")

_LONGEST_NAME = 63


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
    """The replication slot: the server's memory of what was confirmed. It is never dropped by a run."""

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


class HeartbeatFields(ComponentConfig):
    """A small message written to the WAL, so that the slot of a quiet database moves."""

    interval: Duration = Field(30.0, gt=0, description="Time between two messages.", examples=["30s"])


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
    toast: Literal["placeholder", "fail"] = Field(
        "fail",
        description="A large value that an update left as it was is not sent, unless the table has REPLICA IDENTITY FULL. "
        "`fail`: the event becomes a dead letter. `placeholder`: the text `__penstock_unchanged` stands for the value.",
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
    max_slot_lag: Size | None = Field(
        None,
        gt=0,
        description="WAL that the slot holds back and from which on the run calls itself unhealthy.",
        examples=["10GiB"],
    )
    numeric: NumericMode = Field("string", description="`numeric` values as text with every digit, or as exact numbers.")

    @model_validator(mode="after")
    def _together(self) -> PostgresCdcConfig:
        if self.publication.create == "auto" and not (self.tables or self.schemas):
            raise ValueError("name `tables` or `schemas`; or a publication that exists, with `publication: { create: never }`")
        if self.columns is not None and self.exclude_columns:
            raise ValueError("`columns` and `exclude_columns` do not go together")
        return self


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
