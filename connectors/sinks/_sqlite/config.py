"""Fields of the sqlite sink."""

from __future__ import annotations

from pydantic import Field, field_validator

from connectors.sinks._table_config import TableFields
from penstock.config.base import ComponentConfig, DataField, ProjectPath

LONGEST_NAME = 63


class _DatabaseFile(ComponentConfig):
    """Fields that come first."""

    path: ProjectPath = Field(description="Database file, relative to the project.", examples=["out/orders.db"])


class SqliteConfig(TableFields, _DatabaseFile):
    """Fields of the sqlite sink."""

    table: str = Field(description="Table that takes the rows.", min_length=1, max_length=LONGEST_NAME, examples=["orders"])
    columns: dict[str, DataField] | None = Field(
        default=None,
        min_length=1,
        description="jq per column, over the data with `$event`. Without it, each key of the data fills the column of its name, "
        "and a key that an event lacks leaves its column alone. Objects and lists are stored as JSON text, true and false as 1 "
        "and 0, a number in a TEXT column as its JSON text.",
        examples=[{"id": "$event.id", "total": ".total"}],
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
