"""The table of answers (`answer_book`). Every function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from penstock.state.dialect import Connection, dialect_of

ANSWERS_TABLE = """CREATE TABLE answers (
    name TEXT PRIMARY KEY, step TEXT NOT NULL, key TEXT NOT NULL, answer BLOB NOT NULL, epoch INTEGER NOT NULL,
    at REAL NOT NULL)"""


class KeptAnswer(NamedTuple):
    """One answer.

    :ivar name: of step, key and event together, at most 32 characters.
    :ivar answer: JSON text, as `penstock.engine.answers` has it.
    :ivar at: when it was given, in seconds since 1970.
    """

    name: str
    step: str
    key: str
    answer: bytes
    at: float


def put(connection: Connection, epoch: int, answers: Sequence[KeptAnswer]) -> None:
    """One that is there already is replaced."""
    connection.executemany(
        "INSERT INTO answers (name, step, key, answer, epoch, at) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET answer = excluded.answer, epoch = excluded.epoch, at = excluded.at",
        [(each.name, each.step, each.key, each.answer, epoch, each.at) for each in answers],
    )


def forget(connection: Connection, names: Sequence[str]) -> None:
    """Those of these names."""
    connection.executemany("DELETE FROM answers WHERE name = ?", [(name,) for name in names])


def any_before(connection: Connection, epoch: int) -> bool:
    """Whether one is left of an earlier epoch."""
    return connection.execute("SELECT 1 FROM answers WHERE epoch < ? LIMIT 1", (epoch,)).fetchone() is not None


def found(connection: Connection, names: Sequence[str]) -> dict[str, bytes]:
    """The answers that are there, by name."""
    among = dialect_of(connection).among(names)
    rows = connection.execute("SELECT name, answer FROM answers WHERE name IN (SELECT value FROM json_each(?))", (among,))
    return {name: bytes(answer) for name, answer in rows.fetchall()}


def expire(connection: Connection, before: float, limit: int) -> list[str]:
    """Remove up to `limit` that were given before; their names."""
    rows = connection.execute("SELECT name FROM answers WHERE at < ? LIMIT ?", (before, limit)).fetchall()
    names = [name for (name,) in rows]
    forget(connection, names)
    return names


def count(connection: Connection) -> int:
    """How many there are."""
    return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
