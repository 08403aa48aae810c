"""Values of every type: what the CDC source reads of a row, the sink writes as the same row; what would be changed is refused."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from pgoutput_parts import CASES, TYPES_SQL
from postgres_sink_parts import COLUMNS, Bench, decoded
from postgres_sink_parts import bench_of_each as bench_of_each
from sink_parts import commit, events, refused

from connectors._pg_types import NumericMode


def texts(dsn: str, table: str) -> tuple[Any, ...]:
    """The table's one row as the server prints it."""
    casts = ["::jsonb::text" if kind == "json" else "::text" for kind, _, _ in CASES]
    columns = ", ".join(f"{name}{cast}" for name, cast in zip(COLUMNS, casts, strict=True))
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection:
        row = connection.execute(f"SELECT {columns} FROM {table}".encode()).fetchone()
        assert row is not None
        return tuple(row)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("numeric", ["string", "number"])
async def test_a_row_of_every_type_is_written_as_it_was_read(bench: Bench, numeric: NumericMode, rows: int) -> None:
    defined = ", ".join(f"{name} {kind}" for name, (kind, _, _) in zip(COLUMNS, CASES, strict=True))
    await bench.sql(f"{TYPES_SQL} CREATE TABLE origin ({defined}); CREATE TABLE orders (id int PRIMARY KEY, {defined})")
    literals = ", ".join(f"$x${literal}$x$::{kind}" for kind, literal, _ in CASES)
    await bench.sql(f"INSERT INTO origin VALUES ({literals})")
    if numeric == "number":  # what no JSON number can hold exactly, and zeros at an end, which none keeps
        arrays = [name for name, case in zip(COLUMNS, CASES, strict=True) if case[0] == "numeric[]"]
        await bench.sql("UPDATE origin SET " + ", ".join(f"{name} = '{{1.5,NULL}}'" for name in arrays))
        inexact = [name for name, case in zip(COLUMNS, CASES, strict=True) if case[0] == "numeric" and len(case[1]) > 20]
        await bench.sql("UPDATE origin SET " + ", ".join(f"{name} = 12345678901234567890" for name in inexact))
    row = decoded(bench.database.dsn, "origin", numeric)
    # JSON's null inside jsonb[] and SQL's NULL are one value to JSON: read, the two cannot be told apart.
    jsonb_arrays = [name for name, case in zip(COLUMNS, CASES, strict=True) if case[0] == "jsonb[]"]
    await bench.sql("UPDATE origin SET " + ", ".join(f"{name} = array_replace({name}, 'null', NULL)" for name in jsonb_arrays))
    sink = await bench.sink(key=["id"])
    await sink.write_and_commit(events(*({"id": n, **row} for n in range(rows))), commit(1))
    await bench.sql("DELETE FROM orders WHERE id > 0")
    assert texts(bench.database.dsn, "orders") == texts(bench.database.dsn, "origin")


