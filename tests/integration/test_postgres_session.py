"""The session: what it does when the network or the server goes away, and what errors become."""

from __future__ import annotations

import asyncio
import threading

import psycopg
import pytest
from server_parts import MakeDatabase, MakeProxy, StartPostgres

from penstock.errors import ComponentError, EnvironmentFault, Fatal, Permanent, Transient
from penstock.postgres import Session, classify
from penstock.testing.proxy import Proxy
from penstock.testing.servers import Database


def make_session(dsn: str, **options: object) -> Session:
    return Session(dsn, what="the test's database", application="penstock:test/session", **options)  # type: ignore[arg-type]  # options of each test


async def failure(session: Session, sql: str) -> ComponentError:
    with pytest.raises(ComponentError) as caught:
        await session.run(lambda connection: connection.execute(sql.encode()))
    return caught.value


async def test_calls_run_in_order_in_autocommit_with_settings_and_a_name(database: Database) -> None:
    session = make_session(database.dsn, settings={"TimeZone": "Asia/Tokyo"})
    await session.open()
    sql = b"SELECT current_setting('TimeZone'), current_setting('application_name'), pg_current_xact_id_if_assigned() IS NULL"
    assert await session.run(lambda connection: connection.execute(sql).fetchone()) == (
        "Asia/Tokyo",
        "penstock:test/session",
        True,
    )
    await session.close()
    await session.close()
    with pytest.raises(Fatal):
        await session.run(lambda connection: connection.execute(b"SELECT 1"))


@pytest.mark.parametrize(
    ("sql", "kind", "code"),
    [
        ("INSERT INTO t VALUES (NULL, 1)", Permanent, "postgres.constraint"),
        ("INSERT INTO t VALUES (1, 'x')", Permanent, "postgres.invalid_value"),
        ("SELECT * FROM missing", Fatal, "postgres.failed"),
        ("DO $$BEGIN RAISE SQLSTATE '40001'; END$$", Transient, "postgres.conflict"),
        ("DO $$BEGIN RAISE SQLSTATE '53300'; END$$", Transient, "postgres.unreachable"),
        ("DO $$BEGIN RAISE SQLSTATE '53100'; END$$", Transient, "postgres.no_space"),
        ("DO $$BEGIN RAISE SQLSTATE '42501'; END$$", EnvironmentFault, "postgres.refused"),
    ],
)
async def test_errors_are_classified_by_sqlstate(database: Database, sql: str, kind: type[ComponentError], code: str) -> None:
    session = make_session(database.dsn)
    await session.open()
    await session.run(lambda connection: connection.execute(b"CREATE TABLE t (id int NOT NULL, n int)"))
    error = await failure(session, sql)
    assert (isinstance(error, kind), error.code) == (True, code)
    await session.close()


async def test_a_column_that_the_server_names_is_in_the_message(database: Database) -> None:
    session = make_session(database.dsn)
    await session.open()
    await session.run(lambda connection: connection.execute(b"CREATE TABLE t (id int NOT NULL)"))
    assert "column id" in str(await failure(session, "INSERT INTO t VALUES (NULL)"))
    await session.close()


async def test_refused_connections_name_no_password(database: Database) -> None:
    for dsn in (
        database.server.dsn(database.name, password="hunter2"),
        database.server.dsn("no_such_database"),
        "postgresql://u:hunter2@[broken",
    ):
        with pytest.raises(EnvironmentFault) as caught:
            await make_session(dsn).open()
        assert "hunter2" not in caught.value.render() + repr(caught.value.__cause__) + repr(caught.value.__context__)
        assert caught.value.code in ("postgres.refused", "postgres.invalid_dsn")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("SSL error: unexpected eof while reading", "postgres.unreachable"),
        ("SSL SYSCALL error: Connection reset by peer", "postgres.unreachable"),
        ("SSL error: unexpected eof while reading; FATAL: no pg_hba.conf entry, no encryption", "postgres.unreachable"),
        ("SSL error: certificate verify failed", "postgres.refused"),
        ("server does not support SSL, but SSL was required", "postgres.refused"),
    ],
)
def test_a_handshake_that_is_cut_is_no_refusal(said: str, code: str) -> None:
    error = classify(psycopg.OperationalError(f"connection failed: {said}"), "the test's database")
    assert (error.code, isinstance(error, Transient)) == (code, code == "postgres.unreachable")


