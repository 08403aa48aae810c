"""The table of answers (`answer_book`). Every function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from penstock.state.dialect import Connection, dialect_of

ANSWERS_TABLE = """CREATE TABLE answers (
    name TEXT PRIMARY KEY, step TEXT NOT NULL, key TEXT NOT NULL, data TEXT NOT NULL, answer BLOB NOT NULL,
    epoch INTEGER NOT NULL, at REAL NOT NULL)"""

_ASIDE = 0
"""Stands in the place of the epoch: no run ever has it."""


class KeptAnswer(NamedTuple):
    """One answer.

    :ivar name: of step, key and event together, at most 32 characters.
    :ivar data: digest of the event's data.
    :ivar answer: JSON text, as `penstock.engine.answers` has it.
    :ivar at: when it was given, in seconds since 1970.
    """

    name: str
    step: str
    key: str
    data: str
    answer: bytes
    at: float


class FoundAnswer(NamedTuple):
    """An answer that is there.

    :ivar data: digest of the event's data, when it was asked.
    :ivar aside: it outlived the note of its event, which was parked.
    """

    data: str
    answer: bytes
    aside: bool


def put(connection: Connection, epoch: int, answers: Sequence[KeptAnswer]) -> None:
    """One that is there already is replaced."""
    connection.executemany(
        "INSERT INTO answers (name, step, key, data, answer, epoch, at) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET data = excluded.data, answer = excluded.answer, epoch = excluded.epoch, "
        "at = excluded.at",
        [(each.name, each.step, each.key, each.data, each.answer, epoch, each.at) for each in answers],
    )


def forget(connection: Connection, names: Sequence[str]) -> None:
    """Those of these names."""
    connection.executemany("DELETE FROM answers WHERE name = ?", [(name,) for name in names])


def set_aside(connection: Connection, names: Sequence[str]) -> None:
    """Those of these names outlive the note of their events."""
    connection.executemany("UPDATE answers SET epoch = ? WHERE name = ?", [(_ASIDE, name) for name in names])


def any_before(connection: Connection, epoch: int) -> bool:
    """Whether one is left of an earlier epoch."""
    return connection.execute("SELECT 1 FROM answers WHERE epoch < ? LIMIT 1", (epoch,)).fetchone() is not None


def found(connection: Connection, names: Sequence[str]) -> dict[str, FoundAnswer]:
    """The answers that are there, by name."""
    among = dialect_of(connection).among(names)
    query = "SELECT name, data, answer, epoch FROM answers WHERE name IN (SELECT value FROM json_each(?))"
    rows = connection.execute(query, (among,)).fetchall()
    return {name: FoundAnswer(data, bytes(answer), epoch == _ASIDE) for name, data, answer, epoch in rows}


def expire(connection: Connection, before: float, limit: int) -> list[str]:
    """Remove up to `limit` that were given before; their names."""
    rows = connection.execute("SELECT name FROM answers WHERE at < ? LIMIT ?", (before, limit)).fetchall()
    names = [name for (name,) in rows]
    forget(connection, names)
    return names


def count(connection: Connection) -> int:
    """How many there are."""
    return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
