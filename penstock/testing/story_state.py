"""Where the state store of a crash story lies: a file of the project, or a PostgreSQL server behind a proxy; and what may be done
to the connections.

`StoryState.query` reads the store's tables themselves, so that no code under test stands between.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from penstock.testing.proxy import Proxy
from penstock.testing.scenario import PIPELINE
from penstock.testing.servers import Database, PostgresServer

SCHEMA = f"penstock_{PIPELINE}"
RETRY = {"initial_delay": "5ms", "max_delay": "50ms", "max_attempts": 1000, "max_elapsed": "5m"}
"""Of a pipeline whose connections are cut: it outlasts that."""


class NotYet(Exception):
    """The first run has not made its store."""


class StoryState(Protocol):
    """The state store of one telling, and its server, where there is one.

    :ivar lines: what the pipeline file says besides.
    :ivar taking_over: options of a run that follows one that was killed.
    :ivar database: where the store lies, and where sinks may have their tables.
    """

    @property
    def lines(self) -> Mapping[str, Any]: ...

    @property
    def taking_over(self) -> Sequence[str]: ...

    @property
    def database(self) -> Database | None: ...

    def environment(self, *, through: bool) -> Mapping[str, str]:
        """What a process needs to find it.

        :param through: by a way that may be disturbed.
        """
        ...

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """:raises NotYet: there is no store."""
        ...

    def disturb(self, rng: random.Random) -> str:
        """Do something to the connections to the server; what it was."""
        ...

    def keep(self, directory: Path) -> None:
        """Leave what is in it for a look afterwards, where it does not lie in the project."""
        ...


@dataclass(frozen=True, slots=True)
class LocalState:
    """A file of the project."""

    project: Path
    database: None = None
    taking_over: Sequence[str] = ()

    @property
    def lines(self) -> Mapping[str, Any]:
        return {}

    def environment(self, *, through: bool) -> Mapping[str, str]:
        return {}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        path = self.project / ".penstock" / f"{PIPELINE}.db"
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
                return database.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            raise NotYet(str(error)) from error

    def disturb(self, rng: random.Random) -> str:
        return ""

    def keep(self, directory: Path) -> None:
        """It lies in the project."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """A schema of a database, to which runs come through a proxy. The lease of a run that was killed is taken over: to wait until
    it has run out takes three seconds each time, and is tested elsewhere."""

    database: Database
    proxy: Proxy
    taking_over: Sequence[str] = ("--take-over",)

    @property
    def lines(self) -> Mapping[str, Any]:
        return {"state": "${DATABASE}", "retry": RETRY}

    def environment(self, *, through: bool) -> Mapping[str, str]:
        return {"DATABASE": self.database.dsn_through(self.proxy.port) if through else self.database.dsn}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        import psycopg  # other stories do without a driver

        try:
            return self.database.execute(f"SET search_path TO {SCHEMA}; {sql}")
        except psycopg.errors.UndefinedTable as error:
            raise NotYet(str(error)) from error

    def disturb(self, rng: random.Random) -> str:
        name = rng.choice(sorted(DISTURBANCES))
        DISTURBANCES[name](self, rng)
        return name

    def keep(self, directory: Path) -> None:
        path = directory / f"{self.database.name}.sql"
        with path.open("wb") as file:
            subprocess.run([self.database.server.program("pg_dump"), self.database.dsn], stdout=file, check=True)


def _terminate_some(state: ServerState, rng: random.Random) -> None:
    ours = f"application_name LIKE 'penstock:%' AND hashint4(pid) % 2 = {rng.randrange(2)}"
    state.database.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND {ours}"  # noqa: S608
    )


DISTURBANCES: Mapping[str, Callable[[ServerState, random.Random], object]] = {
    "connections reset": lambda state, rng: state.proxy.cut(),
    "connections terminated": _terminate_some,
    "the answer to a COMMIT lost": lambda state, rng: state.proxy.cut_after(b"COMMIT", b"COMMIT", nth=rng.randrange(1, 5)),
    "a COMMIT lost": lambda state, rng: state.proxy.cut_before(b"COMMIT", nth=rng.randrange(1, 5)),
}
"""By name; the server stays."""

MakeState = Callable[[Path], StoryState]
"""Of a project, which has a name of its own among those of a round."""


@contextmanager
def story_states(*, server: bool) -> Iterator[Callable[[str], Any]]:
    """States for many rounds: what it gives makes, of a round's name, a context manager with a `MakeState`."""
    if not server:
        yield lambda name: _local_states()
        return
    with PostgresServer(durable=False) as running:
        yield lambda name: _server_states(running, name)


@contextmanager
def _local_states() -> Iterator[MakeState]:
    yield LocalState


@contextmanager
def _server_states(server: PostgresServer, round_name: str) -> Iterator[MakeState]:
    """A database for each telling; dropped afterwards."""
    made: list[tuple[str, Proxy]] = []

    def make(project: Path) -> StoryState:
        name = f"{round_name}_{project.name}"
        database, proxy = server.create_database(name), Proxy(server.port)
        proxy.start()
        made.append((name, proxy))
        return ServerState(database, proxy)

    try:
        yield make
    finally:
        for name, proxy in made:
            proxy.close()
            server.drop_database(name)
