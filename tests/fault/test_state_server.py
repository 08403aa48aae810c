"""What a server that holds the state can do to a run: cut it at any COMMIT, throw it out, restart, be away, be full. Each time
the run goes on by itself, and everything arrives once."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from server_parts import MakeDatabase, MakeProxy, StartPostgres
from standby_parts import SCHEMA, SINKS, MakeWorld, finish, incidents
from waiting import until

from penstock import postgres
from penstock.testing.proxy import Proxy, Trap

ENVIRONMENT = 3
CUTS: dict[str, Callable[[Proxy, int], Trap]] = {
    "the answer": lambda proxy, nth: proxy.cut_after(b"COMMIT", b"COMMIT", nth=nth),
    "the request": lambda proxy, nth: proxy.cut_before(b"COMMIT", nth=nth),
}
MOST_COMMITS = 60
FULL = f"""
CREATE SEQUENCE {SCHEMA}.tries;
CREATE FUNCTION {SCHEMA}.no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM nextval('{SCHEMA}.tries');
    RAISE SQLSTATE '53100' USING MESSAGE = 'could not extend file: No space left on device';
END $$;
CREATE TRIGGER no_space BEFORE INSERT OR UPDATE ON {SCHEMA}.note FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.no_space()
"""
"""A disk that is full for the note, and counts how often it was asked."""


@pytest.fixture
def commits_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some repetitions psycopg prepares a statement, and sends its name."""
    monkeypatch.setitem(postgres._KEEPALIVE, "prepare_threshold", None)  # type: ignore[arg-type]  # a dict after all


@pytest.mark.usefixtures("commits_as_text")
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("sink", SINKS)
async def test_a_run_that_is_cut_at_any_commit_from_its_claim_to_its_end_delivers_once(
    sink: str, cut: str, make_world: MakeWorld, make_proxy: MakeProxy, make_database: MakeDatabase
) -> None:
    for nth in range(1, MOST_COMMITS):
        database = make_database()
        proxy = make_proxy(database.server.port)
        ports = (proxy.port, proxy.port)
        world = make_world(
            sink, database, lines=30, ports=ports, all_through=True, limits={"in_flight_events": 6}, batching={"count": 6}
        )
        world.feed()
        trap = CUTS[cut](proxy, nth)
        await world.machines[0].run_once()
        world.judge()
        assert world.ask(f"SELECT max(attempts) FROM {SCHEMA}.letters") == 1
        if not trap.struck:
            break
        assert nth < MOST_COMMITS - 1
    print(f"{sink}: {nth - 1} commits")
    assert nth > 8


@pytest.mark.parametrize("sink", SINKS)
def test_a_run_whose_sessions_are_ended_again_and_again_delivers_once(sink: str, make_world: MakeWorld) -> None:
    world = make_world(sink, lines=1500)
    run = world.machines[0].run()
    until(lambda: world.leader() == run.pid, run)
    world.feed()
    ended = 0
    with psycopg.connect(world.database.dsn, autocommit=True) as connection:
        while world.received() < world.fed:
            assert run.poll() is None, finish(run)
            sql = b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'penstock:%'"
            ended += len(connection.execute(sql).fetchall())
            seen = world.received()
            until(lambda: world.received() != seen or seen == world.fed, run)  # noqa: B023 - waited for in this turn
    assert ended > 10
    status, said = finish(run, terminate=True)
    assert status == 0, said
    world.judge()


@pytest.mark.parametrize("sink", SINKS)
def test_a_run_whose_server_restarts_and_crashes_under_it_delivers_once(
    sink: str, make_world: MakeWorld, start_postgres: StartPostgres, make_database: MakeDatabase
) -> None:
    server = start_postgres()
    world = make_world(sink, make_database(server), lines=900)
    run = world.machines[0].run()
    until(lambda: world.leader() == run.pid, run)
    for act in (server.restart, lambda: server.restart("immediate"), lambda: (server.kill(), server.start())):
        world.feed(100)
        until(lambda: world.received() > 0, run)
        act()
    world.feed_and_wait(run)
    status, said = finish(run, terminate=True)
    assert status == 0, said
    world.judge()


def test_a_run_whose_server_is_away_at_first_says_so_once_and_begins_when_it_is_there(
    make_world: MakeWorld, make_proxy: MakeProxy, make_database: MakeDatabase
) -> None:
    database = make_database()
    proxy = make_proxy(database.server.port)
    world = make_world("sqlite", database, lines=50, ports=(proxy.port, 0))
    proxy.refuse()
    run = world.machines[0].run()
    until(lambda: proxy.accepted > 3, run)
    proxy.forward()
    world.feed_and_wait(run)
    status, said = finish(run, terminate=True)
    assert status == 0, said
    assert [code for code, _ in incidents(said)][:1] == ["postgres.unreachable"]
    assert said.count("cannot start yet") == 1
    world.judge()


@pytest.mark.parametrize("arguments", [[], ["--wait"]])
def test_a_run_whose_server_stays_away_ends_when_retry_allows_no_more_and_shows_no_password(
    arguments: list[str], make_world: MakeWorld, make_proxy: MakeProxy, make_database: MakeDatabase
) -> None:
    database = make_database()
    proxy = make_proxy(database.server.port)
    world = make_world("sqlite", database, ports=(proxy.port, 0), retry={"max_attempts": 3, "initial_delay": "5ms"})
    proxy.refuse()
    status, said = finish(world.machines[0].run(*arguments))
    assert status == ENVIRONMENT
    assert [code for code, _ in incidents(said)] == ["postgres.unreachable", "postgres.unreachable"]
    assert database.server.password not in said
    assert "Traceback" not in said


def test_a_run_whose_server_has_no_space_waits_beyond_retry_and_goes_on_when_there_is_some(make_world: MakeWorld) -> None:
    world = make_world("sqlite", lines=200, retry={"max_attempts": 2, "initial_delay": "5ms"})
    run = world.machines[0].run()
    world.feed_and_wait(run, count=20)
    world.database.execute(FULL)
    stood = world.fed
    world.feed()
    until(lambda: world.ask(f"SELECT last_value FROM {SCHEMA}.tries") > 4, run)
    assert world.received() == stood
    world.database.execute(f"DROP TRIGGER no_space ON {SCHEMA}.note")
    until(lambda: world.received() == world.fed, run)
    assert finish(run, terminate=True)[0] == 0
    world.judge()
