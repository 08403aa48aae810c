"""Why events are refused by any sink that puts rows into a table. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from connectors.sinks._asked import Asked, Kind
from penstock.errors import ComponentError, Permanent

_SHOWN = 5
_LONGEST_SHOWN = 63


def no_columns() -> Permanent:
    return Permanent("sink.unknown_column", "the data is an empty object: there is no column to write")


def unknown_columns(unknown: Sequence[str], table: object) -> Permanent:
    """:param table: as it is shown."""
    shown = ", ".join(name[:_LONGEST_SHOWN] for name in unknown[:_SHOWN])
    return Permanent(
        "sink.unknown_column",
        f"table {table} has no column {shown}",
        help="add it to the table, or choose the columns: columns: {NAME: JQ}",
    )


def missing_key(names: Sequence[str]) -> Permanent:
    """:param names: of the key's columns, those without a value."""
    return Permanent("sink.missing_key", f"the event has no {', '.join(names)}, which the table's key needs")


def refused_without_table(
    asked: Sequence[Asked], unfit: Callable[[Mapping[str, Any]], str | None], *, ordered: bool
) -> dict[int, ComponentError]:
    """Where of no event a table could be made, by index why: there is nothing to put rows into, nor to delete from.

    :param unfit: why no table can be made of such data.
    :param ordered: deletions count for what comes later, and there is no table yet that says how keys compare.
    """
    failed: dict[int, ComponentError] = {}
    for index, (kind, content) in enumerate(asked):
        if isinstance(content, ComponentError):
            failed[index] = content
        elif kind == "put":
            failed[index] = Permanent("sink.unknown_column", f"no table can be made of the event: {unfit(content)}")
        elif ordered:  # Invariant 13
            failed[index] = _not_remembered(kind)
    return failed


def _not_remembered(kind: Kind) -> Permanent:
    return Permanent(
        "sink.missing_table",
        f"the {'deletion' if kind == 'delete' else 'truncation'} cannot be remembered: there is no table yet",
        help="make the table; or replay the dead letter once there is one",
    )
