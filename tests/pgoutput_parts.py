"""What tests of the pgoutput decoder share: an encoder that is independent of it, every type with a value, golden captures."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from connectors._pg_types import TypeCatalog
from connectors.sources._pgoutput import Decoder
from connectors.sources._pgoutput_messages import UNCHANGED

GOLDEN = Path(__file__).resolve().parent / "golden"
VERSIONS = (16, 18)

TYPES_SQL = """
CREATE TYPE mood AS ENUM ('sad', 'ok, "fine"', 'happy');
CREATE TYPE pair AS (x int4, note text);
CREATE DOMAIN positive AS int4 CHECK (VALUE > 0);
CREATE DOMAIN amounts AS numeric(12,2)[];
CREATE TYPE spans AS RANGE (subtype = float8);
CREATE TYPE hstore;
CREATE FUNCTION hstore_in(cstring) RETURNS hstore LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION hstore_out(hstore) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE hstore (INPUT = hstore_in, OUTPUT = hstore_out, LIKE = text);
"""
"""Types of the user. The wheel's servers come without hstore: this one only prints the text that it was given."""

CASES: Sequence[tuple[str, str, Any]] = [
    ("bool", "true", True),
    ("bool", "false", False),
    ("int2", "-32768", -32768),
    ("int4", "2147483647", 2147483647),
    ("int8", "9223372036854775807", 9223372036854775807),
    ("oid", "4294967295", 4294967295),
    ("xid", "4294967295", 4294967295),
    ("xid8", "18446744073709551615", 18446744073709551615),
    ("cid", "7", 7),
    ("float4", "0.1", 0.1),
    ("float4", "NaN", "NaN"),
    ("float8", "0.30000000000000004", 0.30000000000000004),
    ("float8", "1e-300", 1e-300),
    ("float8", "-Infinity", "-Infinity"),
    ("float8", "Infinity", "Infinity"),
    ("numeric", "12345678901234567890.123456789000", "12345678901234567890.123456789000"),
    ("numeric(10,2)", "3.5", "3.50"),
    ("numeric", "NaN", "NaN"),
    ("numeric", "-Infinity", "-Infinity"),
    ("money", "-1234.5", "-$1,234.50"),
    ("text", "naïve ☃ \\ \" ' tab\t\nline", "naïve ☃ \\ \" ' tab\t\nline"),
    ("text", "", ""),
    ("varchar(10)", "abc", "abc"),
    ("bpchar(5)", "ab", "ab   "),
    ("name", "a name", "a name"),
    ('"char"', "x", "x"),
    ("bytea", "\\x00ff10", "AP8Q"),
    ("bytea", "", ""),
    ("date", "2024-02-29", "2024-02-29"),
    ("date", "infinity", "infinity"),
    ("date", "0044-03-15 BC", "0044-03-15 BC"),
    ("time", "23:59:59.999999", "23:59:59.999999"),
    ("timetz", "12:00:00.5+02", "12:00:00.5+02"),
    ("timestamp", "2024-02-29 12:34:56.789", "2024-02-29T12:34:56.789"),
    ("timestamp", "-infinity", "-infinity"),
    ("timestamp", "0044-03-15 12:00:00 BC", "0044-03-15 12:00:00 BC"),
    ("timestamp", "20240-01-01 00:00:00", "20240-01-01 00:00:00"),
    ("timestamptz", "2024-02-29 12:34:56.789012+02", "2024-02-29T10:34:56.789012Z"),
    ("timestamptz", "2024-06-01 00:00:00 America/New_York", "2024-06-01T04:00:00Z"),
    ("timestamptz", "infinity", "infinity"),
    ("timestamptz", "0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
    ("timestamptz", "20240-01-01 00:00:00+00", "20240-01-01 00:00:00+00"),
    ("interval", "1 year 2 months 3 days 04:05:06.789", "P1Y2M3DT4H5M6.789S"),
    ("interval", "-1 day", "P-1D"),
    ("interval", "0", "PT0S"),
    ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("json", '{"b": 1,  "a": 18446744073709551616}', {"b": 1, "a": 18446744073709551616}),
    (
        "jsonb",
        '{"a": [1.5, null, true, "x"], "n": 123456789012345678901234567890}',
        {"a": [1.5, None, True, "x"], "n": 123456789012345678901234567890},
    ),
    ("jsonpath", "$.a[*]", '$."a"[*]'),
    ("inet", "192.168.0.1/24", "192.168.0.1/24"),
    ("cidr", "10.0.0.0/8", "10.0.0.0/8"),
    ("macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:03"),
    ("macaddr8", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:05"),
    ("bit(4)", "1010", "1010"),
    ("varbit", "10101", "10101"),
    ("point", "(1.5,2)", "(1.5,2)"),
    ("line", "{1,2,3}", "{1,2,3}"),
    ("lseg", "[(0,0),(1,1)]", "[(0,0),(1,1)]"),
    ("box", "(1,1),(0,0)", "(1,1),(0,0)"),
    ("path", "[(0,0),(1,1)]", "[(0,0),(1,1)]"),
    ("polygon", "((0,0),(1,1),(1,0))", "((0,0),(1,1),(1,0))"),
    ("circle", "<(0,0),2>", "<(0,0),2>"),
    ("tsvector", "a:1 b:2A", "'a':1 'b':2A"),
    ("tsquery", "a & b", "'a' & 'b'"),
    ("pg_lsn", "16/B374D848", "16/B374D848"),
    ("tid", "(0,1)", "(0,1)"),
    ("regclass", "pg_catalog.pg_class", "pg_class"),
    ("int4range", "[1,10]", "[1,11)"),
    ("tstzrange", "[2024-01-01 00:00+00,)", '["2024-01-01 00:00:00+00",)'),
    ("int4multirange", "{[1,3),[5,7)}", "{[1,3),[5,7)}"),
    ("mood", 'ok, "fine"', 'ok, "fine"'),
    ("pair", '(1,"a ""b""")', '(1,"a ""b""")'),
    ("positive", "3", 3),
    ("spans", "[1.5,2.5)", "[1.5,2.5)"),
    ("hstore", '"a"=>"1", "b\\"c"=>NULL', {"a": "1", 'b"c': None}),
    ("int4[]", "{1,NULL,3}", [1, None, 3]),
    ("int4[]", "{}", []),
    ("int4[]", "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
    ("int4[]", "[0:1]={1,2}", "[0:1]={1,2}"),
    (
        "text[]",
        '{"a,b","c\\"d","\\\\","NULL",NULL,"",plain,"{}"," x"}',
        ["a,b", 'c"d', "\\", "NULL", None, "", "plain", "{}", " x"],
    ),
    ("bool[]", "{t,f}", [True, False]),
    ("float8[]", "{1.5,NaN}", [1.5, "NaN"]),
    ("numeric[]", "{1.50,NULL}", ["1.50", None]),
    ("timestamptz[]", '{"2024-02-29 10:00+00"}', ["2024-02-29T10:00:00Z"]),
    ("jsonb[]", '{"{\\"a\\": [1, 2]}","null"}', [{"a": [1, 2]}, None]),
    ("bytea[]", '{"\\\\x00ff"}', ["AP8="]),
    ("box[]", "{(1,1),(0,0);(3,3),(2,2)}", ["(1,1),(0,0)", "(3,3),(2,2)"]),
    ("mood[]", '{happy,"ok, \\"fine\\""}', ["happy", 'ok, "fine"']),
    ("pair[]", '{"(1,\\"a b\\")"}', ['(1,"a b")']),
    ("positive[]", "{1,2}", [1, 2]),
    ("amounts", "{1,2.5}", ["1.00", "2.50"]),
    ("hstore[]", '{"\\"a\\"=>\\"1\\""}', [{"a": "1"}]),
    ("int2vector", "1 2 3", "1 2 3"),
]
"""Type, literal, and the JSON value that a reader expects."""


def golden(version: int) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    """What was recorded of a server: the header (types, rows in the end), and the messages of each capture."""
    lines = (GOLDEN / f"pgoutput_{version}.jsonl").read_text().splitlines()
    captures: dict[str, list[bytes]] = {}
    for line in lines[1:]:
        name, message = json.loads(line)
        captures.setdefault(name, []).append(bytes.fromhex(message))
    return json.loads(lines[0]), captures


def catalog(header: dict[str, Any]) -> TypeCatalog:
    return TypeCatalog.of(header["types"])


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def encode_row(values: Sequence[bytes | object | None]) -> bytes:
    """TupleData: bytes are text, None is NULL, UNCHANGED a TOAST value that is not sent."""
    parts = [struct.pack("!H", len(values))]
    for value in values:
        if isinstance(value, bytes):
            parts.append(b"t" + struct.pack("!I", len(value)) + value)
        else:
            parts.append(b"u" if value is UNCHANGED else b"n")
    return b"".join(parts)


def encode_relation(
    oid: int,
    columns: Sequence[tuple[str, int, int, bool]],
    *,
    schema: str = "public",
    name: str = "t",
    identity: str = "d",
    xid: int = 0,
) -> bytes:
    head = b"R" + encode_xid(xid) + struct.pack("!I", oid) + text(schema) + text(name) + identity.encode()
    tail = [bytes([key]) + text(column) + struct.pack("!Ii", kind, typmod) for column, kind, typmod, key in columns]
    return head + struct.pack("!H", len(columns)) + b"".join(tail)


def encode_change(kind: bytes, oid: int, *rows: tuple[bytes, Sequence[Any]], xid: int = 0) -> bytes:
    """An insert, update or delete with its rows, each behind its mark (K, O or N)."""
    return kind + encode_xid(xid) + struct.pack("!I", oid) + b"".join(mark + encode_row(values) for mark, values in rows)


def encode_xid(xid: int) -> bytes:
    return struct.pack("!I", xid) if xid else b""


def decoder_of(*types: int, numeric: Any = "string", wanted: Any = lambda relation: None) -> Decoder:
    """A decoder that knows a table `public.t` with the OID 7, and columns c0, c1, … of these types; c0 is its key."""
    decoder = Decoder(TypeCatalog(), numeric=numeric, wanted=wanted)
    decoder.decode(encode_relation(7, [(f"c{n}", kind, -1, n == 0) for n, kind in enumerate(types)]))
    return decoder
