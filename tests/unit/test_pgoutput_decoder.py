"""The decoder's rules one by one, on messages that the tests encode themselves."""

from __future__ import annotations

import pickle
import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from pgoutput_parts import decoder_of, encode_change, encode_relation

from connectors._pg_types import PgType, TypeCatalog
from connectors.sources._pg_replication import (
    XLOG_DATA,
    XLOG_HEADER,
    Keepalive,
    ProtocolError,
    TimeTexts,
    XLogData,
    frame,
    lsn_text,
    microseconds_since_2000,
    parse_lsn,
    standby_status,
    time_text,
)
from connectors.sources._pgoutput import Decoder, xid_of
from connectors.sources._pgoutput_messages import (
    UNCHANGED,
    Column,
    Drift,
    Relation,
    RelationMessage,
    ReplicaIdentity,
    drift,
)
from penstock.errors import Fatal, Permanent
from penstock.event import encode

INT4, TEXT, NUMERIC, JSONB, FLOAT8 = 23, 25, 1700, 3802, 701


def insert(*values: Any, xid: int = 0) -> bytes:
    return encode_change(b"I", 7, (b"N", values), xid=xid)


def test_an_insert_is_a_row_of_json_values_in_the_order_of_its_columns() -> None:
    message: Any = decoder_of(INT4, TEXT, JSONB).decode(insert(b"1", None, b'{"a": 1}'))
    assert list(message.new.items()) == [("c0", 1), ("c1", None), ("c2", {"a": 1})]
    assert (message.xid, message.relation.name, message.unchanged, message.fault) == (0, "t", (), None)


def test_streamed_messages_carry_their_transaction() -> None:
    decoder = Decoder(TypeCatalog())
    decoder.decode(encode_relation(7, [("id", INT4, -1, True)], xid=600), streamed=True)
    message: Any = decoder.decode(insert(b"5", xid=601), streamed=True)
    assert (message.xid, message.new) == (601, {"id": 5})
    assert xid_of(insert(b"5", xid=601)) == 601
    assert xid_of(b"O" + bytes(9)) is None
    with pytest.raises(ProtocolError):
        xid_of(b"I\0")


def test_columns_that_are_not_wanted_are_not_even_looked_at() -> None:
    decoder = decoder_of(INT4, JSONB, TEXT, wanted=lambda relation: {"c0", "c2"})
    message: Any = decoder.decode(insert(b"1", b"\xff no JSON", b"x"))
    assert message.new == {"c0": 1, "c2": "x"}
    assert message.fault is None
    message = decoder.decode(insert(b"1", UNCHANGED, b"x"))
    assert (message.new, message.unchanged) == ({"c0": 1, "c2": "x"}, ())


def test_wanted_is_asked_again_when_the_table_or_the_types_change() -> None:
    asked: list[str] = []
    decoder = decoder_of(INT4, wanted=lambda relation: asked.append(relation.name))
    for _ in range(2):
        decoder.decode(insert(b"1"))
    decoder.decode(encode_relation(7, [("c0", INT4, -1, True)], name="renamed"))
    decoder.decode(insert(b"1"))
    decoder.types = TypeCatalog()
    decoder.decode(insert(b"1"))
    assert asked == ["t", "renamed", "renamed"]


def test_types_given_behind_a_relation_count_for_its_rows() -> None:
    decoder = decoder_of(90001)
    assert decoder.types.missing(decoder.relations[7].type_oids) == {90001}
    decoder.types = TypeCatalog({90001: PgType("public", "_int4", "b", INT4, 0, ",")})
    message: Any = decoder.decode(insert(b"{1,2}"))
    assert message.new == {"c0": [1, 2]}


def test_unchanged_toast_values_are_a_sentinel_that_no_encoder_takes() -> None:
    message: Any = decoder_of(INT4, TEXT).decode(encode_change(b"U", 7, (b"N", [b"1", UNCHANGED])))
    assert (message.new, message.unchanged, message.old) == ({"c0": 1, "c1": UNCHANGED}, ("c1",), None)
    assert pickle.loads(pickle.dumps(UNCHANGED)) is UNCHANGED
    with pytest.raises(Permanent):
        encode(message.new)


