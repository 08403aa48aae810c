"""What doctor finds about the table of a postgres sink and the schema of its ledger; and that what it says mends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from doctor_parts import dsn_of, role_of, wrong

from connectors._postgres import PostgresFields, TableName
from connectors._postgres_doctor import examine_server
from connectors.sinks._postgres_doctor import Wanted, sink_checks
from penstock.spi import Finding
from penstock.testing.contracts import make_context
from penstock.testing.servers import Database

ORDERS = "CREATE TABLE orders (id int NOT NULL, total numeric, PRIMARY KEY (id))"
PRIVILEGES = ("INSERT", "UPDATE", "SELECT")


async def found_in(database: Database, directory: Path, dsn: str | None = None, **fields: Any) -> dict[str, Finding]:
    given: dict[str, Any] = {"key": ("id",), "columns": None, "privileges": PRIVILEGES, "create": False, "ledger": "penstock"}
    wanted = Wanted(TableName("public", "orders"), **{**given, **fields})
    config = PostgresFields.model_validate({"dsn": dsn or database.dsn})
    return wrong(await examine_server(config, make_context(directory), "the sink's database", sink_checks(wanted)))


async def sql(database: Database, text: str) -> list[tuple[Any, ...]]:
    return await asyncio.to_thread(database.execute, text)


async def test_a_table_that_fits_has_nothing_wrong_and_nothing_is_made(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    assert await found_in(database, tmp_path) == {}
    assert await sql(database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'penstock'") == [(0,)]


async def test_a_table_that_is_missing(database: Database, tmp_path: Path) -> None:
    found = await found_in(database, tmp_path)
    assert {code: finding.help for code, finding in found.items()} == {
        "sink.missing_table": 'CREATE TABLE "public"."orders" (…), or create: true'
    }
    assert await found_in(database, tmp_path, create=True) == {}
    await sql(database, "CREATE VIEW orders AS SELECT 1 AS id")
    assert (await found_in(database, tmp_path))["sink.missing_table"].message == "public.orders is a view"


async def test_columns_that_are_missing_required_or_generated(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        "CREATE TABLE orders (id int PRIMARY KEY, total int NOT NULL, twice int GENERATED ALWAYS AS (total * 2) STORED,"
        "note text NOT NULL DEFAULT '', number int NOT NULL GENERATED ALWAYS AS IDENTITY)",
    )
    found = await found_in(database, tmp_path, columns=("id", "twice", "amount"))
    assert {code: (finding.severity, finding.message) for code, finding in found.items()} == {
        "sink.unknown_column": ("error", "public.orders has no column amount"),
        "sink.generated_column": ("error", "twice of public.orders is generated, and takes no value"),
        "sink.required_column": ("error", "total of public.orders must have a value, and none is written"),
    }
    assert await found_in(database, tmp_path, columns=("id", "total")) == {}


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE orders (id int NOT NULL)",
        "CREATE TABLE orders (id int NOT NULL); CREATE INDEX ON orders (id)",
        "CREATE TABLE orders (id int NOT NULL); CREATE UNIQUE INDEX ON orders (id) WHERE id > 0",
        "CREATE TABLE orders (id int NOT NULL, n int, UNIQUE (id, n))",
        "CREATE TABLE orders (id int NOT NULL, UNIQUE (id) DEFERRABLE)",
    ],
)
async def test_a_key_that_nothing_makes_unique(made: str, database: Database, tmp_path: Path) -> None:
    await sql(database, made)
    found = await found_in(database, tmp_path)
    assert {code: finding.help for code, finding in found.items()} == {
        "sink.no_unique_key": 'CREATE UNIQUE INDEX CONCURRENTLY ON "public"."orders" ("id")'
    }
    await sql(database, found["sink.no_unique_key"].help or "")
    assert await found_in(database, tmp_path) == {}


async def test_a_key_that_may_be_null(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE TABLE orders (id int UNIQUE)")
    found = await found_in(database, tmp_path)
    assert {code: (finding.severity, finding.help) for code, finding in found.items()} == {
        "sink.nullable_key": ("warning", 'ALTER TABLE "public"."orders" ALTER COLUMN "id" SET NOT NULL')
    }
    await sql(database, "ALTER TABLE orders DROP CONSTRAINT orders_id_key; ALTER TABLE orders ADD UNIQUE NULLS NOT DISTINCT (id)")
    assert await found_in(database, tmp_path) == {}


async def test_a_role_that_may_do_little(database: Database, tmp_path: Path) -> None:
    await sql(database, f"{ORDERS}; CREATE SCHEMA penstock")
    with role_of(database) as role:
        dsn = dsn_of(database, role)
        found = await found_in(database, tmp_path, dsn, privileges=("INSERT", "UPDATE", "DELETE", "TRUNCATE", "SELECT"))
        assert {code: finding.help for code, finding in found.items()} == {
            "sink.no_grant": f'GRANT INSERT, UPDATE, DELETE, TRUNCATE, SELECT ON TABLE "public"."orders" TO {role}',
            "sink.no_schema": f'GRANT USAGE, CREATE ON SCHEMA "penstock" TO {role}',
        }
        for finding in found.values():
            await sql(database, finding.help or "")
        assert await found_in(database, tmp_path, dsn) == {}
        await sql(database, "DROP SCHEMA penstock")
        found = await found_in(database, tmp_path, dsn)
        assert {code: finding.help for code, finding in found.items()} == {
            "sink.no_schema": f'CREATE SCHEMA "penstock" AUTHORIZATION {role}; or '
            f"GRANT CREATE ON DATABASE {database.name} TO {role}"
        }
        await sql(database, "DROP TABLE orders; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        found = await found_in(database, tmp_path, dsn, create=True, ledger=None)
        assert {code: finding.help for code, finding in found.items()} == {
            "sink.no_grant": f'GRANT USAGE, CREATE ON SCHEMA "public" TO {role}'
        }


async def test_row_security_that_applies_to_the_role(database: Database, tmp_path: Path) -> None:
    await sql(database, f"{ORDERS}; ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    with role_of(database) as role:
        await sql(database, f"GRANT ALL ON TABLE orders TO {role}")
        found = await found_in(database, tmp_path, dsn_of(database, role), ledger=None)
        assert {code: finding.severity for code, finding in found.items()} == {"sink.row_security": "warning"}


async def test_transactions_that_may_not_write(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    with role_of(database) as role:
        await sql(database, f"GRANT ALL ON TABLE orders TO {role}; ALTER ROLE {role} SET default_transaction_read_only = on")
        found = await found_in(database, tmp_path, dsn_of(database, role), ledger=None)
        assert {code: finding.severity for code, finding in found.items()} == {"postgres.read_only": "error"}
        await sql(database, found["postgres.read_only"].help or "")
        assert await found_in(database, tmp_path, dsn_of(database, role), ledger=None) == {}
