"""What doctor finds about a postgres source; and that what it says mends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from doctor_parts import dsn_of, role_of, sound, wrong
from query_source_parts import make_source

from penstock.errors import Transient
from penstock.spi import Finding
from penstock.testing.servers import Database

ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, updated_at timestamptz NOT NULL DEFAULT now(), note text)"
FIELDS: dict[str, Any] = {"table": "orders", "cursor": "updated_at", "follow": True}


async def found_in(database: Database, directory: Path, **fields: Any) -> dict[str, Finding]:
    return wrong(await make_source(directory, **{"dsn": database.dsn, **fields}).examine({}))


async def sql(database: Database, text: str) -> None:
    await asyncio.to_thread(database.execute, text)


async def test_a_table_that_fits_has_nothing_wrong(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    found = await make_source(tmp_path, database.dsn, **FIELDS).examine({})
    assert wrong(found) == {}
    assert sound(found)["source.columns"] == "3 columns, read in the order of updated_at, id"


async def test_a_large_table_without_an_index_for_its_order_is_slow(database: Database, tmp_path: Path) -> None:
    await sql(database, f"{ORDERS}; INSERT INTO orders SELECT n FROM generate_series(1, 12000) AS n; ANALYZE orders")
    found = await found_in(database, tmp_path, **FIELDS)
    assert {code: (finding.severity, finding.help) for code, finding in found.items()} == {
        "source.no_index": ("warning", 'CREATE INDEX CONCURRENTLY ON "public"."orders" ("updated_at", "id")')
    }
    await sql(database, found["source.no_index"].help or "")
    assert await found_in(database, tmp_path, **FIELDS) == {}
    assert await found_in(database, tmp_path, table="orders") == {}


async def test_a_cursor_that_may_be_null(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS.replace(" NOT NULL DEFAULT now()", ""))
    found = await found_in(database, tmp_path, **FIELDS)
    assert {code: finding.help for code, finding in found.items()} == {
        "source.null_cursor": 'ALTER TABLE "public"."orders" ALTER COLUMN "updated_at" SET NOT NULL'
    }
    await sql(database, found["source.null_cursor"].help or "")
    assert await found_in(database, tmp_path, **FIELDS) == {}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"table": "missing"}, "source.no_table"),
        ({"table": "orders", "columns": ["nothing"]}, "source.unknown_column"),
        ({"table": "orders", "cursor": "note", "follow": True}, "source.cursor_type"),
        ({"table": "orders", "key": "note"}, "source.key_not_unique"),
        ({"table": "keyless"}, "source.no_key"),
        ({"query": "SELECT * FROM public.orders", "key": "nothing"}, "source.unknown_column"),
        ({"table": "numbered", "cursor": "id", "follow": True}, "source.cached_sequence"),
    ],
)
async def test_what_a_run_would_stop_for(fields: dict[str, Any], code: str, database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        f"{ORDERS}; CREATE TABLE keyless (id int);"
        "CREATE TABLE numbered (id bigserial PRIMARY KEY); ALTER SEQUENCE numbered_id_seq CACHE 20",
    )
    found = await found_in(database, tmp_path, **fields)
    assert {code: finding.severity for code, finding in found.items()} == {code: "error"}
    assert found[code].help


async def test_a_role_that_may_not_read_all_of_the_table(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    with role_of(database) as role:
        found = await found_in(database, tmp_path, **FIELDS, dsn=dsn_of(database, role))
        assert {code: finding.help for code, finding in found.items()} == {
            "source.no_select": f'GRANT SELECT ON TABLE "public"."orders" TO {role}'
        }
        await sql(database, found["source.no_select"].help or "")
        assert await found_in(database, tmp_path, **FIELDS, dsn=dsn_of(database, role)) == {}
        await sql(database, "ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
        hidden = await found_in(database, tmp_path, **FIELDS, dsn=dsn_of(database, role))
        assert {code: finding.help for code, finding in hidden.items()} == {"source.row_security": f"ALTER ROLE {role} BYPASSRLS"}


async def test_a_server_that_is_not_there(database: Database, tmp_path: Path) -> None:
    with pytest.raises(Transient, match="cannot be reached"):
        await make_source(tmp_path, database.dsn_through(1), **FIELDS).examine({})
