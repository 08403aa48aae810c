"""What tests of every kind use: their working directory; and real servers, of which each is started once in a test process, at
its first use, and of which each test has a database of its own."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from server_parts import MakeDatabase, MakeProxy, StartPostgres

from penstock.testing.proxy import Proxy
from penstock.testing.servers import Database, PostgresServer


@pytest.fixture(scope="session")
def postgres_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Initialised data directories, so that initdb runs once a version."""
    template = tmp_path_factory.mktemp("postgres_template")
    yield template
    shutil.rmtree(template)


@pytest.fixture(scope="session")
def postgres(postgres_template: Path) -> Iterator[PostgresServer]:
    """The newest PostgreSQL, shared by all tests of the process: do not stop it, and leave nothing in it but by `database`."""
    with PostgresServer(18, durable=False, template=postgres_template) as server:
        yield server


@pytest.fixture(scope="session")
def postgres16(postgres_template: Path) -> Iterator[PostgresServer]:
    """PostgreSQL 16, shared like `postgres`."""
    with PostgresServer(16, durable=False, template=postgres_template) as server:
        yield server


@pytest.fixture
def start_postgres(postgres_template: Path) -> Iterator[StartPostgres]:
    """Servers of the test's own, to stop, kill and configure; closed after it. All have one system identifier a version."""
    with ExitStack() as stack:

        def start(version: int = 18, *, settings: Mapping[str, str] | None = None, durable: bool = True) -> PostgresServer:
            server = PostgresServer(version, settings=settings, durable=durable, template=postgres_template)
            return stack.enter_context(server)

        yield start


@pytest.fixture(scope="session")
def database_numbers() -> Iterator[int]:
    """For names that no two databases of the process have."""
    return itertools.count(1)


@pytest.fixture
def make_database(request: pytest.FixtureRequest, database_numbers: Iterator[int]) -> Iterator[MakeDatabase]:
    """Fresh databases; dropped after the test, with their replication slots, whoever is connected."""
    made: list[Database] = []

    def make(server: PostgresServer | None = None, *, prefix: str = "test") -> Database:
        server = server or request.getfixturevalue("postgres")
        made.append(server.create_database(f"{prefix}_{next(database_numbers)}"))
        return made[-1]

    yield make
    for database in made:
        if database.server.running:
            database.server.drop_database(database.name)


@pytest.fixture
def database(make_database: MakeDatabase) -> Database:
    """A fresh database of `postgres`."""
    return make_database()


@pytest.fixture(params=[16, 18])
def database_of_each(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Database:
    """A fresh database, of `postgres16` and of `postgres`."""
    return make_database(request.getfixturevalue("postgres" if request.param == 18 else "postgres16"))


@pytest.fixture
def make_proxy() -> Iterator[MakeProxy]:
    """Proxies before servers, closed after the test."""
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(Proxy(port))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own directory is the working directory."""
    monkeypatch.chdir(tmp_path)