def test_unchanged_values_are_taken_from_the_old_row_where_it_is_known() -> None:
    message: Any = decoder_of(INT4, TEXT).decode(encode_change(b"U", 7, (b"O", [b"1", b"big"]), (b"N", [b"2", UNCHANGED])))
    assert (message.old, message.new, message.unchanged) == ({"c0": 1, "c1": "big"}, {"c0": 2, "c1": "big"}, ())
    assert not message.old_is_key


def test_an_old_key_holds_the_columns_of_the_key_alone() -> None:
    decoder = decoder_of(INT4, TEXT)
    update: Any = decoder.decode(encode_change(b"U", 7, (b"K", [b"1", None]), (b"N", [b"2", UNCHANGED])))
    assert (update.old, update.old_is_key, update.new, update.unchanged) == ({"c0": 1}, True, {"c0": 2, "c1": UNCHANGED}, ("c1",))
    delete: Any = decoder.decode(encode_change(b"D", 7, (b"K", [b"1", None])))
    assert (delete.old, delete.old_is_key) == ({"c0": 1}, True)


@pytest.mark.parametrize(
    ("oid", "text", "code"),
    [
        (JSONB, b"1e400", "decode.number_out_of_range"),
        (JSONB, b"[" * 5000 + b"]" * 5000, "decode.too_deep"),
        (TEXT, b"\xff", "decode.invalid_utf8"),
        (INT4, b"many", "decode.postgres_value"),
        (NUMERIC, b"0." + b"1" * 40, "decode.number_inexact"),
    ],
)
def test_a_value_that_json_cannot_hold_is_a_fault_of_its_row_and_stays_text(oid: int, text: bytes, code: str) -> None:
    decoder = decoder_of(INT4, oid, TEXT, TEXT, numeric="number")
    row = [b"1", text, None, b"neighbour"]
    message: Any = decoder.decode(insert(*row))
    assert message.fault.code == code
    assert message.fault.message.startswith("column c1: ")
    assert message.new == {"c0": 1, "c1": text.decode(errors="backslashreplace"), "c2": None, "c3": "neighbour"}
    update: Any = decoder.decode(encode_change(b"U", 7, (b"O", row), (b"N", [b"1", UNCHANGED, UNCHANGED, b"x"])))
    assert (update.fault.code, update.unchanged) == (code, ())
    delete: Any = decoder.decode(encode_change(b"D", 7, (b"O", row)))
    assert delete.fault.code == code


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"?",
        b"P" + bytes(30),
        b"B",
        b"B" + bytes(21),
        b"C" + bytes(26),
        b"E\0",
        encode_change(b"I", 8, (b"N", [b"1", b"x"])),
        encode_change(b"I", 7, (b"O", [b"1", b"x"])),
        encode_change(b"I", 7, (b"N", [b"1"])),
        encode_change(b"I", 7, (b"N", [b"1", b"x"])) + b"!",
        encode_change(b"I", 7, (b"N", [b"1", b"x"]))[:-1],
        encode_change(b"U", 7, (b"K", [b"1", None])),
        encode_change(b"D", 7, (b"N", [b"1", b"x"])),
        b"I\0\0\0\7N\0\2b\0\0\0\1xn",
        b"I\0\0\0\7N\0\2?n",
        b"T\0\0\0\1\0\0\0\0\x08",
        b"R\0\0\0\x07public\0t\0x\0\0",
        b"R\0\0\0\x07public\0\xff\0d\0\0",
        b"R\0\0\0\x07public",
        b"M\0" + bytes(8) + b"p\0\0\0\0\5abc",
    ],
)
def test_what_is_malformed_or_unknown_is_fatal(message: bytes) -> None:
    with pytest.raises(ProtocolError) as raised:
        decoder_of(INT4, TEXT).decode(message)
    assert isinstance(raised.value, Fatal)
    assert raised.value.code == "source.protocol"
    assert pickle.loads(pickle.dumps(raised.value)).render() == raised.value.render()


