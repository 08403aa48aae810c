"""Any message comes back as it was encoded; nothing but the protocol error comes of what is broken."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from pgoutput_parts import VERSIONS, catalog, encode_change, encode_relation, golden, text

from connectors import _pg_values as values
from connectors._pg_types import TypeCatalog
from connectors.sources._pg_replication import ProtocolError, lsn_text, parse_lsn
from connectors.sources._pgoutput import Decoder
from connectors.sources._pgoutput_messages import (
    UNCHANGED,
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Origin,
    RelationMessage,
    StreamAbort,
    StreamCommit,
    StreamStart,
    Truncate,
    TypeMessage,
    Update,
)

names = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=20)
texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=300)
u4 = st.integers(0, 2**32 - 1)
xids = st.integers(1, 2**32 - 1)
u8 = st.integers(0, 2**64 - 1)
times = st.integers(-(2**63), 2**63 - 1)
cells = st.one_of(st.none(), texts, st.just(UNCHANGED))
TEXT = 25


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[bool], str]:
    columns = draw(st.lists(names, min_size=1, max_size=8, unique=True))
    keys = draw(st.lists(st.booleans(), min_size=len(columns), max_size=len(columns)))
    return columns, keys, draw(st.sampled_from("dnfi"))


def encoded(row: Sequence[Any]) -> list[Any]:
    return [cell.encode() if isinstance(cell, str) else cell for cell in row]


@settings(deadline=None)
@given(tables(), st.data(), st.one_of(st.just(0), xids), st.sets(st.integers(0, 7)))
def test_rows_come_back_as_they_were_encoded(table: Any, data: st.DataObject, xid: int, skipped: set[int]) -> None:
    columns, keys, identity = table
    wanted = [name for n, name in enumerate(columns) if n not in skipped]
    decoder = Decoder(TypeCatalog(), wanted=lambda relation: wanted)
    described = [(name, TEXT, -1, key) for name, key in zip(columns, keys, strict=True)]
    streamed = xid != 0
    relation: Any = decoder.decode(encode_relation(7, described, identity=identity, xid=xid), streamed)
    assert isinstance(relation, RelationMessage)
    assert relation.relation.columns == tuple(Column(*column) for column in described)
    assert relation.relation.identity.value == identity

    one, other = (data.draw(st.lists(cells, min_size=len(columns), max_size=len(columns))) for _ in range(2))
    old = [None if cell is UNCHANGED else cell for cell in one]
    rows = [{name: cell for name, cell in zip(columns, row, strict=True) if name in wanted} for row in (old, other)]
    keyed = {name: value for name, value in rows[0].items() if keys[columns.index(name)]}

    insert = decoder.decode(encode_change(b"I", 7, (b"N", encoded(other)), xid=xid), streamed)
    unchanged = tuple(name for name, cell in rows[1].items() if cell is UNCHANGED)
    assert insert == Insert(xid, relation.relation, rows[1], unchanged)
    assert (
        decoder.insert(encode_change(b"I", 7, (b"N", encoded(other)), xid=xid), streamed) == msgspec.structs.astuple(insert)[1:]
    )
    update = decoder.decode(encode_change(b"U", 7, (b"O", encoded(old)), (b"N", encoded(other)), xid=xid), streamed)
    filled = {name: rows[0][name] if cell is UNCHANGED else cell for name, cell in rows[1].items()}
    assert update == Update(xid, relation.relation, rows[0], False, filled)
    delete = decoder.decode(encode_change(b"D", 7, (b"K", encoded(old)), xid=xid), streamed)
    assert delete == Delete(xid, relation.relation, keyed, True)


@given(u8, times, u4, u8, xids, xids, st.booleans())
def test_transactions_come_back(lsn: int, time: int, xid: int, end: int, top: int, sub: int, first: bool) -> None:
    decode = Decoder(TypeCatalog()).decode
    assert decode(b"B" + struct.pack("!QqI", lsn, time, xid)) == Begin(lsn, time, xid)
    assert decode(b"C\0" + struct.pack("!QQq", lsn, end, time)) == Commit(lsn, end, time)
    assert decode(b"S" + struct.pack("!IB", top, first)) == StreamStart(top, first)
    assert decode(b"c" + struct.pack("!IBQQq", top, 0, lsn, end, time)) == StreamCommit(top, lsn, end, time)
    assert decode(b"A" + struct.pack("!II", top, sub)) == StreamAbort(top, sub, None, None)
    assert decode(b"A" + struct.pack("!IIQq", top, sub, lsn, time)) == StreamAbort(top, sub, lsn, time)


@given(u8, names, st.binary(max_size=200), xids, u4, st.booleans())
def test_the_other_messages_come_back(lsn: int, name: str, content: bytes, xid: int, oid: int, flag: bool) -> None:
    decoder = Decoder(TypeCatalog())
    decode = decoder.decode
    assert decode(b"O" + struct.pack("!Q", lsn) + text(name)) == Origin(lsn, name)
    rest = struct.pack("!BQ", flag, lsn) + text(name) + struct.pack("!I", len(content)) + content
    assert decode(b"M" + rest) == LogicalMessage(0, flag, lsn, name, content)
    assert decode(b"M" + struct.pack("!I", xid) + rest, True) == LogicalMessage(xid, flag, lsn, name, content)
    assert decode(b"Y" + struct.pack("!I", oid) + text("") + text(name)) == TypeMessage(0, oid, "pg_catalog", name)
    relation: Any = decode(encode_relation(oid, [(name, TEXT, -1, True)]))
    truncate = b"T" + struct.pack("!IBII", 2, 1 + 2 * flag, oid, oid)
    assert decode(truncate) == Truncate(0, (relation.relation, relation.relation), True, flag)


CAPTURES = {version: golden(version) for version in VERSIONS}


@settings(deadline=None)
@given(st.sampled_from(VERSIONS), st.data())
def test_broken_messages_raise_the_protocol_error_or_nothing(version: int, data: st.DataObject) -> None:
    header, captures = CAPTURES[version]
    messages = captures["whole"]
    decoder = Decoder(catalog(header), numeric=data.draw(st.sampled_from(["string", "number"])))
    for message in messages:
        if message[:1] == b"R":
            decoder.decode(message)
    message = bytearray(data.draw(st.sampled_from(messages)))
    for _ in range(data.draw(st.integers(0, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))]) if data.draw(st.booleans()) else bytes(message)
    with suppress(ProtocolError):
        decoder.decode(cut, data.draw(st.booleans()))


@given(st.binary(max_size=60), st.booleans())
def test_bytes_at_random_raise_the_protocol_error_or_nothing(data: bytes, streamed: bool) -> None:
    with suppress(ProtocolError):
        Decoder(TypeCatalog()).decode(data, streamed)


def printed(value: Any, delimiter: str) -> str:
    """An array as array_out prints it."""
    if isinstance(value, list):
        return "{" + delimiter.join(printed(item, delimiter) for item in value) + "}"
    if value is None:
        return "NULL"
    plain = value and value.upper() != "NULL" and not any(c in '{}"\\' + delimiter or c.isspace() for c in value)
    return value if plain else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


elements = st.one_of(st.none(), texts, st.sampled_from(["NULL", "null", "", " ", "{", "}", '"', "\\", ",", ";"]))


@st.composite
def arrays(draw: st.DrawFn) -> list[Any]:
    lengths = draw(st.lists(st.integers(1, 3), max_size=3))
    kind: st.SearchStrategy[Any] = elements
    for length in lengths:
        kind = st.lists(kind, min_size=length, max_size=length)
    return draw(kind if lengths else st.just([]))


@settings(deadline=None)
@given(arrays(), st.sampled_from([",", ";"]))
def test_arrays_of_any_shape_come_back(value: list[Any], delimiter: str) -> None:
    assert values.array(values.text, delimiter.encode())(printed(value, delimiter).encode()) == value


@given(st.dictionaries(texts, st.one_of(st.none(), texts), max_size=5))
def test_hstores_come_back(value: dict[str, str | None]) -> None:
    def quoted(item: str | None) -> str:
        return "NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'

    printed = ", ".join(f"{quoted(key)}=>{quoted(item)}" for key, item in value.items())
    assert values.hstore(printed.encode()) == value


@given(u8)
def test_log_sequence_numbers_come_back(lsn: int) -> None:
    assert parse_lsn(lsn_text(lsn)) == lsn
