"""What doctor finds about the table of a postgres sink and the schema of its ledger; and that what it says mends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest
from doctor_parts import dsn_of, role_of, wrong

from connectors.sinks.postgres import PostgresSink, PostgresSinkConfig
from penstock.spi import Finding
from penstock.testing.contracts import make_context
from penstock.testing.servers import Database
from transforms.expressions import compiler

ORDERS = "CREATE TABLE orders (id int NOT NULL, total numeric, PRIMARY KEY (id))"


async def told_in(database: Database, directory: Path, dsn: str | None = None, **fields: Any) -> list[Finding]:
    config = PostgresSinkConfig.model_validate({"dsn": dsn or database.dsn, "table": "orders", "key": ["id"], **fields})
    found = await PostgresSink(config, make_context(directory, expressions=compiler())).examine({})
    return [finding for finding in found if finding.severity != "ok"]


async def found_in(database: Database, directory: Path, dsn: str | None = None, **fields: Any) -> dict[str, Finding]:
    return wrong(await told_in(database, directory, dsn, **fields))


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
    assert (await found_in(database, tmp_path))["sink.missing_table"].message.startswith("public.orders is no table")


async def test_columns_that_are_missing_required_or_generated(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        "CREATE TABLE orders (id int PRIMARY KEY, total int NOT NULL, twice int GENERATED ALWAYS AS (total * 2) STORED,"
        "note text NOT NULL DEFAULT '', number int NOT NULL GENERATED ALWAYS AS IDENTITY)",
    )
    found = await found_in(database, tmp_path, columns={"id": ".id", "amount": ".amount"})
    assert {code: (finding.severity, finding.message) for code, finding in found.items()} == {
        "sink.unknown_column": (
            "error",
            "table public.orders has no column amount to write to",
        ),
        "sink.required_column": ("warning", "total of public.orders must have a value, and none is written"),
    }
    appended = await found_in(database, tmp_path, columns={"id": ".id"}, key=None)
    assert {code: (finding.severity, finding.why) for code, finding in appended.items()} == {
        "sink.required_column": ("error", "every row would become a dead letter")
    }
    generated = await found_in(database, tmp_path, columns={"id": ".id", "total": ".total", "twice": ".twice"})
    assert {code: finding.message for code, finding in generated.items()} == {
        "sink.generated_column": "table public.orders computes twice itself"
    }
    assert await found_in(database, tmp_path, columns={"id": ".id", "total": ".total"}) == {}


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE orders (id int NOT NULL)",
        "CREATE TABLE orders (id int NOT NULL); CREATE UNIQUE INDEX ON orders (id) WHERE id > 0",
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


@pytest.mark.parametrize("constraint", ["UNIQUE", "PRIMARY KEY"])
async def test_a_key_that_is_checked_too_late(constraint: str, database: Database, tmp_path: Path) -> None:
    await sql(database, f"CREATE TABLE orders (id int NOT NULL, {constraint} (id) DEFERRABLE)")
    found = await found_in(database, tmp_path)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):  # the finding is true
        await sql(database, "INSERT INTO orders VALUES (1) ON CONFLICT (id) DO NOTHING")
    assert {code: finding.severity for code, finding in found.items()} == {"sink.no_unique_key": "error"}
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
        programs = {"delete": '$event.type == "gone"', "truncate": '$event.type == "none"'}
        found = await told_in(database, tmp_path, dsn, **programs)
        assert [(finding.code, finding.severity, finding.help) for finding in found] == [
            (
                "sink.no_grant",
                "error",
                f'GRANT INSERT, SELECT, UPDATE, DELETE, TRUNCATE ON TABLE "public"."orders" TO "{role}"',
            ),
            ("sink.no_grant", "error", f'GRANT USAGE, CREATE ON SCHEMA "penstock" TO {role}'),
        ]
        for finding in found:
            await sql(database, finding.help or "")
        assert await found_in(database, tmp_path, dsn, **programs) == {}
        await sql(database, "DROP SCHEMA penstock")
        found = await told_in(database, tmp_path, dsn)
        assert [finding.help for finding in found] == [
            f'CREATE SCHEMA "penstock" AUTHORIZATION {role}; or GRANT CREATE ON DATABASE {database.name} TO {role}'
        ]
        await sql(database, (found[0].help or "").partition("; or ")[0])
        await sql(database, "DROP TABLE orders; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        found = await told_in(database, tmp_path, dsn, create=True)
        assert [finding.help for finding in found] == [f'GRANT USAGE, CREATE ON SCHEMA "public" TO {role}']


async def test_a_ledger_of_another_role(database: Database, tmp_path: Path) -> None:
    await sql(database, f"{ORDERS}; CREATE SCHEMA penstock; CREATE TABLE penstock.penstock_meta (name text)")
    with role_of(database) as role:
        await sql(database, f"GRANT ALL ON TABLE orders TO {role}; GRANT ALL ON SCHEMA penstock TO {role}")
        found = await told_in(database, tmp_path, dsn_of(database, role))
        assert [(finding.severity, finding.help) for finding in found] == [("error", f"GRANT postgres TO {role}")]
        await sql(database, f"GRANT ALL ON TABLE penstock.penstock_meta TO {role}")
        (warning,) = await told_in(database, tmp_path, dsn_of(database, role))
        assert (warning.severity, warning.message) == ("warning", 'tables of the schema "penstock" belong to postgres')


async def test_row_security_that_applies_to_the_role(database: Database, tmp_path: Path) -> None:
    await sql(database, f"{ORDERS}; ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    with role_of(database) as role:
        await sql(database, f"GRANT ALL ON TABLE orders TO {role}; GRANT CREATE ON DATABASE {database.name} TO {role}")
        found = await found_in(database, tmp_path, dsn_of(database, role))
        assert {code: finding.severity for code, finding in found.items()} == {"sink.row_security": "warning"}


async def test_transactions_that_may_not_write(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    with role_of(database) as role:
        await sql(database, f"GRANT ALL ON TABLE orders TO {role}; ALTER ROLE {role} SET default_transaction_read_only = on")
        await sql(database, f"GRANT CREATE ON DATABASE {database.name} TO {role}")
        found = await found_in(database, tmp_path, dsn_of(database, role))
        assert {code: finding.severity for code, finding in found.items()} == {"postgres.read_only": "error"}
        await sql(database, found["postgres.read_only"].help or "")
        assert await found_in(database, tmp_path, dsn_of(database, role)) == {}


async def test_a_sequence_that_is_nearly_exhausted(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        "CREATE TABLE orders (id int PRIMARY KEY, n smallint GENERATED ALWAYS AS IDENTITY, m serial, total int);"
        "SELECT setval('orders_n_seq', 32000), setval('orders_m_seq', 32000)",
    )
    found = await found_in(database, tmp_path, columns={"id": ".id", "total": ".total"})
    assert {code: finding.message for code, finding in found.items()} == {
        "sink.sequence_exhausted": "the sequence orders_n_seq of n in public.orders has given 32000 of 32767 numbers"
    }
    await sql(database, found["sink.sequence_exhausted"].help or "")
    assert await found_in(database, tmp_path, columns={"id": ".id", "total": ".total"}) == {}


async def test_what_orders_the_rows_is_there_and_of_a_type_that_can(database: Database, tmp_path: Path) -> None:
    await sql(database, ORDERS)
    assert await found_in(database, tmp_path, order_by="total") == {}
    found = await found_in(database, tmp_path, order_by="$event.time")
    assert {code: finding.help for code, finding in found.items()} == {
        "sink.unknown_column": 'ALTER TABLE "public"."orders" ADD COLUMN penstock_order timestamptz (for times; numeric for '
        "numbers, text for text); or order_by: COLUMN"
    }
    await sql(database, "ALTER TABLE orders ADD COLUMN penstock_order jsonb")
    assert list(await found_in(database, tmp_path, order_by="$event.time")) == ["sink.order_type"]