def test_errors_show_nothing_of_the_data() -> None:
    with pytest.raises(ProtocolError) as raised:
        decoder_of(INT4, TEXT).decode(insert(b"1", b"secret")[:-1])
    assert "secret" not in raised.value.render()


def relation(*columns: Column, name: str = "t", identity: ReplicaIdentity = ReplicaIdentity.DEFAULT) -> Relation:
    return Relation(7, "public", name, identity, columns)


ID, NAME = Column("id", INT4, -1, True), Column("name", 1043, 14, False)


def test_drift_says_what_differs_between_two_looks_of_a_table() -> None:
    wider = Column("name", 1043, 24, False)
    more = Column("more", TEXT, -1, False)
    assert drift(relation(ID, NAME), relation(ID, NAME)) is None
    assert drift(relation(ID, NAME), relation(ID, wider)) == Drift(retyped=((NAME, wider),))
    assert drift(relation(ID, NAME), relation(ID, more)) == Drift(added=(more,), dropped=(NAME,))
    assert drift(relation(ID, NAME), relation(NAME, ID)) == Drift(reordered=True)
    assert drift(relation(ID), relation(ID, name="u")) == Drift(renamed=True)
    assert drift(relation(ID), relation(ID, identity=ReplicaIdentity.FULL)) == Drift(rekeyed=True)
    assert drift(relation(ID), relation(Column("id", INT4, -1, False))) == Drift(rekeyed=True)


def test_a_relation_message_names_what_was_known_before() -> None:
    decoder = decoder_of(INT4)
    before = decoder.relations[7]
    message = decoder.decode(encode_relation(7, [("id", INT4, -1, True)], schema=""))
    assert isinstance(message, RelationMessage)
    assert message.previous is before
    assert message.relation.schema == "pg_catalog"
    assert decoder.relations == {7: message.relation}


def test_frames_are_read_and_refused() -> None:
    data = b"w" + struct.pack("!QQq", 5, 9, -1) + b"message"
    assert frame(memoryview(data)) == XLogData(5, 9, -1, b"message")
    assert (data[0], data[XLOG_HEADER:]) == (XLOG_DATA, b"message")
    assert frame(b"k" + struct.pack("!QqB", 9, 3, 1)) == Keepalive(9, 3, True)
    for broken in (b"", b"x", b"w" + bytes(23), b"k" + bytes(16), b"k" + bytes(18)):
        with pytest.raises(ProtocolError):
            frame(broken)


def test_the_standby_status_has_the_form_of_the_manual() -> None:
    assert standby_status(3, 2, 1, 42) == bytes.fromhex("72" + "0000000000000003" + "0000000000000002" + "0000000000000001" + "000000000000002a" + "00")  # fmt: skip  # noqa: E501
    assert standby_status(3, 2, 1, 42, reply=True)[-1] == 1


def test_log_sequence_numbers_are_written_as_postgresql_does() -> None:
    assert lsn_text(0x16B3748) == "0/16B3748"
    assert lsn_text(0x16_B374D848) == "16/B374D848"
    assert parse_lsn("16/b374d848") == 0x16_B374D848
    for text in ("", "16", "16/", "123456789/0", "0/16B3748 ", "0/G"):
        with pytest.raises(ValueError, match="no"):
            parse_lsn(text)


def test_times_are_counted_from_the_year_2000() -> None:
    moment = datetime(2026, 11, 21, 8, 31, 31, 123456, UTC)
    assert time_text(microseconds_since_2000(moment)) == "2026-11-21T08:31:31.123456Z"
    assert time_text(0) == "2000-01-01T00:00:00.000000Z"
    with pytest.raises(ProtocolError):
        time_text(2**63 - 1)


def test_times_one_after_the_other_read_as_each_alone() -> None:
    texts = TimeTexts()
    for time in (0, 1, 999_999, 1_000_000, 999_999, -1, -1_000_000, -1_000_001, microseconds_since_2000(datetime.now(UTC))):
        assert texts(time) == time_text(time)
    with pytest.raises(ProtocolError):
        texts(2**63 - 1)
    assert texts(0) == time_text(0)
