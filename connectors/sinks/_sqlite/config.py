"""Fields of the sqlite sink, and what follows from them before anything is opened."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from connectors.sinks._asked import Reading
from connectors.sinks._order import OrderOf, check_order_by
from penstock.config.base import ComponentConfig, DataField, DataProgram, Duration, ProjectPath
from penstock.spi import Context

LONGEST_NAME = 63


class SqliteConfig(ComponentConfig):
    """Fields of the sqlite sink."""

    path: ProjectPath = Field(description="Database file, relative to the project.", examples=["out/orders.db"])
    table: str = Field(description="Table that takes the rows.", min_length=1, max_length=LONGEST_NAME, examples=["orders"])
    key: list[str] | None = Field(
        default=None, min_length=1, description="Columns that identify a row; without them rows are appended.", examples=[["id"]]
    )
    on_conflict: Literal["update", "ignore", "error"] = Field(
        default="update", description="What a row does whose key is there already; `error` makes a dead letter of its event."
    )
    columns: dict[str, DataField] | None = Field(
        default=None,
        min_length=1,
        description="jq per column, over the data with `$event`. Without it, each key of the data fills the column of its name, "
        "and a key that an event lacks leaves its column alone. Objects and lists are stored as JSON text, true and false as 1 "
        "and 0, a number in a TEXT column as its JSON text.",
        examples=[{"id": "$event.id", "total": ".total"}],
    )
    delete: DataProgram | None = Field(
        default=None,
        description="jq over the data with `$event`: where it holds, the row with the event's key is deleted. Needs `key`.",
        examples=['$event.type | endswith(".delete")'],
    )
    truncate: DataProgram | None = Field(
        default=None,
        description="jq over the data with `$event`: where it holds, all rows are deleted.",
        examples=['$event.type | endswith(".truncate")'],
    )
    order_by: DataField | None = Field(
        default=None,
        description="What says which of two events for one key is the newer: a column's name, or jq over the data with `$event`, "
        "whose value is kept in the column `penstock_order`. An older row or deletion changes nothing, whenever it comes; of two "
        "with the same order the later arrival counts. Numbers, RFC 3339 times (by their instants) and other texts have an order "
        "among themselves. Needs `key`.",
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
        description="Make database and table where they are missing, with the columns and types of the first event.",
    )

    @field_validator("table")
    @classmethod
    def _not_reserved(cls, table: str) -> str:
        if "\0" in table or table.lower().startswith(("sqlite_", "penstock_")):
            raise ValueError("the name belongs to SQLite or to the ledger: choose another")
        return table

    @model_validator(mode="after")
    def _goes_together(self) -> SqliteConfig:
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
        return self


def reading(config: SqliteConfig, context: Context) -> Reading:
    """:raises Permanent: `jq.syntax`, `jq.forbidden`."""
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
