"""What doctor finds about the tables of a postgres_cdc source and its publication; and that what it says mends it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from cdc_parts import ORDERS, sql
from doctor_cdc_parts import found_in
from doctor_cdc_parts import shop as shop
from doctor_parts import dsn_of, role_of
from server_parts import StartPostgres

from penstock.testing.servers import Database


async def test_what_is_no_table_whose_changes_are_logged(shop: Database, tmp_path: Path) -> None:
    await sql(
        shop,
        "CREATE VIEW seen AS SELECT * FROM orders; CREATE UNLOGGED TABLE fast (id int PRIMARY KEY);"
        "CREATE TABLE days (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "CREATE TABLE days_2026 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    )
    tables = ["orders", "missing", "fast", "days_2026"]
    found = await found_in(shop, tmp_path, tables=tables)
    assert {code: (finding.severity, finding.message, finding.help) for code, finding in found.items()} == {
        "source.no_table": ("error", "there is no table public.missing", "correct `tables`, or CREATE TABLE …"),
        "source.unlogged_table": (
            "error",
            "public.fast is UNLOGGED: its changes are not in the WAL",
            'ALTER TABLE "public"."fast" SET LOGGED',
        ),
        "source.partition": ("error", "public.days_2026 is a partition of public.days", "tables: [public.days]"),
    }
    assert (await found_in(shop, tmp_path, tables=["seen"]))["source.no_table"].message == (
        "public.seen is a view, whose changes are not logged"
    )
    await sql(shop, found["source.unlogged_table"].help or "")
    assert await found_in(shop, tmp_path, tables=["orders", "fast", "days"]) == {}


async def test_schemas_that_are_not_there_and_all_tables_of_one_that_is(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "CREATE SCHEMA stock; CREATE TABLE stock.a (id int PRIMARY KEY); CREATE TABLE stock.b (id int)")
    found = await found_in(shop, tmp_path, tables=[], schemas=["stock", "nowhere"])
    assert {code: finding.message for code, finding in found.items()} == {
        "source.no_schema": "there is no schema nowhere",
        "source.no_primary_key": "stock.b has no primary key",
    }


@pytest.mark.parametrize(
    ("made", "code", "help"),
    [
        ("", "source.no_primary_key", 'ALTER TABLE "public"."t" ADD PRIMARY KEY (…); or {full}'),
        ("ALTER TABLE t ADD PRIMARY KEY (id) DEFERRABLE", "source.no_primary_key", "{full}"),
        ("ALTER TABLE t REPLICA IDENTITY NOTHING", "source.replica_identity_nothing", "{full}"),
        (
            "ALTER TABLE t ADD PRIMARY KEY (id); ALTER TABLE t REPLICA IDENTITY NOTHING",
            "source.replica_identity_nothing",
            'ALTER TABLE "public"."t" REPLICA IDENTITY DEFAULT',
        ),
        (
            "CREATE UNIQUE INDEX t_id ON t (id); ALTER TABLE t REPLICA IDENTITY USING INDEX t_id; DROP INDEX t_id",
            "source.replica_identity_index",
            'ALTER TABLE "public"."t" REPLICA IDENTITY USING INDEX …; or {full}',
        ),
    ],
)
async def test_rows_that_nothing_names_cannot_be_updated_once_they_are_published(
    made: str, code: str, help: str, database: Database, tmp_path: Path
) -> None:
    await sql(database, f"CREATE TABLE t (id int NOT NULL, n int); INSERT INTO t VALUES (1, 1); {made}")
    found = await found_in(database, tmp_path, tables=["t"])
    full = 'ALTER TABLE "public"."t" REPLICA IDENTITY FULL'
    assert {code: (finding.severity, finding.help) for code, finding in found.items()} == {
        code: ("error", help.format(full=full))
    }
    await sql(database, "CREATE PUBLICATION p FOR TABLE t")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):  # the finding is true
        await sql(database, "UPDATE t SET n = 2")
    await sql(database, (found[code].help or "").split("; or ")[-1])
    await sql(database, "UPDATE t SET n = 2")
    assert set(await found_in(database, tmp_path, tables=["t"])) <= {"source.no_key"}


async def test_partitions_have_identities_of_their_own(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        "CREATE TABLE days (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "CREATE TABLE days_2026 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');"
        "ALTER TABLE days REPLICA IDENTITY FULL",
    )
    found = await found_in(database, tmp_path, tables=["days"], include_before=True)
    assert {code: finding.help for code, finding in found.items()} == {
        "source.no_before": 'ALTER TABLE "public"."days_2026" REPLICA IDENTITY FULL'
    }


@pytest.mark.parametrize(
    ("where", "wrong_codes"),
    [
        (".before.status != .after.status", {"source.no_before"}),
        ("(.after // .before).id > 1", set()),
        ('.after.status == "paid"', set()),
    ],
)
async def test_programs_that_look_at_the_row_as_it_was(where: str, wrong_codes: set[str], shop: Database, tmp_path: Path) -> None:
    assert set(await found_in(shop, tmp_path, where=where)) == wrong_codes
    await sql(shop, "ALTER TABLE orders REPLICA IDENTITY FULL")
    assert await found_in(shop, tmp_path, where=where) == {}


async def test_large_values_that_updates_leave_out(shop: Database, tmp_path: Path) -> None:
    assert await found_in(shop, tmp_path) == {}
    await sql(shop, "INSERT INTO orders SELECT 1, 'new', string_agg(md5(n::text), '') FROM generate_series(1, 2000) AS n")
    (finding,) = (await found_in(shop, tmp_path)).values()
    assert (finding.code, finding.severity) == ("source.unchanged_values", "warning")
    assert finding.message.endswith("bytes of large values apart (status, body)")
    assert await found_in(shop, tmp_path, toast="placeholder") == {}
    assert await found_in(shop, tmp_path, exclude_columns=["status", "body"]) == {}
    await sql(shop, 'ALTER TABLE "public"."orders" REPLICA IDENTITY FULL')
    assert await found_in(shop, tmp_path) == {}


async def test_a_table_with_full_identity_and_no_key(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE TABLE t (id int); ALTER TABLE t REPLICA IDENTITY FULL")
    found = await found_in(database, tmp_path, tables=["t"])
    assert {code: finding.severity for code, finding in found.items()} == {"source.no_key": "warning"}


async def test_a_publication_that_lacks_tables_and_operations(shop: Database, tmp_path: Path) -> None:
    await sql(
        shop,
        "CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION penstock_test FOR TABLE items WITH (publish = 'insert')",
    )
    found = await found_in(shop, tmp_path, tables=["orders", "items"])
    assert {code: (finding.message, finding.help) for code, finding in found.items()} == {
        "publication.tables": (
            "the publication penstock_test lacks public.orders",
            'ALTER PUBLICATION "penstock_test" ADD TABLE "public"."orders"',
        ),
        "publication.operations": (
            "the publication penstock_test does not publish update, delete, truncate",
            "ALTER PUBLICATION \"penstock_test\" SET (publish = 'insert, update, delete, truncate'), or fewer `operations`",
        ),
    }
    for finding in found.values():
        await sql(shop, (finding.help or "").split(", or")[0])
    assert await found_in(shop, tmp_path, tables=["orders", "items"]) == {}


async def test_a_publication_that_is_missing_and_may_not_be_made(shop: Database, tmp_path: Path) -> None:
    never = {"name": "shop", "create": "never"}
    found = await found_in(shop, tmp_path, publication=never)
    assert {code: finding.help for code, finding in found.items()} == {
        "publication.missing": 'CREATE PUBLICATION "shop" FOR TABLE "public"."orders" WITH (publish_via_partition_root = true)'
    }
    await sql(shop, found["publication.missing"].help or "")
    assert await found_in(shop, tmp_path, publication=never) == {}
    await sql(shop, "DROP PUBLICATION shop")
    await sql(shop, f"SELECT pg_create_logical_replication_slot('slot_{shop.name}', 'pgoutput')")
    assert (await found_in(shop, tmp_path))["publication.missing"].why == (
        "the slot exists already: its earlier changes cannot be read with a publication made now"
    )


async def test_partitions_that_are_published_under_their_own_names(database: Database, tmp_path: Path) -> None:
    await sql(
        database,
        "CREATE TABLE days (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "CREATE TABLE days_2026 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');"
        "CREATE PUBLICATION penstock_test FOR TABLE days",
    )
    found = await found_in(database, tmp_path, tables=["days"])
    assert {code: finding.help for code, finding in found.items()} == {
        "publication.partition_root": 'ALTER PUBLICATION "penstock_test" SET (publish_via_partition_root = true)'
    }
    await sql(database, found["publication.partition_root"].help or "")
    assert await found_in(database, tmp_path, tables=["days"]) == {}


@pytest.mark.parametrize("identity", ["FULL", "DEFAULT"])
async def test_a_list_of_columns_that_makes_updates_fail(identity: str, shop: Database, tmp_path: Path) -> None:
    columns = "(id, status)" if identity == "FULL" else "(status)"
    await sql(
        shop,
        f"INSERT INTO orders VALUES (1); ALTER TABLE orders REPLICA IDENTITY {identity};"
        f"CREATE PUBLICATION penstock_test FOR TABLE orders {columns}",
    )
    found = await found_in(shop, tmp_path)
    assert {code: finding.severity for code, finding in found.items()} == {"publication.columns": "error"}
    with pytest.raises(psycopg.errors.Error, match="cannot update"):  # the finding is true
        await sql(shop, "UPDATE orders SET status = 'paid'")
    await sql(shop, (found["publication.columns"].help or "").partition("; and ")[0])
    await sql(shop, "UPDATE orders SET status = 'paid'")
    assert await found_in(shop, tmp_path) == {}


async def test_a_publication_that_leaves_out_columns_and_rows(shop: Database, tmp_path: Path) -> None:
    await sql(shop, "CREATE PUBLICATION penstock_test FOR TABLE orders (id, status) WHERE (id > 7)")
    found = await found_in(shop, tmp_path)
    assert {code: (finding.severity, finding.message) for code, finding in found.items()} == {
        "publication.columns": (
            "warning",
            "the publication penstock_test leaves out columns of public.orders: it has id, status only",
        ),
        "publication.row_filter": (
            "warning",
            "the publication penstock_test leaves out rows of public.orders: only those WHERE (id > 7)",
        ),
    }


async def test_a_publication_made_after_its_slot(start_postgres: StartPostgres, tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_postgres, durable=False)
    shop = await asyncio.to_thread(server.create_database, "shop")
    await sql(shop, ORDERS)
    await sql(shop, "CREATE PUBLICATION penstock_test FOR TABLE orders")
    await sql(shop, "SELECT pg_create_logical_replication_slot('slot_shop', 'pgoutput')")
    assert await found_in(shop, tmp_path) == {}
    await sql(shop, "DROP PUBLICATION penstock_test")
    await sql(shop, "CREATE PUBLICATION penstock_test FOR TABLE orders")
    found = await found_in(shop, tmp_path)
    assert {code: finding.severity for code, finding in found.items()} == {"publication.after_slot": "warning"}
    assert (found["publication.after_slot"].help or "").startswith(
        "where reading fails: SELECT pg_drop_replication_slot('slot_shop'); then pipe checkpoint reset test --all"
    )


async def test_names_with_quotes_are_written_as_sql_needs_them(database: Database, tmp_path: Path) -> None:
    await sql(database, 'CREATE SCHEMA "Odd"; CREATE TABLE "Odd"."T ""x""" (id int)')
    with role_of(database, "REPLICATION") as role:
        await sql(database, f"GRANT CREATE ON DATABASE {database.name} TO {role}")
        found = await found_in(database, tmp_path, tables=['"Odd"."T ""x"""'], dsn=dsn_of(database, role))
        assert found["source.no_select"].help == (
            f'GRANT USAGE ON SCHEMA "Odd" TO {role}; GRANT SELECT ON TABLE "Odd"."T ""x""" TO {role}'
        )
        await sql(database, found["source.no_select"].help or "")
        await sql(database, (found["source.no_primary_key"].help or "").split("; or ")[-1])
        assert set(await found_in(database, tmp_path, tables=['"Odd"."T ""x"""'], dsn=dsn_of(database, role))) == {
            "source.no_key",
            "publication.may_not_create",
        }


async def test_columns_that_no_table_has(shop: Database, tmp_path: Path) -> None:
    found = await found_in(shop, tmp_path, exclude_columns=["bodi"])
    assert {code: finding.message for code, finding in found.items()} == {
        "source.no_column": "no table that is read has the column bodi (exclude_columns)"
    }


async def test_values_that_are_read_again_need_select(shop: Database, tmp_path: Path) -> None:
    with role_of(shop, "REPLICATION") as role:
        await sql(shop, f"CREATE PUBLICATION penstock_test FOR TABLE orders; GRANT USAGE ON SCHEMA public TO {role}")
        for toast, mode, severity in (
            ("fail", "never", "warning"),
            ("reselect", "never", "error"),
            ("fail", "initial", "error"),
            ("fail", "when_needed", "error"),
        ):
            found = await found_in(shop, tmp_path, toast=toast, snapshot={"mode": mode}, dsn=dsn_of(shop, role))
            assert {code: finding.severity for code, finding in found.items()} == {"source.no_select": severity}
