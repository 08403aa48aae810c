"""Decoding pgoutput: a batch of 500 messages, conversion of the values included. Divide by 500 for a message.

python -m pytest bench/test_pgoutput.py --benchmark-enable
"""

from __future__ import annotations

import struct

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from connectors._pg_types import NumericMode, TypeCatalog
from connectors.sources._pgoutput import Decoder

BATCH = 500
COLUMNS = [("id", 20), ("customer", 25), ("total", 1700), ("placed_at", 1184), ("quantity", 23), ("status", 25)]


def row(values: list[bytes]) -> bytes:
    return struct.pack("!H", len(values)) + b"".join(b"t" + struct.pack("!I", len(value)) + value for value in values)


def order(n: int) -> bytes:
    placed_at = f"2026-11-21 08:31:{n % 60:02}.{n:06}+00".encode()
    return row([b"%d" % (1_000_000 + n), b"customer %d" % n, b"%d.50" % n, placed_at, b"%d" % (n % 7), b"shipped"])


def relation() -> bytes:
    columns = [bytes([n == 0]) + name.encode() + b"\0" + struct.pack("!Ii", oid, -1) for n, (name, oid) in enumerate(COLUMNS)]
    return b"R" + struct.pack("!I", 16400) + b"public\0orders\0d" + struct.pack("!H", len(columns)) + b"".join(columns)


def decoder(numeric: NumericMode = "string", wanted: set[str] | None = None) -> Decoder:
    made = Decoder(TypeCatalog(), numeric=numeric, wanted=lambda relation: wanted)
    made.decode(relation())
    return made


INSERTS = [b"I" + struct.pack("!I", 16400) + b"N" + order(n) for n in range(BATCH)]
UPDATES = [b"U" + struct.pack("!I", 16400) + b"O" + order(n) + b"N" + order(n + 1) for n in range(BATCH)]


@pytest.mark.parametrize("numeric", ["string", "number"])
def test_inserts_of_six_columns(benchmark: BenchmarkFixture, numeric: NumericMode) -> None:
    decode = decoder(numeric).decode
    assert len(benchmark(lambda: [decode(message) for message in INSERTS])) == BATCH


def test_inserts_without_the_message_around_them(benchmark: BenchmarkFixture) -> None:
    insert = decoder().insert
    assert len(benchmark(lambda: [insert(message) for message in INSERTS])) == BATCH


def test_inserts_of_which_two_columns_are_wanted(benchmark: BenchmarkFixture) -> None:
    decode = decoder(wanted={"id", "status"}).decode
    assert len(benchmark(lambda: [decode(message) for message in INSERTS])) == BATCH


def test_updates_with_both_rows(benchmark: BenchmarkFixture) -> None:
    decode = decoder().decode
    assert len(benchmark(lambda: [decode(message) for message in UPDATES])) == BATCH
