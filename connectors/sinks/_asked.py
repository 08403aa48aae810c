"""What each event asks of a table, as the configuration's programs read it: a row, the deletion of one, or truncation. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from connectors.sinks._order import Content, OrderOf
from penstock.errors import ComponentError, Permanent
from penstock.event import Event
from penstock.spi import FieldsProgram, Program

Kind = Literal["put", "delete", "truncate"]
OnConflict = Literal["update", "ignore", "error"]

Asked = tuple[Kind, Content]
"""An event as the configuration reads it: a bare tuple, for there is one an event."""

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Reading:
    """The sink's programs.

    :ivar names: of the columns that `columns` fills, or those of the data that count; none: all of the data. `keys` fills those
        of the key alone.
    """

    key: tuple[str, ...]
    names: tuple[str, ...] = ()
    columns: FieldsProgram | None = None
    keys: FieldsProgram | None = None
    delete: Program | None = None
    truncate: Program | None = None
    order: OrderOf | None = None

    def read(self, events: Sequence[Event]) -> list[Asked]:
        """What each event asks for, in order."""
        return self._read(events) if self.order is None else self.order.add(events, self._read(events))

    def _read(self, events: Sequence[Event]) -> list[Asked]:
        if self.delete is None and self.truncate is None:
            return [("put", content) for content in self._contents(events)]
        asked: list[Asked | None] = [None] * len(events)
        _decide(events, self.truncate, "truncate", asked)
        _decide(events, self.delete, "delete", asked)
        puts = [place for place, found in enumerate(asked) if found is None]
        for place, content in zip(puts, self._contents([events[place] for place in puts]), strict=True):
            asked[place] = ("put", content)
        gone = [place for place, found in enumerate(asked) if found is not None and found[0] == "delete" and found[1] is _NONE]
        for place, content in zip(gone, self._keys([events[place] for place in gone]), strict=True):
            asked[place] = ("delete", content)
        return [found for found in asked if found is not None]

    def _contents(self, events: Sequence[Event]) -> list[Content]:
        return _filled(events, self.names, self.columns)

    def _keys(self, events: Sequence[Event]) -> list[Content]:
        return _filled(events, self.key, self.keys)


def _filled(events: Sequence[Event], names: Sequence[str], fields: FieldsProgram | None) -> list[Content]:
    """The values of columns of these names; without a program those of the data, all of them where no names are given."""
    if fields is not None:
        return [_named(names, result) for result in fields(events)] if events else []
    contents = [_object(event) for event in events]
    if not names:
        return contents
    return [
        content if isinstance(content, ComponentError) else {name: content.get(name) for name in names} for content in contents
    ]


def _decide(
    events: Sequence[Event], program: Program | None, kind: Literal["delete", "truncate"], asked: list[Asked | None]
) -> None:
    if program is None:
        return
    open_ones = [place for place, found in enumerate(asked) if found is None]
    for place, outputs in zip(open_ones, program([events[place] for place in open_ones]), strict=True):
        if not isinstance(outputs, list):
            asked[place] = (kind, outputs)
        elif len(outputs) > 1:
            asked[place] = (kind, _several(kind, len(outputs)))
        elif outputs and outputs[0] is not None and outputs[0] is not False:
            asked[place] = (kind, _NONE)


def _several(kind: str, count: int) -> Permanent:
    return Permanent(
        "sink.not_one_value",
        f"{kind} gave {count} values for one event",
        help="say which counts: any(…), all(…) or first(…)",
    )


def _named(names: Sequence[str], result: tuple[Any, ...] | ComponentError) -> Content:
    return result if isinstance(result, ComponentError) else dict(zip(names, result, strict=True))


def _object(event: Event) -> Content:
    try:
        data = event.data
    except Permanent as error:
        return error
    if isinstance(data, dict):
        return data
    return Permanent(
        "sink.not_an_object", "the data is no object, so it has no columns", help="name the columns: columns: {NAME: JQ}"
    )
