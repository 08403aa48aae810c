"""What orders the rows of one key, so that an older one never overwrites a newer one: `order_by` of the sinks with a key.

It is a column of the table, by its name, or jq, whose value the sink keeps in the table's column `penstock_order`. How values
compare is the matter of each sink; here is what an event gives. Invariant 13: an event without an order is refused, not placed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from penstock.errors import ComponentError, Permanent
from penstock.event import Event, encode
from penstock.spi import Expressions, FieldsProgram

ORDER_COLUMN = "penstock_order"
"""Where the value of a program is kept."""

_JQ_STARTS = (".", "$", '"', "(", "[", "{", "if ")

LSN = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})", re.ASCII)
"""A position in PostgreSQL's log as it is printed. As text, `0/FFFFFFF` would be greater than `0/10000000`."""

K = TypeVar("K", bound=str)
Content = Mapping[str, Any] | ComponentError
"""An event's values by column name, or why there are none."""


def is_program(order_by: str) -> bool:
    """Whether it is jq; else the name of a column. As `Expressions.fields` decides."""
    return order_by.startswith(_JQ_STARTS)


def order_column(order_by: str) -> str:
    """The column that holds the order."""
    return ORDER_COLUMN if is_program(order_by) else order_by


def check_order_by(order_by: str | None, key: Sequence[str] | None, on_conflict: str, columns: Mapping[str, str] | None) -> None:
    """:raises ValueError: it does not go together with the other fields."""
    if order_by is None:
        return
    if key is None:
        raise ValueError("order_by needs a key: the columns that say which rows are of one thing")
    if on_conflict != "update":
        raise ValueError(f"order_by goes with on_conflict: update; with {on_conflict} the row that is there stays anyway")
    column = order_column(order_by)
    if column in key:
        raise ValueError(f"order_by names {column}, a column of the key: rows of one key all have the same")
    if columns is None:
        return
    if is_program(order_by) and column in columns:
        raise ValueError(f"the sink fills {column} itself: write order_by: {column}, or leave it out of columns")
    if not is_program(order_by) and column not in columns:
        raise ValueError(f"order_by names a column that is not under columns: {column}")


@dataclass(frozen=True, slots=True)
class OrderOf:
    """Gives each event its order.

    :ivar column: that holds it.
    :ivar computed: by `program` for rows, too: without, a row brings it in its column.
    """

    column: str
    program: FieldsProgram
    computed: bool

    @classmethod
    def compile(cls, order_by: str, columns: Mapping[str, str] | None, expressions: Expressions) -> OrderOf:
        """:raises Permanent: `jq.syntax`, `jq.forbidden`."""
        computed = is_program(order_by)
        text = order_by if computed else columns[order_by] if columns else f".[{encode(order_by).decode()}]"
        return cls(order_column(order_by), expressions.fields({"order_by": text}, "data"), computed)

    def add(self, events: Sequence[Event], asked: Sequence[tuple[K, Content]]) -> list[tuple[K, Content]]:
        """The same with the order among the values: of rows, of keys to delete, and of the nothing that a truncation has."""
        if self.computed:
            return [self._with(*each, self._value(found)) for each, found in zip(asked, self.program(events), strict=True)]
        placed = list(asked)
        without = [place for place, (kind, content) in enumerate(asked) if kind != "put" and isinstance(content, Mapping)]
        found = self.program([events[place] for place in without]) if without else []
        for place, result in zip(without, found, strict=True):
            placed[place] = self._with(*asked[place], self._value(result))
        for place, (kind, content) in enumerate(placed):
            if kind == "put" and isinstance(content, Mapping) and content.get(self.column) is None:
                placed[place] = (kind, self._missing())
        return placed

    def _value(self, result: tuple[Any, ...] | ComponentError) -> Any:
        if isinstance(result, ComponentError):
            return result
        (value,) = result
        return self._missing() if value is None else value

    def _with(self, kind: K, content: Content, value: Any) -> tuple[K, Content]:
        if isinstance(content, ComponentError):
            return kind, content
        if isinstance(value, ComponentError):
            return kind, value
        if kind == "put" and self.column in content:
            return kind, Permanent(
                "sink.order",
                f"the data has {self.column} itself, where the sink keeps the order of the row",
                help=f"order by that: order_by: {self.column}; or remove it before: del(.{self.column})",
            )
        return kind, {**content, self.column: value}

    def _missing(self) -> Permanent:
        what = "order_by gave null" if self.computed else f"it has no {self.column}"
        return Permanent(
            "sink.order",
            f"nothing says whether the event is older or newer than another: {what}",
            help="bring it, or order by what every event has: order_by: $event.time",
        )
