"""Rows of pgoutput: one pass over the bytes, with converters that were resolved once for the relation. The hot loop."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from connectors._pg_values import Converter
from connectors.sources._pg_replication import protocol_error
from connectors.sources._pgoutput_messages import UNCHANGED, Row
from penstock.errors import Permanent

Plan = Sequence[tuple[str, Converter | None]]
"""Every column of a relation with its converter; None: the column is not wanted."""
Decoded = tuple[Row, int, tuple[str, ...], Permanent | None]
"""The row, where its bytes end, which of its columns are UNCHANGED, and why a value of it cannot be had as JSON."""

_count = Struct("!H").unpack_from
_length = Struct("!xI").unpack_from  # behind the byte that tells the kind
_TEXT, _NULL, _TOAST, _BINARY = b"tnub"


def decode_row(data: bytes, start: int, plan: Plan) -> Decoded:
    """The TupleData at `start`.

    :raises ProtocolError: it does not match the plan, or ends too early.
    :raises IndexError, struct.error: it ends too early.
    """
    row: Row = {}
    unchanged: tuple[str, ...] = ()
    if _count(data, start)[0] != len(plan):
        raise protocol_error(f"a row has {_count(data, start)[0]} columns, and its relation has {len(plan)}")
    at = start + 2
    try:
        for name, convert in plan:
            kind = data[at]
            if kind == _TEXT:
                (length,) = _length(data, at)
                begin = at + 5
                at = begin + length
                if convert is not None:
                    row[name] = convert(data[begin:at])
            else:
                at += 1
                if convert is None:
                    _refuse_unknown(kind)
                elif kind == _NULL:
                    row[name] = None
                else:
                    _refuse_unknown(kind)
                    row[name] = UNCHANGED
                    unchanged += (name,)
    except (ValueError, Permanent):
        return _decode_faulty(data, start + 2, plan)
    return row, at, unchanged, None


def _refuse_unknown(kind: int) -> None:
    if kind == _BINARY:
        raise protocol_error("a value came in binary format, which was not asked for")
    if kind != _NULL and kind != _TOAST:
        raise protocol_error(f"a value is of the unknown kind {kind}")


def _decode_faulty(data: bytes, at: int, plan: Plan) -> Decoded:
    """A row with a value that its converter refuses, unless the row ends in the middle of a value."""
    row: Row = {}
    unchanged: tuple[str, ...] = ()
    first: Permanent | None = None
    for name, convert in plan:
        kind = data[at]
        if kind != _TEXT:
            at += 1
            _refuse_unknown(kind)
            if convert is not None:
                row[name] = None if kind == _NULL else UNCHANGED
                unchanged += (name,) if kind == _TOAST else ()
            continue
        begin = at + 5
        at = begin + _length(data, at)[0]
        if at > len(data):
            raise protocol_error("a row ends in the middle of a value")
        if convert is not None:
            row[name], fault = try_convert(convert, data[begin:at], name)
            first = first or fault
    return row, at, unchanged, first


def try_convert(convert: Converter, data: bytes, name: str) -> tuple[object, Permanent | None]:
    """The value; or PostgreSQL's text and why (Invariant 13)."""
    try:
        return convert(data), None
    except Permanent as error:
        fault = Permanent(error.code, f"column {name}: {error.message}", why=error.why, help=error.help)
    except UnicodeDecodeError as error:
        fault = Permanent("decode.invalid_utf8", f"column {name}: the text is not UTF-8 (byte {error.start})")
    except ValueError as error:
        fault = Permanent("decode.postgres_value", f"column {name}: the text is no value of the column's type", why=str(error))
    return data.decode(errors="backslashreplace"), fault


def end_of_row(data: bytes, at: int) -> None:
    """:raises ProtocolError: the message does not end here."""
    if at != len(data):
        raise protocol_error("a row does not end where its message does")
