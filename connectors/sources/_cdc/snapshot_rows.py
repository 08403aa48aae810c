"""Rows of a result to events: the same values as in the stream, by the same converters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from connectors._pg_types import NumericMode, TypeCatalog
from connectors._pg_values import Converter
from connectors.sources._cdc.cut import selected
from connectors.sources._cdc.sequence import Extensions
from connectors.sources._cdc.snapshot_positions import row_order
from connectors.sources._cdc.snapshot_tables import Layout
from connectors.sources._cdc.snapshot_touched import RawKey
from connectors.sources._pg_replication import lsn_text
from connectors.sources._pgoutput_messages import Row
from connectors.sources._pgoutput_rows import try_convert
from penstock.errors import ComponentError, Permanent
from penstock.event import Event, encode
from penstock.spi import Program

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

_LONGEST_KEY = 64
_encode = msgspec.json.Encoder().encode


class Shape(msgspec.Struct, frozen=True):
    """How the rows of a table become events.

    :ivar columns: names, places in the result, converters.
    :ivar key: places of the key's columns in the result, which is not masked (Invariant 9); none where rows are told apart by
        their physical place, which is first.
    :ivar masks: of the columns of a table without a key: what leaves of them.
    :ivar look: type OID and modifier of each column.
    """

    schema: str
    table: str
    source: str
    type: str
    snapshot: str
    columns: tuple[tuple[str, int, Converter], ...]
    key: tuple[int, ...]
    include_before: bool
    where: Program | None
    masks: tuple[Converter, ...] = ()
    look: Mapping[str, tuple[int, int]] = {}


class Taken(msgspec.Struct, frozen=True):
    """When rows were read: LSN and time of events; extensions of all of them, once it is known which stream they stand beside."""

    lsn: int
    time: str
    extensions: Extensions | None = None


def shape(
    layout: Layout,
    snapshot: str,
    source: str,
    types: TypeCatalog,
    numeric: NumericMode,
    mask: Callable[[str, Converter], Converter],
    include_before: bool,
    where: Program | None,
) -> Shape:
    """:param mask: what converts a column's values, by its name and the converter of its type."""
    shift = 0 if layout.key else 1
    columns = tuple(
        (name, place + shift, mask(name, types.converter(oid, numeric=numeric)))
        for place, (name, oid) in enumerate(layout.columns[: layout.emitted])
    )
    return Shape(
        layout.schema,
        layout.name,
        source,
        f"{layout.name}.snapshot",
        snapshot,
        columns,
        layout.key_places,
        include_before,
        where,
        () if layout.key else tuple(mask(name, bytes) for name, _ in layout.columns),
        layout.look,
    )


def keys_of(result: PGresult, shape: Shape) -> list[RawKey]:
    """The key of each row, as PostgreSQL's text."""
    value, places = result.get_value, shape.key
    return [tuple(value(n, place) or b"" for place in places) for n in range(result.ntuples)]


def events_of(
    result: PGresult,
    shape: Shape,
    at: tuple[int, int],
    taken: Taken,
    keys: Sequence[RawKey],
    left_out: Collection[int],
    refused: Permanent | None = None,
) -> tuple[list[Event], dict[int, ComponentError], int]:
    """Events of a chunk, what is wrong with some of them, and how many bytes the rows had.

    :param at: generation and chunk.
    :param keys: as `keys_of` gives them; none where there is no key.
    :param left_out: rows that do not become events.
    :param refused: why none of them may go on.
    """
    events: list[Event] = []
    rejects: dict[int, ComponentError] = {}
    lsn, size = lsn_text(taken.lsn), 0
    for n in range(result.ntuples):
        if n in left_out:
            continue
        row, fault, length = _row(result, n, shape.columns)
        size += length
        if (fault := refused or fault) is not None:
            rejects[len(events)] = fault
        name = key_text(keys[n]) if keys else _place_text(result, n, shape.masks)
        event = _event(shape, name, row, lsn, taken)
        event.position = row_order(*at, n + 1, event.id)
        event.origin = len(events)
        events.append(event)
    events, rejects = selected(shape.where, events, rejects)
    for index in rejects:
        events[index].original = encode(events[index].record)
    return events, rejects, size


def _masked(mask: Converter, value: bytes | None) -> bytes | None:
    if value is None or mask is bytes:
        return value
    seen = mask(value)
    return None if seen is None else str(seen).encode()


def _event(shape: Shape, key: str, row: Row, lsn: str, taken: Taken) -> Event:
    return Event(
        f"{shape.snapshot}-{key}",
        shape.source,
        shape.type,
        taken.time,
        decoded={"before": None, "after": row} if shape.include_before else row,
        extensions=taken.extensions,
        record={
            "op": "snapshot",
            "schema": shape.schema,
            "table": shape.table,
            "before": None,
            "after": row,
            "lsn": lsn,
            "xid": None,
        },
    )


def _row(result: PGresult, n: int, columns: Sequence[tuple[str, int, Converter]]) -> tuple[Row, Permanent | None, int]:
    row: Row = {}
    value, size = result.get_value, 0
    try:
        for name, place, convert in columns:
            data = value(n, place)
            if data is None:
                row[name] = None
            else:
                size += len(data)
                row[name] = convert(data)
    except (ValueError, Permanent):
        return (*_faulty(result, n, columns), size)
    return row, None, size


def _faulty(result: PGresult, n: int, columns: Sequence[tuple[str, int, Converter]]) -> tuple[Row, Permanent | None]:
    """The row with PostgreSQL's text where a value is refused, and the first reason (Invariant 13)."""
    row: Row = {}
    first: Permanent | None = None
    for name, place, convert in columns:
        data = result.get_value(n, place)
        if data is None:
            row[name] = None
        else:
            row[name], fault = try_convert(convert, data, name)
            first = first or fault
    return row, first


def key_text(key: RawKey) -> str:
    """What names a row in its id: the text of its key, a JSON array of several columns; of a long one a digest."""
    text: Any = [part.decode(errors="backslashreplace") for part in key]
    name: str = text[0] if len(text) == 1 else _encode(text).decode()
    if len(name.encode(errors="replace")) <= _LONGEST_KEY:
        return name
    digest = blake2b(digest_size=_LONGEST_KEY // 2)
    for part in key:
        digest.update(len(part).to_bytes(4, "big") + part)
    return f"blake2b:{digest.hexdigest()}"  # longer than any key that stands as it is


def _place_text(result: PGresult, n: int, masks: Sequence[Converter]) -> str:
    """The physical place of a row and a digest of its values, masked (Invariant 9): the same as long as nobody moves or changes
    it."""
    digest = blake2b(digest_size=8)
    for place, mask in enumerate(masks, 1):
        value = _masked(mask, result.get_value(n, place))
        digest.update(b"-" if value is None else b"+" + len(value).to_bytes(4, "big") + value)
    return f"{(result.get_value(n, 0) or b'').decode()}-{digest.hexdigest()}"
