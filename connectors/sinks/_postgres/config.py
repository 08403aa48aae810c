"""Fields of the postgres sink, and what follows from them before anything is opened."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from connectors._postgres import LONGEST_NAME, PostgresFields, TableField, parse_table
from connectors.sinks._asked import OnConflict
from connectors.sinks._order import is_program, order_column
from connectors.sinks._postgres.ordering import Order
from connectors.sinks._table_config import TableFields
from penstock.config.base import DataField
from penstock.spi import Context
from registry.files import FileRegistry


class PostgresSinkConfig(TableFields, PostgresFields):
    """Fields of the postgres sink."""

    table: TableField = Field(description="Table that takes the rows, as `schema.table`; without a schema in `public`.")
    on_conflict: OnConflict = Field(
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
    return Order(order_column(config.order_by), is_program(config.order_by), config.removes, config.tombstones)


def declared_schema(config: PostgresSinkConfig, context: Context) -> Any:
    """The JSON Schema that the configuration names for a table that is made; None without.

    :raises ConfigProblem: there is no such schema.
    """
    if config.row_schema is None:
        return None
    registry = FileRegistry(context.schemas)
    return registry.schema(registry.resolve(config.row_schema))
