"""What events ask for to operations on the table: columns, values. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from connectors.sinks._asked import Asked, Kind, OnConflict
from connectors.sinks._order import Content
from connectors.sinks._postgres.create import is_column
from connectors.sinks._postgres.ordering import Ordering
from connectors.sinks._postgres.rows import Op, Rows
from connectors.sinks._postgres.table import Table, identity_fault, identity_help, identity_text
from connectors.sinks._postgres.values import Unfit
from connectors.sinks._table_refusals import missing_key, no_columns, unknown_columns
from penstock.errors import ComponentError, Permanent

_MOST_SHAPES = 256


class Shaping:
    """Contents to operations on one table.

    :param ordering: of its rows, where they have an order.
    """

    def __init__(self, table: Table, key: Sequence[str], on_conflict: OnConflict, ordering: Ordering | None = None) -> None:
        self._table = table
        self._key = tuple(key)
        self._on_conflict = on_conflict
        self._order = (ordering.column.name, ordering.parse) if ordering else None
        self._columns = {**table.columns, ordering.column.name: ordering.column} if ordering else table.columns
        self._truncations = Rows([ordering.column], (), self._order) if ordering else None
        self._shapes: dict[tuple[str, ...], Rows] = {}

    def shape(self, asked: Sequence[Asked]) -> tuple[list[Op], dict[int, ComponentError]]:
        """The operations, and, by index, why an event asks for none."""
        ops: list[Op] = []
        failed: dict[int, ComponentError] = {}
        shapes = [(kind, None if isinstance(content, ComponentError) else tuple(content)) for kind, content in asked]
        first = 0
        for (kind, names), run in groupby(shapes):
            end = first + len(list(run))
            if kind == "truncate" and names is not None and self._truncations is None:
                ops.extend(Op(place, kind) for place in range(first, end))
            else:
                self._convert(first, kind, names, [content for _, content in asked[first:end]], ops, failed)
            first = end
        return ops, failed

    def _convert(
        self,
        first: int,
        kind: Kind,
        names: tuple[str, ...] | None,
        contents: Sequence[Content],
        ops: list[Op],
        failed: dict[int, ComponentError],
    ) -> None:
        """Events of one shape, from the index `first` on."""
        found = [content for content in contents if not isinstance(content, ComponentError)]
        if names is None or len(found) < len(contents):
            failed.update((first + n, content) for n, content in enumerate(contents) if isinstance(content, ComponentError))
            return
        try:
            rows = self._truncations if kind == "truncate" else self._shapes.get(names)
            rows = rows or self._learn(names)
        except Permanent as error:
            failed.update((first + n, error) for n in range(len(found)))
            return
        try:
            ops.extend(rows.convert_all(first, kind, found))
        except Unfit:
            for place, content in enumerate(found, first):
                try:
                    ops.append(rows.convert(place, kind, tuple(content.values())))
                except Permanent as error:
                    failed[place] = error

    def _learn(self, names: tuple[str, ...]) -> Rows:
        """What converts rows of these columns, once they are known to be the table's (Invariant 12)."""
        unknown = [name for name in names if name not in self._table.columns]
        if unknown or not names:
            raise self._unknown(unknown)
        for name in names:
            if identity_fault(self._table, name, self._key, self._on_conflict):
                raise Permanent("sink.generated_column", identity_text(self._table, name), help=identity_help(self._table, name))
        missing = [name for name in self._key if name not in names]
        if missing:
            raise missing_key(missing)
        if len(self._shapes) > _MOST_SHAPES:  # shapes that vary without end: start over instead of growing with the data
            self._shapes.clear()
        rows = self._shapes[names] = Rows([self._columns[name] for name in names], self._key, self._order)
        return rows

    def _unknown(self, unknown: Sequence[str]) -> Permanent:
        table = self._table
        if not unknown:
            return no_columns()
        generated = [name for name in unknown if name in table.generated]
        if generated:
            return Permanent(
                "sink.generated_column",
                f"table {table.name} computes {generated[0]} itself",
                help="leave it out, or choose the columns: columns: {NAME: JQ}",
            )
        return unknown_columns(unknown, table.name)


def unfit_for_columns(content: Mapping[str, Any], key: Sequence[str]) -> str | None:
    """Why no table can be made of such data; None where one can."""
    if not content:
        return "it is an empty object"
    if not all(map(is_column, content)):
        return (
            "a column is named by letters, digits and underscores, 63 bytes at most, and not as PostgreSQL's own (xmin, ctid, …)"
        )
    missing = [name for name in key if content.get(name) is None]
    return f"it has no {', '.join(missing)}, the table's key" if missing else None
