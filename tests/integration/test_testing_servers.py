"""The PostgreSQL servers that other tests stand on: they start, crash, come back, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import psycopg
import pytest
import waiting
from server_parts import MakeDatabase, StartPostgres

from penstock.errors import EnvironmentFault
from penstock.testing._postgres_install import Account, installation
from penstock.testing._postgres_processes import PATIENCE, end_all
from penstock.testing.servers import Database, PostgresServer

ROOT = Path(__file__).parents[2]


def server_processes(home: Path) -> list[int]:
    """Living processes that name a directory in their arguments, the keeper too."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(home).encode() in arguments:
            found.append(int(path.parent.name))
    return found


def alive(pids: Sequence[int]) -> list[int]:
    """Those of the processes that have not ended; one that nobody has waited for yet has."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found.append(pid)
    return found


def all_pids(server: PostgresServer) -> list[int]:
    return [server.pid, *(pid for (pid,) in server.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))]


def shared_memory_of(server: PostgresServer) -> str:
    return (server.data / "postmaster.pid").read_text().splitlines()[6].split()[1]


def shared_memory() -> set[str]:
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def run_script(code: str) -> subprocess.Popen[str]:
    """A Python process that has a started `server` and has printed its home and its process id."""
    begin = (
        "import os, sys, time\nfrom penstock.testing.servers import PostgresServer\n"
        "server = PostgresServer(durable=False)\nserver.start()\nprint(server.home, server.pid, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", begin + code], env=environment, stdout=subprocess.PIPE, text=True)


def started(process: subprocess.Popen[str]) -> tuple[Path, int]:
    assert process.stdout is not None
    home, pid = process.stdout.readline().split()
    return Path(home), int(pid)


@pytest.mark.parametrize("version", [16, 18])
def test_a_shared_server_of_each_version_is_set_up_for_logical_replication(version: int, request: pytest.FixtureRequest) -> None:
    server: PostgresServer = request.getfixturevalue("postgres" if version == 18 else "postgres16")
    names = ("wal_level", "max_replication_slots", "max_wal_senders", "listen_addresses", "unix_socket_directories", "fsync")
    rows = server.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(names),))
    assert dict(rows) == dict(zip(names, ("logical", "20", "20", "127.0.0.1", "", "off"), strict=True))
    assert server.execute("SHOW server_encoding") == [("UTF8",)]
    assert int(server.execute("SHOW server_version_num")[0][0]) // 10_000 == version == server.version
    assert (server.home.stat().st_uid, server.home.stat().st_mode & 0o777) == (Account.suitable().user or os.getuid(), 0o700)


def test_nobody_gets_in_without_the_password(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.dsn(password="guessed"))


def test_a_restart_keeps_data_and_address_and_reads_the_settings_anew(start_postgres: StartPostgres) -> None:
    server = start_postgres()
    database = server.create_database("shop")
    database.execute("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1), (2)")
    dsn = database.dsn
    server.settings["work_mem"] = "5MB"
    server.restart()
    assert database.dsn == dsn
    assert database.execute("SELECT id FROM orders ORDER BY id") == [(1,), (2,)]
    assert server.execute("SHOW work_mem") == [("5MB",)]
    assert server.execute("SHOW fsync") == [("on",)]


def test_a_killed_server_leaves_no_process_and_recovers_what_was_committed(start_postgres: StartPostgres) -> None:
    server = start_postgres()
    server.execute("CREATE TABLE orders (id int)")
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("INSERT INTO orders VALUES (1)")
        connection.commit()
        connection.execute("INSERT INTO orders VALUES (2)")
        pids = all_pids(server)
        server.kill()
        assert (alive(pids), len(pids) > 5, server.running) == ([], True, False)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    server.start()
    assert server.execute("SELECT id FROM orders") == [(1,)]
    assert "automatic recovery in progress" in server.log.read_text()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_the_port_of_a_stopped_server_is_kept_for_it(start_postgres: StartPostgres, mode: Literal["fast", "immediate"]) -> None:
    server = start_postgres(durable=False)
    pids = all_pids(server)
    server.stop(mode)
    server.stop()
    assert alive(pids) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", server.port))
    server.start()
    assert server.execute("SELECT 1") == [(1,)]


@pytest.mark.parametrize("end", ["running", "stopped", "killed"])
def test_a_closed_server_leaves_nothing_behind(start_postgres: StartPostgres, end: str) -> None:
    server = start_postgres(durable=False)
    home, segment = server.home, shared_memory_of(server)
    assert segment in shared_memory()
    assert len(server_processes(home)) >= 2
    if end == "stopped":
        server.stop()
    if end == "killed":
        server.kill()
    server.close()
    server.close()
    assert (home.exists(), server_processes(home), segment in shared_memory()) == (False, [], False)
    with pytest.raises(EnvironmentFault, match="has not been started"):
        server.dsn()


def test_a_server_that_does_not_start_shows_its_log_and_leaves_nothing(start_postgres: StartPostgres) -> None:
    with pytest.raises(EnvironmentFault, match="did not start: it ended with status 1") as caught:
        start_postgres(settings={"work_mem": "nonsense"})
    assert caught.value.code == "server.start_failed"
    assert 'invalid value for parameter "work_mem": "nonsense"' in caught.value.render()
    assert "nonsense" in caught.value.__notes__[0]
    home = Path(str(caught.value.where)).parent
    assert (home.exists(), server_processes(home)) == (False, [])


def test_a_process_that_ends_without_closing_takes_its_server_along_but_its_fork_does_not() -> None:
    with run_script("pid = os.fork()\nif pid == 0: sys.exit()\nos.waitpid(pid, 0)\nprint(server.execute('SELECT 1'))") as process:
        home, pid = started(process)
        output, _ = process.communicate(timeout=30)
        assert (output, process.returncode) == ("[(1,)]\n", 0)
        assert (home.exists(), alive([pid])) == (False, [])


def test_a_process_that_is_killed_takes_its_server_along() -> None:
    with run_script("time.sleep(60)") as process:
        home, pid = started(process)
        assert pid in server_processes(home)
        process.send_signal(signal.SIGKILL)
        waiting.until(lambda: not home.exists() and not server_processes(home))
        assert alive([pid]) == []


@pytest.mark.parametrize(
    ("disposition", "patience", "ended_by"), [("SIG_DFL", PATIENCE, signal.SIGQUIT), ("SIG_IGN", 0.1, signal.SIGKILL)]
)
def test_an_initdb_that_runs_on_without_its_parent_is_ended_and_nobody_else(
    disposition: str, patience: float, ended_by: signal.Signals, tmp_path: Path
) -> None:
    code = f"import signal, time; signal.signal(signal.SIGQUIT, signal.{disposition}); print(flush=True); time.sleep(60)"
    arguments = ["-c", code, f"{tmp_path}/data"]
    with (
        subprocess.Popen(["initdb", *arguments], executable=sys.executable, stdout=subprocess.PIPE) as initdb,
        subprocess.Popen(["editor", *arguments], executable=sys.executable, stdout=subprocess.PIPE) as stranger,
    ):
        for process in (initdb, stranger):
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
        assert set(server_processes(tmp_path)) == {initdb.pid, stranger.pid}
        end_all(tmp_path, patience)
        assert (initdb.wait(10), stranger.poll()) == (-ended_by, None)
        stranger.kill()


def test_without_the_wheel_the_error_names_the_extra() -> None:
    code = (
        "from penstock.errors import MissingExtra\nfrom penstock.testing.servers import PostgresServer\n"
        "try: PostgresServer().start()\nexcept MissingExtra as error: print(error.render())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == (
        "error[environment.missing_extra]: the PostgreSQL server of tests and demo needs a library that is not installed\n"
        "  help: pip install 'penstock[demo]'\n",
        "",
    )


def test_a_version_that_the_wheel_does_not_bring_is_refused() -> None:
    with pytest.raises(EnvironmentFault, match="there is no PostgreSQL 17 here: 16, 18") as caught:
        PostgresServer(17).start()
    assert caught.value.code == "server.version"


def test_programs_that_another_user_cannot_reach_are_copied_for_it_with_their_libraries(tmp_path: Path) -> None:
    account = Account(os.getuid(), os.getgid())
    wheel = installation(18).parent
    private = tmp_path / "private" / wheel.name
    (private / "pginstall18" / "bin").mkdir(parents=True)
    private.parent.chmod(0o700)
    shutil.copy(wheel / "pginstall18" / "bin" / "initdb", private / "pginstall18" / "bin")
    shutil.copytree(wheel.with_name(f"{wheel.name}.libs"), private.with_name(f"{wheel.name}.libs"))
    copy = account.reachable(private / "pginstall18", tmp_path / "home")
    shutil.rmtree(private.parent)
    assert copy.is_relative_to(tmp_path / "home")
    assert b"PostgreSQL) 18" in subprocess.run([copy / "bin" / "initdb", "--version"], capture_output=True, check=True).stdout
    assert account.reachable(Path("/usr"), tmp_path) == Path("/usr")


def test_a_temporary_directory_that_another_user_cannot_reach_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(0o700)
    with pytest.raises(EnvironmentFault, match="cannot enter") as caught:
        Account(os.getuid(), os.getgid()).take(tmp_path / "private" / "home")
    assert caught.value.code == "server.directory"


def test_each_database_is_new_and_goes_with_its_slots_and_sessions(postgres: PostgresServer, tmp_path: Path) -> None:
    database = postgres.create_database("goes_away")
    database.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    database.execute("SELECT pg_create_logical_replication_slot('goes_away', 'pgoutput')")
    options = ["--start", "--no-loop", "-f", "-", "-o", "proto_version=1", "-o", "publication_names=everything"]
    command: list[str | Path] = [postgres.program("pg_recvlogical"), "-d", database.dsn, "-S", "goes_away", *options]
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'goes_away'"
    with (tmp_path / "received").open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as receiver:
        waiting.until(lambda: postgres.execute(active) == [(True,)], receiver)
        with psycopg.connect(database.dsn) as connection:
            postgres.drop_database(database.name)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        assert receiver.wait(30) != 0
    assert postgres.execute(active) == []
    assert postgres.execute("SELECT FROM pg_database WHERE datname = 'goes_away'") == []


def test_two_databases_of_a_test_know_nothing_of_each_other(database: Database, make_database: MakeDatabase) -> None:
    other = make_database(prefix="copy")
    database.execute("CREATE TABLE orders (id int)")
    assert other.execute("SELECT to_regclass('orders')") == [(None,)]
    assert other.name.startswith("copy_")
    assert database.execute("SELECT %s::int + 1", (41,)) == [(42,)]


def test_postgres_programs_take_the_dsn_of_a_database(database: Database) -> None:
    for name in ("psql", "pgbench", "pg_dump", "pg_recvlogical", "pg_basebackup"):
        assert os.access(database.server.program(name), os.X_OK)
    psql: list[str | Path] = [database.server.program("psql"), "-XAtc", "SELECT current_database()", database.dsn]
    assert subprocess.run(psql, capture_output=True, text=True, check=True).stdout == f"{database.name}\n"
    pgbench: list[str | Path] = [database.server.program("pgbench"), "--initialize", "--quiet", database.dsn]
    subprocess.run(pgbench, capture_output=True, check=True)
    assert database.execute("SELECT count(*) FROM pgbench_accounts") == [(100_000,)]
