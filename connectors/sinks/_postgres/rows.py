"""Events' values to rows of COPY's text format.

Source: PostgreSQL manual, COPY, "Text Format".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any

import msgspec

from connectors.sinks._asked import Kind
from connectors.sinks._postgres.values import Convert, Converters, Unfit, convert, converter_of, quote
from connectors.sinks._table_refusals import missing_key
from penstock.errors import Permanent

Row = Sequence[str | None]
"""PostgreSQL's texts of the values; None is NULL."""

_COLUMN, _LINE, _NULL = "\x1f", "\x1e", "\x1d"
_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))
_MARKS = ((_COLUMN, "\t"), (_LINE, "\n"), (_NULL, "\\N"))
_SPECIAL = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST = 256


@dataclass(frozen=True, slots=True)
class Column:
    """One column that can be written.

    :ivar type: as SQL names it, with length and precision.
    :ivar parameter: the type of a parameter that holds values of many rows, an array.
    :ivar cast: what makes the column's type of an element, where that is not the array's; else empty.
    :ivar oid: of its type.
    :ivar identity: GENERATED ALWAYS AS IDENTITY: takes a value in an INSERT, none in an UPDATE.
    """

    name: str
    type: str
    oid: int
    parameter: str
    cast: str
    converters: Converters
    identity: bool = False


class Op(msgspec.Struct, frozen=True, order=True, gc=False):
    """What an event asks of the table.

    :ivar event: index of the event in its batch.
    :ivar names: the columns of `row`; a deletion's are those of the key, and the order's, where rows have one; a truncation's the
        latter alone, or none.
    :ivar key: the key's texts; empty without one.
    :ivar order: what compares with that of other operations; None where rows have none.
    """

    event: int
    kind: Kind
    names: tuple[str, ...] = ()
    row: Row = ()
    key: tuple[str | None, ...] = ()
    order: Any = None


class Rows:
    """Converts rows of one shape: the same columns in the same order. Remembers what each combination of classes needs.

    :param key: columns that identify a row, all among these.
    :param order: the column that orders rows of one key, with what compares its texts (raises `Unfit`).
    """

    def __init__(
        self, columns: Sequence[Column], key: Sequence[str], order: tuple[str, Callable[[str], Any]] | None = None
    ) -> None:
        self.names = tuple(column.name for column in columns)
        self._columns = tuple(columns)
        self._key = tuple(self.names.index(name) for name in key)
        self._order = None if order is None else (self.names.index(order[0]), order[1])
        self._plans: dict[tuple[type, ...], list[tuple[int, Convert]]] = {}

    def convert_all(self, first: int, kind: Kind, contents: Sequence[Mapping[str, Any]]) -> list[Op]:
        """The operations of consecutive events, column by column: in half the time of `convert`.

        :param first: index of the first event.
        :raises Unfit: one of them does not fit; `convert` says which.
        """
        values = zip(*[each.values() for each in contents], strict=True)
        columns = [self._column(*each) for each in zip(self._columns, values, strict=True)]
        keys: Iterable[tuple[str | None, ...]] = repeat(())
        if self._key:
            parts = [columns[place] for place in self._key]
            if any(None in part for part in parts):
                raise Unfit("a key is missing")
            keys = zip(*parts, strict=True)
        rows = zip(*columns, strict=True)
        if self._order is None:
            return list(map(Op, count(first), repeat(kind), repeat(self.names), rows, keys))
        place, parse = self._order
        orders = [parse(text) for text in columns[place] if text is not None]
        return list(map(Op, count(first), repeat(kind), repeat(self.names), rows, keys, orders))

    @staticmethod
    def _column(column: Column, values: Sequence[Any]) -> Sequence[str | None]:
        classes = set(map(type, values))
        if len(classes) > 1:
            return [None if value is None else convert(column.converters, value) for value in values]
        (kind,) = classes
        function = None if kind is type(None) else converter_of(column.converters, kind)
        return values if function is None else list(map(function, values))

    def convert(self, index: int, kind: Kind, values: Sequence[Any]) -> Op:
        """The event's operation.

        :raises Permanent: `sink.value`, naming the column; `sink.missing_key`; `sink.order`.
        """
        classes = tuple(map(type, values))
        steps = self._plans.get(classes)
        if steps is None:
            steps = self._plan(classes)
        row: list[Any] = list(values)
        place = 0
        try:
            for place, function in steps:
                row[place] = function(row[place])
            order = None
            if self._order is not None:
                place, parse = self._order
                order = parse(row[place])
        except Unfit as error:
            of_order = self._order is not None and place == self._order[0]
            raise refused_value(self.names[place], error, "sink.order" if of_order else "sink.value") from error
        if not self._key:
            return Op(index, kind, self.names, row, order=order)
        key = tuple([row[place] for place in self._key])
        if None in key:
            missing = [self.names[place] for place in self._key if row[place] is None]
            raise missing_key(missing)
        return Op(index, kind, self.names, row, key, order)

    def _plan(self, classes: tuple[type, ...]) -> list[tuple[int, Convert]]:
        if len(self._plans) > _MOST:  # classes that vary in every column: start over instead of growing with the data
            self._plans.clear()
        steps = self._plans[classes] = [
            (place, function)
            for place, (kind, column) in enumerate(zip(classes, self._columns, strict=True))
            if kind is not type(None) and (function := converter_of(column.converters, kind)) is not None
        ]
        return steps


