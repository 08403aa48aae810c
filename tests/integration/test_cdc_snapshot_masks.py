"""What snapshots let be seen: ids of masked rows, positions; and tables whose names look the same."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import make_source, sql
from cdc_snapshot_parts import INITIAL, Ledger, Running, drive, snapshots_of

from penstock.errors import EnvironmentFault, Permanent
from penstock.spi import Batch, Signal
from penstock.testing.servers import Database


async def test_a_table_whose_only_key_is_masked_is_one_without_a_key(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE TABLE orders (mail text NOT NULL UNIQUE); ALTER TABLE orders REPLICA IDENTITY FULL")
    with pytest.raises(EnvironmentFault) as caught:
        await drive(make_source(database, tmp_path, mask={"mail": None}, **INITIAL), [Ledger()], 1)
    assert caught.value.code == "snapshot.no_key"
    assert "the key of public.orders has masked columns (mail)" in caught.value.message
    assert (caught.value.help or "").startswith("no mask for mail; or `snapshot: { keyless: at_least_once }`")
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


MAILS = (
    "CREATE TABLE orders (id int NOT NULL, mail text, PRIMARY KEY (mail, id));"
    "INSERT INTO orders SELECT n, 'u' || n || '@shop.example' FROM generate_series(1, 20) AS n"
)
HASHED: dict[str, Any] = {"mask": {"mail": "hash"}, "mask_key": "k" * 32}


async def test_a_table_whose_key_is_masked_is_read_in_one_go_and_positions_hold_no_value(
    database: Database, tmp_path: Path
) -> None:
    await sql(database, MAILS)
    fields: dict[str, Any] = {**HASHED, "snapshot": {"mode": "initial", "keyless": "at_least_once"}}
    ledger, kept = Ledger(), list[bytes]()

    def keep(batch: Batch) -> bool:
        kept.extend(batch.end or ())
        kept.extend(event.id.encode() for event in batch.events)
        return False

    await drive(make_source(database, tmp_path, **fields), [ledger], 1, stop_after=4, stop_at=keep)
    assert 0 < len(ledger.rows["orders"]) < 20
    await drive(make_source(database, tmp_path, **fields), [ledger], 2, stop_at=keep)
    assert sorted(ledger.rows["orders"]) == [(n,) for n in range(1, 21)]
    assert len(snapshots_of(ledger)) > 20  # from its beginning
    assert not [text for text in kept if b"shop.example" in text]


async def test_a_signal_for_a_table_whose_key_is_masked_is_refused(database: Database, tmp_path: Path) -> None:
    await sql(database, MAILS)
    async with Running(make_source(database, tmp_path, **HASHED), Ledger()) as running:
        with pytest.raises(Permanent) as caught:
            await running.source.signal(Signal(1, "snapshot", ("orders",)))
    assert caught.value.code == "snapshot.no_key"


@pytest.mark.parametrize(("identity", "chunked"), [("FULL", True), ("DEFAULT", False)])
async def test_another_key_stands_in_for_a_masked_one_where_changes_tell_it(
    database: Database, tmp_path: Path, identity: str, chunked: bool
) -> None:
    await sql(database, f"{MAILS}; ALTER TABLE orders ADD UNIQUE (id); ALTER TABLE orders REPLICA IDENTITY {identity}")
    ledger = Ledger()
    source = make_source(database, tmp_path, **HASHED, snapshot={"mode": "initial", "keyless": "at_least_once"})
    await drive(source, [ledger], 1, stop_after=4)
    (at,) = [at for name, at in ledger.positions.items() if name.startswith("snapshot:")]
    assert (b'"key":["id"]' in at.detail) is chunked
    await drive(make_source(database, tmp_path, **HASHED, snapshot={"keyless": "at_least_once"}), [ledger], 2)
    assert (len(snapshots_of(ledger)) == 20) is chunked


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
    assert sorted(found) == [("%22a.b%22.c", 2), ("a.%22b.c%22", 1)]
