"""Types of the fixtures in conftest.py that make servers, databases and proxies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from penstock.testing.proxy import Proxy
from penstock.testing.servers import Database, PostgresServer


class StartPostgres(Protocol):
    """`start_postgres(16, settings={"wal_level": "replica"})`: a started server of the test's own."""

    def __call__(
        self, version: int = 18, *, settings: Mapping[str, str] | None = None, durable: bool = True
    ) -> PostgresServer: ...


class MakeDatabase(Protocol):
    """`make_database()`, `make_database(postgres16, prefix="copy")`: a fresh database; without a server, in `postgres`."""

    def __call__(self, server: PostgresServer | None = None, *, prefix: str = "test") -> Database: ...


class MakeProxy(Protocol):
    """`make_proxy(postgres.port)`: a started proxy before that port of 127.0.0.1."""

    def __call__(self, port: int) -> Proxy: ...