def refused_value(column: str, error: Unfit, code: str = "sink.value") -> Permanent:
    """The event's error."""
    return Permanent(code, f"column {column}: {error.message}", help=error.help)


def block(rows: Sequence[Row]) -> bytes:
    """Rows of the same width as COPY reads them. All are joined first and escaped at once: a tenth of the time that it takes
    value by value.

    :raises Unfit: a text holds what PostgreSQL's cannot; `unwritable` says which.
    """
    nulls = 0
    lines = []
    for row in rows:
        if None in row:
            nulls += row.count(None)
            lines.append(_COLUMN.join([_NULL if value is None else value for value in row]))
        else:
            lines.append(_COLUMN.join(row))  # type: ignore[arg-type]  # None is not in it
    text = _LINE.join(lines)
    counts = ((_COLUMN, len(rows) * (len(rows[0]) - 1)), (_LINE, len(rows) - 1), (_NULL, nulls))
    if all(text.count(mark) == count for mark, count in counts):
        for plain, escaped in (*_ESCAPES, *_MARKS):
            text = text.replace(plain, escaped)
    else:  # the data holds such marks itself
        text = "\n".join(["\t".join([_escaped(value) for value in row]) for row in rows])
    if "\0" in text:
        raise Unfit(_NUL)
    try:
        return (text + "\n").encode()
    except UnicodeEncodeError as error:
        raise Unfit(_HALF) from error


def array_text(values: Sequence[str | None]) -> str:
    """Many rows' texts of one column as an array's text. As in `block`, all are joined first."""
    if None in values:
        return "{" + ",".join(["NULL" if value is None else quote(value) for value in values]) + "}"
    text = '","'.join(values)  # type: ignore[arg-type]  # None is not in it
    if "\\" in text or text.count('"') != 2 * (len(values) - 1):
        return "{" + ",".join([quote(value) for value in values if value is not None]) + "}"
    return '{"' + text + '"}'


def unwritable(op: Op) -> Permanent | None:
    """Which column holds text that PostgreSQL's cannot, if one does."""
    for name, value in zip(op.names, op.row, strict=True):
        if value is not None and ("\0" in value or _SURROGATE.search(value)):
            return refused_value(name, Unfit(_NUL if "\0" in value else _HALF, "remove it before, or make the column bytea"))
    return None


_NUL = "the text holds a NUL character, which PostgreSQL's text cannot"
_HALF = "the text holds half of a surrogate pair, which no UTF-8 text can"


def _escaped(value: str | None) -> str:
    return "\\N" if value is None else value.translate(_SPECIAL)
