"""Fields of the sinks that put rows into a table of a database, and what follows from them before anything is opened."""

from __future__ import annotations

from pydantic import Field, model_validator

from connectors.sinks._asked import OnConflict, Reading
from connectors.sinks._order import OrderOf, check_order_by, is_program, order_column
from penstock.config.base import ComponentConfig, DataField, DataProgram, Duration
from penstock.spi import Context


class TableFields(ComponentConfig):
    """What all of them share. Of `table`, `on_conflict`, `columns` and `create` each says anew what its database adds."""

    table: str = Field(description="Table that takes the rows.")
    key: list[str] | None = Field(
        default=None, min_length=1, description="Columns that identify a row; without them rows are appended.", examples=[["id"]]
    )
    on_conflict: OnConflict = Field(
        default="update", description="What a row does whose key is there already; `error` makes a dead letter of its event."
    )
    columns: dict[str, DataField] | None = Field(default=None, min_length=1, description="jq per column.")
    delete: DataProgram | None = Field(
        default=None,
        description="jq over the data with `$event`: where it holds, the row with the event's key is deleted. Needs `key`.",
        examples=['$event.type | endswith(".delete")'],
    )
    truncate: DataProgram | None = Field(
        default=None,
        description="jq over the data with `$event`: where it holds, the table is emptied.",
        examples=['$event.type | endswith(".truncate")'],
    )
    order_by: DataField | None = Field(
        default=None,
        description="What says which of two events for one key is the newer: a column's name, or jq over the data with `$event`, "
        "whose value is kept in the column `penstock_order`. An older row or deletion changes nothing, whenever it comes; of two "
        "with the same order the later arrival counts. Numbers, times (by their instants) and other texts have an order among "
        "themselves. Needs `key`.",
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
    create: bool = Field(default=False, description="Make the table where it is missing.")

    @model_validator(mode="after")
    def _fit_together(self) -> TableFields:
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

    @property
    def names_of_key(self) -> tuple[str, ...]:
        """The columns of the key; none without one."""
        return tuple(self.key or ())

    @property
    def removes(self) -> bool:
        """Whether events delete rows."""
        return self.delete is not None or self.truncate is not None

    @property
    def overwrites(self) -> bool:
        """See `Overwriting`: of rows that are only appended, or only ignored, none takes another's place."""
        replaces = self.key is not None and self.on_conflict == "update"
        return self.order_by is None and (replaces or self.removes)


def reading(config: TableFields, context: Context) -> Reading:
    """:raises Permanent: `jq.syntax`, `jq.forbidden`."""
    columns = config.columns
    keys = {name: columns[name] for name in config.names_of_key} if columns and config.delete else None
    return _reading(config, context, tuple(columns or ()), columns, keys)


def reading_of_keys(config: TableFields, context: Context) -> Reading:
    """As `reading`, but of a row, too, it gives no more than the key, and what orders it."""
    columns, names = config.columns, config.names_of_key
    if config.order_by is not None and not is_program(config.order_by):
        names = (*names, order_column(config.order_by))
    keys = {name: columns[name] for name in config.names_of_key} if columns else None
    return _reading(config, context, names, {name: columns[name] for name in names} if columns else None, keys)


def _reading(
    config: TableFields,
    context: Context,
    names: tuple[str, ...],
    columns: dict[str, DataField] | None,
    keys: dict[str, DataField] | None,
) -> Reading:
    expressions = context.expressions
    return Reading(
        config.names_of_key,
        names,
        expressions.fields(columns, "data") if columns else None,
        expressions.fields(keys, "data") if keys else None,
        expressions.program(config.delete, "data") if config.delete else None,
        expressions.program(config.truncate, "data") if config.truncate else None,
        OrderOf.compile(config.order_by, config.columns, expressions) if config.order_by else None,
    )
