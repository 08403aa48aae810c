"""What doctor finds about snapshots of a postgres_cdc source: tables without a key, the table of signals; and the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cdc_parts import ORDERS, make_source, positions, prepare_slot, read, sql
from doctor_parts import dsn_of, role_of, sound, wrong

from connectors.sources._cdc.positions import END, order, position, start_of
from penstock.spi import Finding, Position
from penstock.testing.servers import Database

BARE = "CREATE TABLE orders (n int); ALTER TABLE orders REPLICA IDENTITY FULL"
MASKED = "CREATE TABLE orders (mail text PRIMARY KEY)"
HASHED: dict[str, Any] = {"mask": {"mail": "hash"}, "mask_key": "k" * 32}


async def found_in(database: Database, directory: Path, known: dict[str, Position] | None = None, **fields: Any) -> list[Finding]:
    return await make_source(database, directory, **{"max_slot_lag": "10GiB", **fields}).examine(known or {})


@pytest.mark.parametrize(
    ("table", "fields", "severity", "help"),
    [
        (BARE, {}, "error", 'ALTER TABLE "public"."orders" ADD PRIMARY KEY'),
        (MASKED, HASHED, "error", "no mask for mail; or `snapshot: { keyless: at_least_once }`"),
    ],
)
async def test_a_table_without_a_usable_key_stops_the_first_run(
    database: Database, tmp_path: Path, table: str, fields: dict[str, Any], severity: str, help: str
) -> None:
    await sql(database, table)
    found = wrong(await found_in(database, tmp_path, snapshot={"mode": "initial"}, **fields))["snapshot.no_key"]
    assert found.severity == severity
    assert (found.help or "").startswith(help)


@pytest.mark.parametrize(
    ("keyless", "means"), [("skip", "leave out its rows"), ("at_least_once", "in one go, and all over again")]
)
async def test_what_a_table_without_a_key_means_is_told(database: Database, tmp_path: Path, keyless: str, means: str) -> None:
    await sql(database, BARE)
    found = wrong(await found_in(database, tmp_path, snapshot={"mode": "initial", "keyless": keyless}))["snapshot.no_key"]
    assert (found.severity, means in (found.why or "")) == ("warning", True)
    assert found.help == 'ALTER TABLE "public"."orders" ADD PRIMARY KEY (…)'


async def test_a_unique_key_is_one(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE TABLE orders (n int NOT NULL UNIQUE); ALTER TABLE orders REPLICA IDENTITY FULL")
    assert "snapshot.no_key" not in wrong(await found_in(database, tmp_path, snapshot={"mode": "initial"}))


SIGNALS: dict[str, Any] = {"signals": {"table": "public.asks"}}


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("", "it is not there"),
        ("CREATE TABLE asks (id int PRIMARY KEY, what text)", "it has no column kind, arguments"),
        ("CREATE TABLE asks (id int PRIMARY KEY, kind text, arguments text)", "its column arguments is no text[]"),
    ],
)
async def test_a_table_of_signals_that_cannot_be_one(database: Database, tmp_path: Path, table: str, why: str) -> None:
    await sql(database, f"{ORDERS}; {table}")
    found = wrong(await found_in(database, tmp_path, **SIGNALS))
    assert {code: (one.severity, one.why) for code, one in found.items()} == {"signals.table": ("error", why)}
    await sql(database, "DROP TABLE IF EXISTS asks")
    await sql(database, (found["signals.table"].help or "").partition("; GRANT")[0])
    findings = await found_in(database, tmp_path, **SIGNALS)
    assert (wrong(findings), sound(findings)["signals.table"]) == ({}, "the table public.asks can be looked at")


async def test_a_table_of_signals_that_may_not_be_read(database: Database, tmp_path: Path) -> None:
    await sql(database, f"{ORDERS}; CREATE TABLE asks (id int PRIMARY KEY, kind text, arguments text[])")
    with role_of(database, "REPLICATION") as role:
        await sql(database, f"GRANT SELECT ON orders TO {role}; CREATE PUBLICATION penstock_test FOR TABLE orders")
        found = wrong(await found_in(database, tmp_path, dsn=dsn_of(database, role), **SIGNALS))["signals.table"]
        assert found.severity == "error"
        await sql(database, found.help or "")
        assert "signals.table" not in wrong(await found_in(database, tmp_path, dsn=dsn_of(database, role), **SIGNALS))


async def test_signals_that_are_events_or_share_an_id(database: Database, tmp_path: Path) -> None:
    await sql(database, f"{ORDERS}; CREATE TABLE asks (id int, kind text, arguments text[])")
    await sql(database, "CREATE PUBLICATION penstock_test FOR TABLE orders, asks WITH (publish = 'insert')")
    fields: dict[str, Any] = {"tables": ["orders", "asks"], "operations": ["insert"], **SIGNALS}
    found = wrong(await found_in(database, tmp_path, **fields))
    assert {code: one.severity for code, one in found.items()} == {"signals.id": "warning", "signals.published": "warning"}


async def test_the_history_of_the_server_is_that_of_the_checkpoint(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    known = await prepare_slot(make_source(database, tmp_path))
    await sql(database, "INSERT INTO orders VALUES (1)")
    known |= positions(await read(make_source(database, tmp_path), known, ack=True))
    findings = await found_in(database, tmp_path, known)
    assert "slot.behind" not in wrong(findings)
    assert sound(findings)["slot.history"] == "the server's log, on timeline 1, holds all that the pipeline has seen"
    slot = f"slot_{database.name}"
    far = start_of(known[slot]).end + (1 << 40)
    found = wrong(await found_in(database, tmp_path, {slot: position(order(far, END), far, None, 1)}))
    assert found["slot.behind"].severity == "error"