async def test_without_a_key_the_same_values_are_copied(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (a text, b text[], c int)")
    sink = await bench.sink()
    strange = ["tab\tnl\ncr\r\\N \\. \x1f\x1e\x1d", "\\", "", "\\t", "\x1f", "NULL", '{"a"}', "🦆"]
    await sink.write_and_commit(events(*({"a": text, "b": [text, None], "c": None} for text in strange)), commit(1))
    assert await bench.sql("SELECT * FROM orders") == [(text, [text, None], None) for text in strange]


ACCEPTED: list[tuple[str, Any, str | None]] = [
    ("text", 1.5, "1.5"),
    ("text", 2**70, str(2**70)),
    ("text", True, "true"),
    ("text", {"a": [1]}, '{"a":[1]}'),
    ("varchar(5)", 12345, "12345"),
    ("int4", "12", "12"),
    ("int4", 3.0, "3"),
    ("bool", "yes", "true"),
    ("numeric", 10**50, str(10**50)),
    ("numeric", 1e-300, f"0.{'0' * 299}1"),
    ("numeric(5,2)", 1.5, "1.50"),
    ("numeric(5,2)", "1.500", "1.50"),
    ("numeric(5,2)", "1e2", "100.00"),
    ("numeric(5,-2)", 12300, "12300"),
    ("float8", 2**53, "9.007199254740992e+15"),
    ("float8", "0.10", "0.1"),
    ("float8", "nan", "NaN"),
    ("float4", 0.1, "0.1"),
    ("float4", 16777216, "1.6777216e+07"),
    ("float4", "1.5", "1.5"),
    ("json", "text", '"text"'),
    ("jsonb", True, "true"),
    ("jsonb[]", [[1, 2], {"a": 1}], '{"[1, 2]","{\\"a\\": 1}"}'),
    ("int4[]", "{1,2}", "{1,2}"),
    ("int4[]", [[1, None], ["3", 4.0]], "{{1,NULL},{3,4}}"),
    ("timestamptz", "2026-01-01", "2026-01-01 00:00:00+00"),
    ("timestamptz", "2026-01-01T10:00:00.5+05:30", "2026-01-01 04:30:00.5+00"),
    ("timestamp", "2026-01-01T10:00:00Z", "2026-01-01 10:00:00"),
    ("timestamp(0)", "2026-01-01T10:00:00.000", "2026-01-01 10:00:00"),
    ("timetz", "10:00+01", "10:00:00+01"),
    ("interval(1)", "1.5 seconds", "00:00:01.5"),
    ("interval", "1.5 hours", "01:30:00"),
    ("interval day", "P3D", "3 days"),
    ("interval hour to minute", "P1DT2H30M0S", "1 day 02:30:00"),
    ("varchar(3)[]", '{"a\\"b",NULL,abc}', '{"a\\"b",NULL,abc}'),
    ("int4[]", "[2:3]={1, 2}", "[2:3]={1,2}"),
    ("bytea", "\\x00ff", "\\x00ff"),
    ("hstore", '"a"=>NULL', '"a"=>NULL'),
    ("hstore", {"n": 1, 'q"': None}, '"n"=>"1", "q\\""=>NULL'),
    ('"char"', "\\377", "\\377"),
]


async def test_values_that_fit_go_in_exactly(bench: Bench) -> None:
    defined = ", ".join(f"c{n} {kind}" for n, (kind, _, _) in enumerate(ACCEPTED))
    await bench.sql(f"{TYPES_SQL} CREATE TABLE orders ({defined})")
    sink = await bench.sink()
    await sink.write_and_commit(events({f"c{n}": value for n, (_, value, _) in enumerate(ACCEPTED)}), commit(1))
    (found,) = await bench.sql(f"SELECT {', '.join(f'c{n}::text' for n in range(len(ACCEPTED)))} FROM orders")
    assert [(case[0], text) for case, text in zip(ACCEPTED, found, strict=True)] == [(case[0], case[2]) for case in ACCEPTED]


REFUSED: list[tuple[str, Any]] = [
    ("numeric(5,2)", "1.005"),
    ("numeric(5,2)", 1.005),
    ("numeric(5,2)", "1e-3"),
    ("numeric(5,-2)", 12345),
    ("numeric", "1.2.3"),
    ("numeric", True),
    ("numeric", 10**5000),
    ("float8", 2**53 + 1),
    ("float8", 10**400),
    ("float8", "0.1000000000000000055511151231257827"),
    ("float8", "1e400"),
    ("float4", 0.30000000000000004),
    ("float4", 16777217),
    ("float4", "0.30000000000000004"),
    ("float4", 1e300),
    ("int4", 1.5),
    ("int4", "1.0"),
    ("int4", ""),
    ("int4", [1]),
    ("int8", 2**63),
    ("bool", 1),
    ("bool", "maybe"),
    ("date", "2026-01-01T10:00:00Z"),
    ("date", "today"),
    ("date", 20260101),
    ("time", "10:00:00+01"),
    ("time(0)", "10:00:00.5"),
    ("timestamp", "2026-01-01T10:00:00+02:00"),
    ("timestamp", "2026-01-01 10:00:00 America/New_York"),
    ("timestamp", "now"),
    ("timestamp(3)", "2026-01-01T10:00:00.1234Z"),
    ("timestamptz", "epoch"),
    ("timestamptz", 1767225600),
    ("interval", "0.0000001 s"),
    ("interval(0)", "PT0.5S"),
    ("interval day", "1 day 10 hours"),
    ("interval day", "P1DT10H"),
    ("interval year to month", "P1Y2M3D"),
    ("interval hour", "PT1H30M"),
    ("interval", "0.4 us"),
    ("interval", "0.0004 ms"),
    ("interval", "0.33 years"),
    ("interval", "P0.5M"),
    ("interval", "PT1e-7S"),
    ("time", "23:59:60"),
    ("timestamptz", "2016-12-31T23:59:60Z"),
    ("numeric(5,2)[]", "{1.00,1.005}"),
    ("varchar(3)[]", '{"abc   "}'),
    ("timestamp[]", '[2:2]={"2026-01-01 10:00:00+05"}'),
    ("date[]", "{{NULL,2026-01-01 10:00:00}}"),
    ("oid", -1),
    ("oid", "-"),
    ("xid8", "-1"),
    ("int4[]", [[], []]),
    ("float8", "0x1.000000000000001p0"),
    ("numeric(5,-2)", "0x7B"),
    ("uuid", "no"),
    ("uuid", 5),
    ("money", "1.234"),
    ("name", "é" * 32),
    ('"char"', "ab"),
    ("bpchar(2)", "abc"),
    ("bit(4)", "101"),
    ("varchar(3)", "a  b"),
    ("varchar(3)", "abc "),
    ("int4[]", [1, "x"]),
    ("int4[]", [[1], [2, 3]]),
    ("int4[]", [[[[[[[1]]]]]]]),
    ("int4[]", 5),
    ("mood", "unknown"),
    ("mood", {"a": 1}),
    ("pair", {"x": 1, "note": "n"}),
    ("positive", 0),
    ("amounts", [1.005]),
    ("int4range", [1, 2]),
    ("jsonb", {"a": "\0"}),
    ("bytea", "é"),
]


async def test_values_that_would_be_changed_or_do_not_fit_are_refused_with_the_column(bench: Bench) -> None:
    defined = ", ".join(f"c{n}_ {kind}" for n, (kind, _) in enumerate(REFUSED))
    await bench.sql(f"{TYPES_SQL} CREATE TABLE orders ({defined})")
    sink = await bench.sink()
    verdicts = await refused(sink, events(*({f"c{n}_": value} for n, (_, value) in enumerate(REFUSED))))
    converted = {place for place, (_, message) in verdicts.items() if message.startswith(f"column c{place}_: ")}
    assert converted == set(verdicts)
    left = [place for place in range(len(REFUSED)) if place not in verdicts]  # those that only the server refuses
    verdicts = await refused(sink, events(*({f"c{place}_": REFUSED[place][1]} for place in left)))
    assert [REFUSED[place] for number, place in enumerate(left) if number not in verdicts] == []
    unnamed = [message for number, (_, message) in verdicts.items() if f"column c{left[number]}_" not in message]
    assert unnamed == []
