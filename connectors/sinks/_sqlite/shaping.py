"""What events ask for to rows of one table: which columns, which values. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connectors.sinks._asked import Asked
from connectors.sinks._sqlite.config import LONGEST_NAME
from connectors.sinks._sqlite.rows import Rows
from connectors.sinks._sqlite.table import Row, Table
from connectors.sinks._table_refusals import missing_key, no_columns, unknown_columns
from penstock.errors import ComponentError, Permanent

_MOST_SHAPES = 256


class Shaping:
    """Converts what events ask of one table. Remembers what each combination of columns needs."""

    def __init__(self, table: Table, key: Sequence[str]) -> None:
        self._table = table
        self._key = tuple(key)
        self._rows: dict[tuple[str, ...], Rows] = {}

    def shape(self, asked: Sequence[Asked]) -> tuple[list[Row], dict[int, ComponentError]]:
        """A row for each event (of a deletion its key and order, of a truncation its order), and, by index, why one has none."""
        rows: list[Row] = []
        failed: dict[int, ComponentError] = {}
        for index, (kind, content) in enumerate(asked):
            if isinstance(content, ComponentError):
                failed[index] = content
                continue
            try:
                names = tuple(content)
                converter = self._rows.get(names) or self._learn(names)
                values = tuple(content.values())
                if kind != "truncate" and (None in values or not converter.has_key):
                    self._check_key(content)
                rows.append((index, names, converter.convert(values)))
            except Permanent as error:
                failed[index] = error
        return rows, failed

    def _learn(self, names: tuple[str, ...]) -> Rows:
        """What converts rows of these columns, once they are known to be the table's (Invariant 12)."""
        unknown = [name for name in names if name not in self._table.columns]
        if unknown:
            raise unknown_columns(unknown, self._table.name)
        if len(self._rows) > _MOST_SHAPES:  # shapes that vary without end: start over instead of growing with the data
            self._rows.clear()
        has_key = bool(names) and all(name in names for name in self._key)
        rows = self._rows[names] = Rows([self._table.columns[name] for name in names], has_key=has_key)
        return rows

    def _check_key(self, content: Mapping[str, Any]) -> None:
        if not content:
            raise no_columns()
        missing = [name for name in self._key if content.get(name) is None]
        if missing:
            raise missing_key(missing)


def unfit_for_columns(content: Mapping[str, Any], key: Sequence[str], *, declared: bool) -> str | None:
    """Why no table can be made of such data; None where one can.

    :param declared: the configuration names the columns.
    """
    if not content:
        return "it is an empty object"
    if not declared and not all(name.isidentifier() and len(name) <= LONGEST_NAME for name in content):
        return "a column is named by letters, digits and underscores, 63 at most"  # Invariant 12
    if len({name.lower() for name in content}) < len(content):
        return "two of its keys differ only in case"
    missing = [name for name in key if content.get(name) is None]
    return f"it has no {', '.join(missing)}, the table's key" if missing else None
