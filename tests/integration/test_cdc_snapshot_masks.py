"""What snapshots let be seen: ids of masked rows, positions; and tables whose names look the same."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import make_source, sql
from cdc_snapshot_parts import Ledger, drive, snapshots_of

from penstock.errors import EnvironmentFault
from penstock.testing.servers import Database

INITIAL: dict[str, Any] = {"snapshot": {"mode": "initial"}}


async def test_a_unique_key_cannot_be_masked_until_its_rows_look_the_same(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE TABLE orders (mail text NOT NULL UNIQUE); ALTER TABLE orders REPLICA IDENTITY FULL")
    with pytest.raises(EnvironmentFault) as caught:
        await drive(make_source(database, tmp_path, mask={"mail": None}, **INITIAL), [Ledger()], 1)
    assert (caught.value.code, caught.value.help) == ("source.masked_key", "mask: { mail: hash }")
    assert await sql(database, f"SELECT 1 FROM pg_replication_slots WHERE database = '{database.name}'") == []


async def test_ids_of_rows_without_a_key_tell_nothing_of_masked_values(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        "CREATE TABLE orders (pin text, open text, gone text); ALTER TABLE orders REPLICA IDENTITY FULL;"
        "INSERT INTO orders VALUES ('4711', 'a', 'x'), ('0815', 'b', NULL)",
    )
    ledger = Ledger(key=("open",))
    fields: dict[str, Any] = {"mask": {"pin": "hash", "gone": None}, "mask_key": "k" * 32}
    snapshot = {"mode": "initial", "keyless": "at_least_once"}
    await drive(make_source(database, tmp_path, snapshot=snapshot, **fields), [ledger], 1)
    told = [event.id.rsplit("-", 1)[1] for event in snapshots_of(ledger)]
    assert told == [digest(event.data["pin"], event.data["open"], None) for event in snapshots_of(ledger)]
    assert told[0] != digest("4711", "a", "x")


def digest(*values: str | None) -> str:
    found = blake2b(digest_size=8)
    for value in values:
        found.update(b"-" if value is None else b"+" + len(value).to_bytes(4, "big") + value.encode())
    return found.hexdigest()


async def test_a_snapshot_that_is_done_keeps_no_key(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE TABLE orders (id text PRIMARY KEY); INSERT INTO orders VALUES ('alice'), ('bob')")
    ledger = Ledger()
    await drive(make_source(database, tmp_path, **INITIAL), [ledger], 1)
    (detail,) = [at.detail for name, at in ledger.positions.items() if name.startswith("snapshot:")]
    assert (b"bob" in detail, b'"done":true' in detail) == (False, True)


async def test_positions_hold_no_masked_key_and_are_read_on(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        "CREATE TABLE orders (id int, mail text, PRIMARY KEY (mail, id));"
        "INSERT INTO orders SELECT n, 'u' || n || '@shop.example' FROM generate_series(1, 20) AS n",
    )
    fields: dict[str, Any] = {"mask": {"mail": "hash"}, "mask_key": "k" * 32, **INITIAL}
    ledger = Ledger()
    for epoch, count in enumerate((4, 3), 1):
        await drive(make_source(database, tmp_path, **fields), [ledger], epoch, stop_after=count)
        assert not [at for at in ledger.positions.values() if b"shop.example" in at.detail]
    with pytest.raises(EnvironmentFault) as caught:
        await drive(make_source(database, tmp_path, **{**fields, "mask_key": "o" * 32}), [ledger], 4)
    assert caught.value.code == "snapshot.mask_key"
    await drive(make_source(database, tmp_path, **fields), [ledger], 5)
    ledger.check()
    assert sorted(ledger.rows["orders"]) == [(n,) for n in range(1, 21)]


async def test_two_tables_whose_names_read_the_same_are_both_read(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        'CREATE SCHEMA a; CREATE SCHEMA "a.b"; CREATE TABLE a."b.c" (id int PRIMARY KEY);'
        'CREATE TABLE "a.b".c (id int PRIMARY KEY);'
        'INSERT INTO a."b.c" VALUES (1); INSERT INTO "a.b".c VALUES (2)',
    )
    ledger = Ledger()
    fields: dict[str, Any] = {"tables": ['a."b.c"', '"a.b".c'], **INITIAL}
    await drive(make_source(database, tmp_path, **fields), [ledger], 1)
    found = sorted((event.source.partition("/")[2], event.data["id"]) for event in snapshots_of(ledger))
    assert sorted(found) == [('"a.b".c', 2), ('a."b.c"', 1)]
