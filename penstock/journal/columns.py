"""Lines of a whole batch at once, member by member: a column has the texts of one member for each of its events. Joined together,
that costs a third of what one line after the other does. No I/O."""

from __future__ import annotations

import sys
from array import array
from binascii import b2a_hex
from collections.abc import Iterable, Sequence
from itertools import repeat
from zlib import crc32

import msgspec

from penstock.event import Event

Column = bytes | Sequence[bytes]
"""A text for each line, or one for all of them. None has a line end."""

_text = msgspec.json.Encoder().encode


def lines_of(columns: Sequence[Column], count: int) -> list[bytes]:
    """So many lines, each of them its texts of all columns, in order."""
    merged: list[Column] = []
    for column in columns:
        if merged and isinstance(column, bytes) and isinstance(merged[-1], bytes):
            merged[-1] += column
        else:
            merged.append(column)
    texts = [repeat(column, count) if isinstance(column, bytes) else column for column in merged]
    return list(map(b"".join, zip(*texts, strict=True)))


def event_columns(events: Sequence[Event]) -> list[Column] | None:
    """The columns of their CloudEvents, where all are as most are: of one source and type, with JSON data, and without other
    attributes but a time, which all have or none. None where one is not: then each goes through `Envelopes`."""
    if not events:
        return []
    source, kind, timed = events[0].source, events[0].type, events[0].time is not None
    for event in events:
        if (
            event.raw is None
            or event.type != kind
            or event.source != source
            or (event.time is not None) is not timed
            or event.subject is not None
            or event.partitionkey is not None
            or event.datacontenttype is not None
            or event.dataschema is not None
            or event.extensions
        ):
            return None
    data: list[bytes] = [event.raw for event in events]  # type: ignore[misc]  # looked at above
    if b"\n" in b"".join(data):
        return None
    head, ids = b'{"specversion":"1.0","id":"', _strings([event.id for event in events])
    middle = b'","source":%b,"type":%b' % (_text(source), _text(kind))
    if not timed:
        return [head, ids, middle + b',"data":', data, b"}"]
    times = _strings([event.time for event in events if event.time is not None])
    return [head, ids, middle + b',"time":"', times, b'","data":', data, b"}"]


def _strings(values: Sequence[str]) -> list[bytes]:
    """As JSON strings, without the quotes around them."""
    together = _text(values)[2:-2]
    if b'\\"' in together:  # a quote of their own: it could be taken for one that ends a string
        return [_text(value)[1:-1] for value in values]
    return together.split(b'","')


def same_envelopes(events: Sequence[Event], received: Sequence[Event]) -> bool:
    """Whether, one by one, they have the very attributes of the others: as steps leave them that make other data."""
    for event, other in zip(events, received, strict=True):
        if not (
            event.id is other.id
            and event.type is other.type
            and event.time is other.time
            and event.source is other.source
            and event.subject is other.subject
            and event.partitionkey is other.partitionkey
            and event.dataschema is other.dataschema
            and event.datacontenttype is other.datacontenttype
            and event.extensions is other.extensions
        ):
            return False
    return True


def check_column(texts: Iterable[bytes], masks: Iterable[int]) -> list[bytes]:
    """What `check_plain` says of outputs with these texts and sinks, whose attributes are those that they were made of."""
    values = array("I", map(crc32, texts, masks))
    if not values:
        return []
    if sys.byteorder == "little":
        values.byteswap()
    return (b'"%b"' % b2a_hex(values, b",", values.itemsize).replace(b",", b'"\n"')).split(b"\n")
