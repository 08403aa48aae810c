"""`toast: reselect`: large values that an update left as they were, and that the server therefore did not send, read by key.

What is read is the value as of now: where the column was changed again after the change that is being read, it is the newer
one. The change that brought it follows, so that a table kept up to date by key ends up right; a history of single changes is not
exact, which is why the record and the event name such columns (`reselected`). A value that cannot be read (the row is gone, its
key is unknown, the column is no longer there) stays unsent, and the event becomes a dead letter as with `toast: fail`. Rows of a
snapshot hold every value: nothing of this concerns them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from connectors._pg_values import Converter
from connectors._postgres import ask, quoted, quoted_list
from connectors.sources._pgoutput import Decoder, Plans
from connectors.sources._pgoutput_messages import Message, Relation, Row, Update
from connectors.sources._pgoutput_plain import header
from connectors.sources._pgoutput_rows import decode_row
from penstock.errors import ComponentError, Permanent
from penstock.event import Event
from penstock.postgres import Session

if TYPE_CHECKING:
    import psycopg

_ROWS = 500
"""Of one query; each has a parameter for each column of the key, and a query 65,535 at most."""
_KEY, _OLD = b"KO"

Key = tuple[bytes, ...]
"""Values of the key's columns, as PostgreSQL prints them."""


class UnsentUpdate(Update):
    """An update that lacks values, with the key of its row."""

    row: Key | None = None
    """None where a value of the key was not sent either, or the table has no key."""


class ReselectingDecoder(Decoder):
    """Tells the key of rows that lack values: as text, for a converted or masked value is no longer what the server compares."""

    def decode(self, message: bytes, streamed: bool = False) -> Message:
        found = super().decode(message, streamed)
        if not isinstance(found, Update) or not found.unchanged:
            return found
        fields = {name: getattr(found, name) for name in Update.__struct_fields__}
        return UnsentUpdate(**fields, row=_key_of(message, streamed, found.relation))


class Unsent(msgspec.Struct):
    """An event of the batch that lacks values."""

    index: int
    relation: Relation
    key: Key | None
    names: tuple[str, ...]
    converters: Mapping[str, Converter]
    """By column."""
    fault: Permanent | None
    """What is wrong with it besides."""


class Reselection:
    """Reads what is missing in the events of a batch, with one query a table (and 500 rows)."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def fill(
        self,
        unsent: Sequence[Unsent],
        events: Sequence[Event],
        rejects: dict[int, ComponentError],
    ) -> None:
        """Put the values into the events' rows, and take back what was refused for the lack of them.

        :raises Transient: the server cannot be asked now; nothing was changed.
        :raises EnvironmentFault: `postgres.refused`, where the user may not SELECT.
        """
        found: dict[int, Mapping[str, bytes | None]] = {}
        for group in _grouped(unsent):
            found.update(await ask(self._session, lambda c, group=group: _read(c, group)))  # type: ignore[misc]  # bound early
        for each in unsent:
            if each.index in found:
                _put(events[each.index], each, found[each.index], rejects)


def _key_of(message: bytes, streamed: bool, relation: Relation) -> Key | None:
    texts: Row = {}
    plan = [(column.name, bytes if column.key else None) for column in relation.columns]
    _, at = header(message, streamed)
    at += 4
    if message[at] in (_KEY, _OLD):
        texts, at, _, _ = decode_row(message, at + 1, plan)
    new, _, _, _ = decode_row(message, at + 1, plan)
    texts.update({name: value for name, value in new.items() if isinstance(value, bytes)})
    key = tuple(texts.get(name) for name in relation.key)
    return key if key and all(isinstance(value, bytes) for value in key) else None  # type: ignore[return-value]  # as checked


def _grouped(unsent: Sequence[Unsent]) -> Iterator[list[Unsent]]:
    """Of one look of one table each."""
    groups: dict[tuple[int, int], list[Unsent]] = {}
    for each in unsent:
        if each.key is not None:
            groups.setdefault((each.relation.oid, id(each.relation)), []).append(each)
    for group in groups.values():
        for first in range(0, len(group), _ROWS):
            yield group[first : first + _ROWS]


def _read(connection: psycopg.Connection[Any], group: Sequence[Unsent]) -> dict[int, Mapping[str, bytes | None]]:
    """By index of the event, the values of its row; a row that is not there, or not alone, is missing."""
    relation = group[0].relation
    names = list(dict.fromkeys(name for each in group for name in each.names))
    width = len(relation.key)
    keys = {each.key: None for each in group if each.key is not None}
    places = ", ".join(["(" + ", ".join(["%s"] * width) + ")"] * len(keys))
    sql = (
        f"SELECT {quoted_list([*relation.key, *names])} FROM {quoted(relation.schema, relation.name)} "  # noqa: S608 - quoted
        f"WHERE ({quoted_list(relation.key)}) IN ({places})"
    )
    from psycopg import errors

    try:
        result = connection.execute(sql.encode(), [value.decode() for key in keys for value in key]).pgresult
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName, errors.DataError):
        return {}  # the table is no longer what it was: as if the rows were gone
    types = {column.name: column.type_oid for column in relation.columns}
    if result is None or any(result.ftype(width + n) != types[name] for n, name in enumerate(names)):
        return {}
    rows: dict[Key, Mapping[str, bytes | None] | None] = {}
    for row in range(result.ntuples):
        texts = [result.get_value(row, column) for column in range(width + len(names))]
        key: Any = tuple(texts[:width])
        rows[key] = None if key in rows else dict(zip(names, texts[width:], strict=True))
    return {each.index: values for each in group if (values := rows.get(each.key or ())) is not None}


def _put(
    event: Event,
    unsent: Unsent,
    texts: Mapping[str, bytes | None],
    rejects: dict[int, ComponentError],
) -> None:
    values: dict[str, Any] = {}
    for name in unsent.names:
        text = texts[name]
        try:
            values[name] = None if text is None else unsent.converters[name](text)
        except (KeyError, ValueError, Permanent):
            return
    event.record["after"].update(values)
    event.record["reselected"] = list(values)
    event.extensions = {**(event.extensions or {}), "reselected": ",".join(values)}
    rejects.pop(unsent.index, None)
    if unsent.fault is not None:
        rejects[unsent.index] = unsent.fault


def converters_of(plans: Plans) -> dict[str, Converter]:
    """Of the columns that events hold, by name."""
    return {name: convert for name, convert in plans.whole if convert is not None}
