"""Fields of the postgres sink, and what follows from them before anything is opened."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from connectors._postgres import LONGEST_NAME, PostgresFields, TableField, parse_table
from connectors.sinks._asked import Reading
from connectors.sinks._order import OrderOf, check_order_by, is_program, order_column
from connectors.sinks._postgres.ordering import Order
from penstock.config.base import DataField, DataProgram, Duration
from penstock.spi import Context
from registry.files import FileRegistry


class PostgresSinkConfig(PostgresFields):
    """Fields of the postgres sink."""

    table: TableField = Field(description="Table that takes the rows, as `schema.table`; without a schema in `public`.")
    key: list[str] | None = Field(
        default=None, min_length=1, description="Columns that identify a row; without them rows are appended.", examples=[["id"]]
    )
    on_conflict: Literal["update", "ignore", "error"] = Field(
        default="update",
        description="What a row does whose key is there already; `error` makes a dead letter of its event. "
        "An event for such a row may leave columns out; one for a new row must bring every NOT NULL column without a default.",
    )
    columns: dict[str, DataField] | None = Field(
        default=None,
        min_length=1,
        description="jq per column, over the data with `$event`. Without it, each key of the data fills the column of its name, "
        "and a key that an event lacks leaves its column alone. A column of type `jsonb` takes any value, the whole data too "
        "(`.`); one of text takes what is no text as JSON text.",
        examples=[{"id": "$event.id", "total": ".total", "data": "."}],
    )
    delete: DataProgram | None = Field(
        default=None,
        description="jq over the data with `$event`: where it holds, the row with the event's key is deleted. Needs `key`.",
        examples=['$event.type | endswith(".delete")'],
    )
    truncate: DataProgram | None = Field(
        default=None,
        description="jq over the data with `$event`: where it holds, the table is truncated.",
        examples=['$event.type | endswith(".truncate")'],
    )
    order_by: DataField | None = Field(
        default=None,
        description="What says which of two events for one key is the newer: a column's name, or jq over the data with `$event`, "
        "whose value is kept in the column `penstock_order`. An older row or deletion changes nothing, whenever it comes; of two "
        "with the same order the later arrival counts. Needs `key`.",
        examples=["$event.time", "updated_at"],
    )
    tombstones: Duration | None = Field(
        default=None,
        gt=0,
        description="How long a deletion is remembered, with `order_by`, so that an older row which comes later stays away: "
        "longer than anything may come late (dead letters, the journal, what a backfill reads). Without it, for good: a row of "
        "key and order for each key that was deleted.",
        examples=["90d"],
    )
    create: bool = Field(
        default=False,
        description="Make the table where it is missing: with the columns and types of `schema`, else with the columns of the "
        "first event and types that fit the first batch.",
    )
    row_schema: str | None = Field(
        default=None,
        alias="schema",
        min_length=1,
        description="JSON Schema of the rows, `SUBJECT@VERSION`, which a table that is made takes its columns from.",
        examples=["shop.order_line@1"],
    )
    ledger_schema: str = Field(
        default="penstock",
        min_length=1,
        description="Schema in which the sink keeps checkpoint and dedup keys, in the transaction of the rows. It is made where "
        "it is missing, and may be shared by pipelines that connect as the same user.",
    )

    @field_validator("ledger_schema")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if "\0" in name or len(name.encode()) > LONGEST_NAME or name.lower().startswith("pg_"):
            raise ValueError(f"a schema is named by {LONGEST_NAME} bytes at most, and not pg_…")
        return name

    @model_validator(mode="after")
    def _goes_together(self) -> PostgresSinkConfig:
        missing = [name for name in self.key or () if self.columns is not None and name not in self.columns]
        if missing:
            raise ValueError(f"key names columns that are not under columns: {', '.join(missing)}")
        if self.key is None and "on_conflict" in self.model_fields_set:
            raise ValueError("on_conflict needs a key; without one, rows are appended")
        if self.key is None and self.delete is not None:
            raise ValueError("delete needs a key: the columns that say which row")
        check_order_by(self.order_by, self.key, self.on_conflict, self.columns)
        if self.tombstones is not None and (self.order_by is None or self.delete is None):
            raise ValueError("tombstones goes with order_by and delete")
        if self.row_schema is not None and not self.create:
            raise ValueError("schema goes with create: true")
        schema, table = parse_table(self.table)
        if schema == self.ledger_schema and table.startswith("penstock_"):
            raise ValueError("the name belongs to the ledger: choose another")
        return self


def needed_privileges(config: PostgresSinkConfig) -> list[str]:
    """Privileges on the table."""
    needed = ["INSERT"]
    if config.key and config.on_conflict != "error":
        needed.append("SELECT")
    if config.key and config.on_conflict == "update":
        needed.append("UPDATE")
    if config.delete is not None:
        needed += ["DELETE"] if "SELECT" in needed else ["SELECT", "DELETE"]
    if config.truncate is not None:
        needed += ["TRUNCATE"] if config.order_by is None or "DELETE" in needed else ["DELETE", "TRUNCATE"]
    return needed


def order_of(config: PostgresSinkConfig) -> Order | None:
    """What orders the rows; None where nothing does."""
    if config.order_by is None:
        return None
    deletes = config.delete is not None or config.truncate is not None
    return Order(order_column(config.order_by), is_program(config.order_by), deletes, config.tombstones)


def reading(config: PostgresSinkConfig, context: Context) -> Reading:
    expressions, columns, key = context.expressions, config.columns, tuple(config.key or ())
    return Reading(
        key,
        tuple(columns or ()),
        expressions.fields(columns, "data") if columns else None,
        expressions.fields({name: columns[name] for name in key}, "data") if columns and config.delete else None,
        expressions.program(config.delete, "data") if config.delete else None,
        expressions.program(config.truncate, "data") if config.truncate else None,
        OrderOf.compile(config.order_by, columns, expressions) if config.order_by else None,
    )


def declared_schema(config: PostgresSinkConfig, context: Context) -> Any:
    """The JSON Schema that the configuration names for a table that is made; None without.

    :raises ConfigProblem: there is no such schema.
    """
    if config.row_schema is None:
        return None
    registry = FileRegistry(context.schemas)
    return registry.schema(registry.resolve(config.row_schema))