async def test_a_server_that_is_not_there_is_transient() -> None:
    with pytest.raises(Transient, match="cannot be reached"):
        await make_session("postgresql://u@127.0.0.1:1/x").open()


async def test_a_cut_connection_is_transient_until_it_is_reopened(database: Database, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(database.server.port)
    session = make_session(database.dsn_through(proxy.port))
    await session.open()
    proxy.cut()
    for _ in range(2):
        error = await failure(session, "SELECT 1")
        assert (type(error), error.code, session.is_open) == (Transient, "postgres.connection_lost", False)
    await session.reopen()
    assert await session.run(lambda connection: connection.execute(b"SELECT 1").fetchone()) == (1,)
    await session.close()


async def test_a_connection_that_an_error_left_in_the_middle_of_a_pipeline_is_given_up(database: Database) -> None:
    """As a server leaves it that ends a session among many statements: libpq would refuse every further one, for ever."""
    session = make_session(database.dsn)
    await session.open()

    def work(connection: psycopg.Connection[object]) -> None:
        connection.pgconn.enter_pipeline_mode()
        connection.pgconn.send_query_params(b"SELECT 1", None)
        connection.pgconn.pipeline_sync()
        raise psycopg.errors.AdminShutdown("terminating connection due to administrator command")

    with pytest.raises(Transient) as caught:
        await session.run(work)
    assert (caught.value.code, session.is_open) == ("postgres.connection_lost", False)
    await session.reopen()
    assert await session.run(lambda connection: connection.execute(b"SELECT 1").fetchone()) == (1,)
    await session.close()


async def test_a_connection_that_sends_nothing_any_more_is_given_up(database: Database) -> None:
    session = make_session(database.dsn)
    await session.open()

    def work(connection: psycopg.Connection[object]) -> None:
        connection.pgconn.send_query(b"SELECT 1")  # whose answer nobody takes
        connection.execute(b"SELECT 2")

    with pytest.raises(Transient) as caught:
        await session.run(work)
    assert (caught.value.code, session.is_open) == ("postgres.connection_lost", False)
    await session.close()


async def test_a_stalled_call_ends_at_its_deadline(database: Database, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(database.server.port)
    session = make_session(database.dsn_through(proxy.port), deadline=0.3)
    await session.open()
    proxy.stall()
    error = await failure(session, "SELECT 1")
    assert (type(error), error.code) == (Transient, "postgres.timeout")
    proxy.forward()
    await session.reopen()
    assert await session.run(lambda connection: connection.execute(b"SELECT 1").fetchone()) == (1,)
    await session.close()


async def test_a_deadline_counts_from_the_start_of_a_call_and_not_while_others_go_before_it(database: Database) -> None:
    session = make_session(database.dsn, deadline=1.0)
    await session.open()
    calls = [session.run(lambda connection: connection.execute(b"SELECT pg_sleep(0.6)").fetchall()) for _ in range(2)]
    assert await asyncio.gather(*calls) == [[("",)]] * 2
    assert session.is_open
    await session.close()


async def test_work_that_makes_progress_may_take_longer_than_its_deadline(database: Database) -> None:
    session = make_session(database.dsn, deadline=1.0)
    await session.open()

    def work(connection: psycopg.Connection[object]) -> int:
        for _ in range(3):
            connection.execute(b"SELECT pg_sleep(0.5)")
            session.progress()
        return connection.info.backend_pid

    assert await session.run(work)
    assert session.is_open
    await session.close()


async def test_a_call_whose_caller_was_cancelled_keeps_its_deadline(database: Database, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(database.server.port)
    session = make_session(database.dsn_through(proxy.port), deadline=0.5)
    await session.open()
    proxy.stall()
    begun = threading.Event()

    def work(connection: psycopg.Connection[object]) -> None:
        begun.set()
        connection.execute(b"SELECT 1")

    call = asyncio.ensure_future(session.run(work))
    await asyncio.to_thread(begun.wait)
    call.cancel()
    async with asyncio.timeout(5):
        assert (await failure(session, "SELECT 2")).code == "postgres.connection_lost"
    await session.close()


async def test_connecting_anew_has_the_deadline_too(database: Database, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(database.server.port)
    session = make_session(database.dsn_through(proxy.port), deadline=0.5, settings={"TimeZone": "UTC"})
    await session.open()
    proxy.stall()
    async with asyncio.timeout(5):
        with pytest.raises(Transient):
            await session.reopen()
    proxy.drip(700)  # greeted, and then hardly a byte
    async with asyncio.timeout(10):
        with pytest.raises(Transient):
            await session.reopen()
    proxy.forward()
    await session.reopen()
    await session.close()


async def test_every_connection_begins_with_the_settings_and_the_first_statements(
    database: Database, make_proxy: MakeProxy
) -> None:
    proxy = make_proxy(database.server.port)
    session = make_session(database.dsn_through(proxy.port), settings={"lock_timeout": "7s"}, first=["SET work_mem = '3MB'"])
    shown = b"SELECT current_setting('lock_timeout'), current_setting('work_mem')"
    await session.open()
    assert await session.run(lambda connection: connection.execute(shown).fetchone()) == ("7s", "3MB")
    proxy.cut()
    await failure(session, "SELECT 1")
    await session.reopen()
    assert await session.run(lambda connection: connection.execute(shown).fetchone()) == ("7s", "3MB")
    await session.close()


async def test_closing_ends_a_call_whose_caller_was_cancelled(database: Database) -> None:
    session = make_session(database.dsn)
    await session.open()
    call = asyncio.ensure_future(session.run(lambda connection: connection.execute(b"SELECT pg_sleep(60)")))
    await asyncio.to_thread(_until_sleeping, database)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    async with asyncio.timeout(5):
        await session.close()


def _until_sleeping(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        sql = b"SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
        while connection.execute(sql).fetchone() == (0,):
            pass


async def until_nobody_is_there(database: Database) -> None:
    """Until no connection of a session is open at the server."""
    sql = b"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'penstock:test/session'"
    async with asyncio.timeout(10):
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            while await (await connection.execute(sql)).fetchone() != (0,):
                await asyncio.sleep(0.02)


async def test_opening_whose_caller_was_cancelled_leaves_no_connection(database: Database, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(database.server.port)
    session = make_session(database.dsn_through(proxy.port))
    proxy.stall()
    opening = asyncio.ensure_future(session.open())
    await asyncio.to_thread(_until_connected, proxy)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    proxy.forward()
    await session.close()
    assert not session.is_open
    await until_nobody_is_there(database)

    await session.open()
    assert await session.run(lambda connection: connection.execute(b"SELECT 1").fetchone()) == (1,)
    await session.close()


def _until_connected(proxy: Proxy) -> None:
    while not proxy.connections:
        pass


async def test_closing_whose_caller_was_cancelled_closes_the_connection(database: Database) -> None:
    session = make_session(database.dsn)
    await session.open()
    begun, go_on = threading.Event(), threading.Event()

    def work(connection: psycopg.Connection[object]) -> psycopg.Connection[object]:
        begun.set()
        go_on.wait()
        return connection

    call = asyncio.ensure_future(session.run(work))
    await asyncio.to_thread(begun.wait)
    closing = asyncio.ensure_future(session.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    go_on.set()
    connection = await call
    async with asyncio.timeout(10):
        while not connection.closed:
            await asyncio.sleep(0.02)


async def test_a_restarted_server_is_found_again_by_reopen(start_postgres: StartPostgres, make_database: MakeDatabase) -> None:
    database = make_database(start_postgres(durable=False))
    session = make_session(database.dsn)
    await session.open()
    await asyncio.to_thread(database.server.restart)
    assert (await failure(session, "SELECT 1")).code in ("postgres.connection_lost", "postgres.unreachable")
    await session.reopen()
    assert await session.run(lambda connection: connection.execute(b"SELECT 1").fetchone()) == (1,)
    await session.close()
