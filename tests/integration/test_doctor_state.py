"""What doctor finds where the state of a pipeline is kept, and on the machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

from doctor_parts import dsn_of, role_of, sound, wrong

from penstock.clock import SystemClock
from penstock.config.secret import Secret
from penstock.faults import Faults
from penstock.places import look_at_file, look_at_room
from penstock.state.examine import examine_directory, examine_server, examine_store
from penstock.state.open import open_store
from penstock.testing.servers import Database


async def sql(database: Database, text: str) -> None:
    await asyncio.to_thread(database.execute, text)


async def test_a_database_that_can_hold_the_state_and_is_left_as_it_was(database: Database) -> None:
    found = await examine_server(Secret(database.dsn), "shop", SystemClock())
    assert wrong(found) == {}
    assert sound(found)["state.schema"] == 'the schema "penstock_shop" can be made'
    store = open_store(Path("/nowhere"), "shop", SystemClock(), Faults(), Secret(database.dsn))
    told, note = await examine_store(store, "shop")
    assert (wrong(told), note) == ({}, None)
    rows = await asyncio.to_thread(database.execute, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'penstock%'")
    assert rows == [(0,)]


async def test_a_role_that_may_not_keep_state(database: Database) -> None:
    with role_of(database) as role:
        server = Secret(dsn_of(database, role))
        found = wrong(await examine_server(server, "shop", SystemClock()))
        assert {code: finding.help for code, finding in found.items()} == {
            "state.no_grant": f'CREATE SCHEMA "penstock_shop" AUTHORIZATION {role}; or '
            f"GRANT CREATE ON DATABASE {database.name} TO {role}"
        }
        await sql(database, 'CREATE SCHEMA "penstock_shop"')
        found = wrong(await examine_server(server, "shop", SystemClock()))
        help = found["state.no_grant"].help or ""
        assert help == f'GRANT USAGE, CREATE ON SCHEMA "penstock_shop" TO {role}'
        await sql(database, help)
        await sql(database, f"ALTER ROLE {role} SET default_transaction_read_only = on")
        found = wrong(await examine_server(server, "shop", SystemClock()))
        assert set(found) == {"postgres.read_only"}
        await sql(database, found["postgres.read_only"].help or "")
        assert wrong(await examine_server(server, "shop", SystemClock())) == {}


async def test_a_pipeline_that_is_paused(tmp_path: Path) -> None:
    store = open_store(tmp_path, "shop", SystemClock(), Faults())
    await store.open()
    await store.signals.pause("ada", "the table is rebuilt")
    await store.close()
    told, note = await examine_store(open_store(tmp_path, "shop", SystemClock(), Faults()), "shop")
    assert note is not None
    assert {code: (finding.why, finding.help) for code, finding in wrong(told).items()} == {
        "state.paused": ("the table is rebuilt", "pipe resume shop")
    }


async def test_a_store_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "shop.db").write_bytes(b"this is no database" * 100)
    told, note = await examine_store(open_store(tmp_path, "shop", SystemClock(), Faults()), "shop")
    assert (set(wrong(told)), note) == ({"state.damaged"}, None)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert look_at_file(tmp_path, "x", "the file").message == f"the file {tmp_path} is a directory"
    below = look_at_file(tmp_path / "file" / "a" / "b.db", "x", "the file")
    assert (below.severity, below.message) == (
        "error",
        f"the file {tmp_path}/file/a/b.db cannot be made: {tmp_path}/file is no directory",
    )
    assert look_at_file(tmp_path / "a" / "b.db", "x", "the file").message == f"the file {tmp_path}/a/b.db can be made"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    assert look_at_room(tmp_path / "a" / "b", "x", least=1 << 60).severity == "warning"
    assert [finding.code for finding in examine_directory(tmp_path, "shop")] == ["state.place", "state.room"]
