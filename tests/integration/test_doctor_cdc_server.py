"""What doctor finds on the server of a postgres_cdc source: settings, room, role, time limits."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import psycopg
import pytest
from cdc_parts import ORDERS, SECONDS, events_of, make_source, prepare_slot, read, sql
from doctor_parts import dsn_of, role_of, sound, wrong
from server_parts import StartPostgres

from connectors.sources._cdc.doctor import replication_connection
from connectors.sources._cdc.wire import Target
from penstock._postgres_checks import encryption
from penstock.clock import SystemClock
from penstock.errors import EnvironmentFault, Permanent, Transient
from penstock.spi import Resume, Signal
from penstock.testing.contracts import make_context
from penstock.testing.servers import Database, PostgresServer


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute(ORDERS)
    return database


async def test_a_pipeline_that_has_not_run_yet_has_nothing_wrong_and_nothing_is_left_behind(
    shop: Database, tmp_path: Path
) -> None:
    found = await make_source(shop, tmp_path, max_slot_lag="10GiB").examine({})
    assert wrong(found) == {}
    told = sound(found)
    assert told["publication.missing"] == "the publication penstock_test is made at the first run"
    assert told["slot.missing"] == f"the slot slot_{shop.name} is made at the first run"
    assert told["source.replica_identity"] == "public.orders: replica identity DEFAULT"
    assert told["postgres.version"].endswith(f"database {shop.name}, user postgres")
    assert await sql(shop, "SELECT count(*) FROM pg_publication") == [(0,)]
    assert await sql(shop, f"SELECT count(*) FROM pg_replication_slots WHERE database = '{shop.name}'") == [(0,)]


async def test_a_pipeline_that_has_run_has_nothing_wrong(shop: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(shop, tmp_path))
    found = await make_source(shop, tmp_path, max_slot_lag="10GiB").examine(known)
    assert wrong(found) == {}
    assert sound(found)["publication"] == ("the publication penstock_test has the tables and delete, insert, truncate, update")


async def test_a_server_that_is_not_there_is_an_error_without_the_password(shop: Database, tmp_path: Path) -> None:
    with pytest.raises(Transient) as caught:
        await make_source(shop, tmp_path, port=1).examine({})
    assert caught.value.code == "postgres.unreachable"
    assert shop.server.password not in caught.value.render()


async def test_a_server_without_logical_wal_or_a_free_slot_or_sender(start_postgres: StartPostgres, tmp_path: Path) -> None:
    settings = {"wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "1"}
    server = await asyncio.to_thread(start_postgres, settings=settings, durable=False)
    shop = await asyncio.to_thread(server.create_database, "shop")
    await sql(shop, ORDERS + "; SELECT pg_create_physical_replication_slot('other')")
    found = wrong(await make_source(shop, tmp_path, max_slot_lag="1GiB").examine({}))
    assert set(found) == {"source.wal_level", "source.replication_slots"}
    assert found["source.wal_level"].help == "ALTER SYSTEM SET wal_level = 'logical', then restart the server"
    assert found["source.replication_slots"].message == "all 1 replication slots of the server are in use"
    assert found["source.replication_slots"].why == "nobody reads these: other"
    assert (found["source.replication_slots"].help or "").startswith("ALTER SYSTEM SET max_replication_slots = 11, then restart")
    await sql(shop, "SELECT pg_drop_replication_slot('other')")
    server.settings["max_wal_senders"] = "0"
    await asyncio.to_thread(server.restart)
    found = wrong(await make_source(shop, tmp_path, max_slot_lag="1GiB").examine({}))
    assert set(found) == {"source.wal_level", "source.wal_senders"}
    assert found["source.wal_senders"].help == "ALTER SYSTEM SET max_wal_senders = 10, then restart"


async def test_limits_of_the_server_that_end_slots_connections_and_commits(start_postgres: StartPostgres, tmp_path: Path) -> None:
    settings = {
        "max_slot_wal_keep_size": "64MB",
        "idle_replication_slot_timeout": "2h",
        "wal_sender_timeout": "15s",
        "synchronous_standby_names": "ANY 1 (*)",
        "synchronous_commit": "local",
        "max_connections": "5",
        "superuser_reserved_connections": "2",
    }
    server = await asyncio.to_thread(start_postgres, settings=settings, durable=False)
    shop = await asyncio.to_thread(server.create_database, "shop")
    await sql(shop, ORDERS + "; CREATE ROLE small LOGIN REPLICATION PASSWORD 'x' CONNECTION LIMIT 1")
    await sql(shop, "GRANT CREATE ON DATABASE shop TO small; ALTER TABLE orders OWNER TO small")
    found = wrong(await make_source(shop, tmp_path, dsn=dsn_of(shop, "small"), max_slot_lag="1GiB").examine({}))
    assert {code: finding.help for code, finding in found.items()} == {
        "slot.wal_limit": "ALTER SYSTEM SET max_slot_wal_keep_size = '2GB'; SELECT pg_reload_conf()",
        "slot.idle_timeout": "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf()",
        "source.wal_sender_timeout": "status_interval: 3750ms; or ALTER ROLE small SET wal_sender_timeout = '40s'",
        "source.synchronous_standby": "ALTER SYSTEM SET synchronous_standby_names = 'NAME OF THE STANDBY, …'; "
        "SELECT pg_reload_conf()",
        "postgres.connections": "ALTER ROLE small CONNECTION LIMIT -1",
    }
    assert found["slot.wal_limit"].message == (
        "the server gives up the slot when it is 64 MiB behind, before max_slot_lag (1 GiB) raises an alarm"
    )
    assert found["slot.idle_timeout"].message == "the server gives up slots that nobody reads for 7,200 s"
    late = wrong(await make_source(shop, tmp_path, max_slot_lag="1GiB", status_interval="15s").examine({}))
    assert late["source.wal_sender_timeout"].severity == "error"


async def test_wal_without_a_limit_needs_an_alarm(shop: Database, tmp_path: Path) -> None:
    found = wrong(await make_source(shop, tmp_path).examine({}))
    assert {code: finding.severity for code, finding in found.items()} == {"slot.wal_unlimited": "warning"}


async def test_a_role_that_may_not_replicate_create_or_read(shop: Database, tmp_path: Path) -> None:
    with role_of(shop) as role:
        source = make_source(shop, tmp_path, dsn=dsn_of(shop, role), max_slot_lag="1GiB")
        found = [finding for finding in await source.examine({}) if finding.severity != "ok"]
        create = 'CREATE PUBLICATION "penstock_test" FOR TABLE "public"."orders" WITH (publish_via_partition_root = true)'
        assert [(finding.code, finding.help) for finding in found] == [
            ("source.no_replication", f"ALTER ROLE {role} REPLICATION"),
            ("source.no_select", f'GRANT SELECT ON TABLE "public"."orders" TO {role}'),
            ("publication.may_not_create", f"GRANT CREATE ON DATABASE {shop.name} TO {role}"),
            ("publication.may_not_create", f"as a superuser or postgres: {create}"),
        ]
        for finding in found:  # what it says mends it
            await sql(shop, (finding.help or "").removeprefix("as a superuser or postgres: "))
        assert wrong(await source.examine({})) == {}


async def test_a_replication_connection_that_does_not_come_about(shop: Database) -> None:
    with role_of(shop) as role:
        (found,) = await replication_connection(Target(dsn_of(shop, role), "penstock:test/doctor", {}))
    assert (found.severity, found.code) == ("error", "source.no_replication_connection")
    assert "permission denied to start WAL sender" in (found.why or found.message)


def test_a_connection_over_a_network_is_encrypted_and_proves_who_answers() -> None:
    assert encryption(True, False, "prefer", "localhost").severity == "ok"
    assert encryption(False, True, "verify-full", "db").severity == "ok"
    clear = encryption(False, False, "prefer", "db")
    assert (clear.severity, clear.message) == ("warning", "the connection to db is not encrypted")
    assert encryption(False, True, "prefer", "db").why == "sslmode is prefer: the next connection may be in clear text"
    assert encryption(False, True, "require", "db").why == "sslmode is require: anybody can pass for the server"


class WrongClock(SystemClock):
    """Three seconds ahead."""

    @staticmethod
    def now() -> float:  # type: ignore[override]  # SystemClock's is an attribute of the class
        return SystemClock.now() + 3


async def test_clocks_that_differ(shop: Database, tmp_path: Path) -> None:
    source = make_source(shop, tmp_path, max_slot_lag="1GiB")
    source.context = make_context(tmp_path, component="source", clock=WrongClock())
    assert wrong(await source.examine({}))["postgres.clock"].message == "the server's clock is 3.0 s behind this machine's"


class StandbyServer(PostgresServer):
    """Its postmaster calls itself `standby`, never `ready`."""

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        if not (self.data / "standby.signal").exists():
            super()._await_ready(process)


async def reachable(server: PostgresServer) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await asyncio.to_thread(server.execute, "SELECT 1")
            except psycopg.OperationalError:
                await asyncio.sleep(0.02)
            else:
                return


@pytest.mark.parametrize(("version", "severity"), [(16, "warning"), (18, "warning")])
async def test_a_standby(version: int, severity: str, postgres_template: Path, tmp_path: Path) -> None:
    with StandbyServer(version, durable=False, template=postgres_template) as server:
        shop = server.create_database("shop")
        await sql(shop, ORDERS)
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        await reachable(server)
        found = wrong(await make_source(shop, tmp_path, max_slot_lag="1GiB").examine({}))
    assert {code: finding.severity for code, finding in found.items()} == {"source.standby": severity}
    assert found["source.standby"].help == (
        "connect to the primary: a dsn with several hosts and target_session_attrs=read-write finds it"
    )


async def test_changes_of_a_standby_are_read_and_no_rows_beside_them(postgres_template: Path, tmp_path: Path) -> None:
    with StandbyServer(18, durable=False, template=postgres_template) as server:
        shop = server.create_database("shop")
        await sql(shop, ORDERS)
        known = await prepare_slot(make_source(shop, tmp_path))
        await sql(shop, "INSERT INTO orders VALUES (1)")
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        await reachable(server)
        assert [event.data["id"] for event in events_of(await read(make_source(shop, tmp_path), known))] == [1]
        with pytest.raises(EnvironmentFault) as caught:
            await read(make_source(shop, tmp_path, snapshot={"mode": "initial"}))
        source = make_source(shop, tmp_path)
        await source.open(Resume(1, known))
        try:
            with pytest.raises(Permanent) as refused:
                await source.signal(Signal(1, "snapshot", ("orders",)))
        finally:
            await source.close()
    assert (caught.value.code, refused.value.code) == ("snapshot.standby", "snapshot.standby")


async def test_a_directory_for_transactions_in_progress_that_cannot_be_made(shop: Database, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    fields = {"spill": {"directory": "taken/spill"}}
    found = wrong(await make_source(shop, tmp_path, max_slot_lag="1GiB", **fields).examine({}))
    assert found["source.spill"].message == f"{tmp_path / 'taken'} is no directory"
    found = wrong(await make_source(shop, tmp_path, max_slot_lag="1GiB", streaming="off", **fields).examine({}))
    assert "source.spill" not in found
    found = wrong(await make_source(shop, tmp_path, max_slot_lag="1GiB").examine({}))
    assert "source.spill" not in found
