"""What the parts of a state store ask of whatever holds its tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from penstock.state.dialect import Connection

T = TypeVar("T")


class Database(Protocol):
    """Where the tables are: `sqlite_database.Database`, or `postgres_database.PostgresDatabase`. `run` is for one statement,
    `write` for a transaction without another writer beside it, `read` sees one moment, `look` waits for no commit."""

    async def run(self, work: Callable[[Connection], T]) -> T: ...
    async def write(self, work: Callable[[Connection], T]) -> T: ...
    async def read(self, work: Callable[[Connection], T]) -> T: ...
    async def look(self, work: Callable[[Connection], T]) -> T: ...
