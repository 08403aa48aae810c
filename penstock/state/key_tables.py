"""Dedup keys of one ledger: at most three generations of tables, by time of insertion, each given up whole (rule 8).

A generation takes the keys of half a window of running time; it is over once its youngest key is a window old. So a key is held
for at least the window, and for at most one and a half while commits come in. A table that is over is emptied bit by bit by the
commits that follow, then dropped: dropping a million keys at once took 75 to 210 ms, for which every commit would have to wait.

A key is 16 bytes, and 8 bytes name the event that brought it. A commit and a lookup are one statement each, whatever the number
of keys: they travel as one blob, which a recursive query cuts up (per key 0.6 µs to insert in order, against 1.8 with
`executemany`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.errors import Fatal
from penstock.ledger import Key
from penstock.state.dialect import Connection, dialect_of

KEY = 16
ENTRY = 24
SHED = 10_000
"""Keys that a commit removes of a generation that is over: 2 to 4 ms."""

_INSERT = (
    "INSERT INTO {table} SELECT substr(:blob, i, 16), substr(:blob, i + 16, 8) FROM ({offsets} SELECT i FROM n) AS m "
    "WHERE true ON CONFLICT DO NOTHING"
)
_GENERATIONS = (
    "SELECT ledger, number, began, latest, high FROM penstock_key_generations WHERE ledger = ? AND over = ? ORDER BY number"
)
_LOOKUP = "SELECT k.key, k.brought_by FROM n {nested} {table} AS k ON k.key = substr(:blob, n.i, 16)"


@dataclass(frozen=True, slots=True)
class Generation:
    """One table of keys.

    :ivar began: the pipeline's running time, in seconds, when it was made; `latest` when its youngest key came.
    :ivar high: its greatest key; empty while it has none.
    """

    ledger: int
    number: int
    began: float
    latest: float
    high: bytes

    @property
    def table(self) -> str:
        """Made of numbers alone: nothing from outside becomes an identifier (Invariant 12)."""
        return f"penstock_keys_{self.ledger:d}_{self.number:d}"


def generations(connection: Connection, ledger: int) -> list[Generation]:
    """The live ones, oldest first."""
    return _generations(connection, ledger, over=False)


def _generations(connection: Connection, ledger: int, *, over: bool, keep: bool = False) -> list[Generation]:
    """:param keep: `shed` lets their tables be until this transaction ends."""
    rows = connection.execute(
        _GENERATIONS + dialect_of(connection).for_key_share if keep else _GENERATIONS,
        (ledger, int(over)),
    )
    return [Generation(*row) for row in rows.fetchall()]


def high_water(live: Sequence[Generation]) -> bytes:
    """No live generation holds a greater key. Empty: they hold none."""
    return max((generation.high for generation in live), default=b"")


def seen(connection: Connection, ledger: int, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """Which of the keys are held, each with its `brought_by`."""
    live = _generations(connection, ledger, over=False, keep=True)
    return _lookup(connection, [generation for generation in live if keys and generation.high >= min(keys)], b"".join(keys))


def _lookup(connection: Connection, among: Sequence[Generation], blob: bytes) -> dict[bytes, bytes]:
    if not among or not blob:
        return {}
    dialect = dialect_of(connection)
    lookups = " UNION ALL ".join(_LOOKUP.format(table=generation.table, nested=dialect.nested) for generation in among)
    offsets = dialect.offsets.format(size=KEY)
    return dict(connection.execute(f"{offsets} {lookups}", {"blob": blob}).fetchall())


def add(connection: Connection, ledger: int, keys: Sequence[Key], running: float, window: float) -> None:
    """Record the keys of a commit, inside its transaction. Generations that are due are started, or over, on the way.

    :param running: the pipeline's clock at this commit.
    :raises Fatal: `ledger.conflict`, where a key is already held.
    """
    *sealed, current = _rotate(connection, ledger, running, window)
    smallest = min(keys).key
    older = [generation for generation in sealed if generation.high >= smallest]
    held = _lookup(connection, older, b"".join([key.key for key in keys])) if older else {}
    if not held and _insert(connection, current, keys, running) == len(keys):
        return
    raise Fatal(
        "ledger.conflict",
        "a commit brings dedup keys that its ledger already holds",
        why="another writer delivered these events, or one event stands twice in a group",
        help="nothing of the group was written; start the run again: it reads the ledger anew",
    )


def settle(connection: Connection, ledger: int, keys: Sequence[Key], running: float, window: float) -> None:
    """Record keys that may be held already (`Commit.settled`)."""
    _insert(connection, _rotate(connection, ledger, running, window)[-1], keys, running)


def _insert(connection: Connection, into: Generation, keys: Sequence[Key], running: float) -> int:
    """How many of the keys were not in this generation."""
    blob = b"".join([part for key in keys for part in key])
    if len(blob) != ENTRY * len(keys):
        raise Fatal("ledger.key_size", f"a dedup key is {KEY} bytes and {ENTRY - KEY} bytes for the event that brought it")
    connection.execute(
        "UPDATE penstock_key_generations SET latest = ?, high = ? WHERE ledger = ? AND number = ?",
        (running, max(into.high, max(keys).key), into.ledger, into.number),
    )
    offsets = dialect_of(connection).offsets.format(size=ENTRY)
    return connection.execute(_INSERT.format(table=into.table, offsets=offsets), {"blob": blob}).rowcount


def _rotate(connection: Connection, ledger: int, running: float, window: float) -> list[Generation]:
    """The live generations, oldest first, without those that are over by now; the last one takes this commit's keys."""
    live = generations(connection, ledger)
    if any(generation.latest <= running - window for generation in live):
        connection.execute(
            "UPDATE penstock_key_generations SET over = 1 WHERE ledger = ? AND latest <= ?", (ledger, running - window)
        )
        live = generations(connection, ledger)
    if live and running - live[-1].began < window / 2:
        return live
    newest = connection.execute("SELECT max(number) FROM penstock_key_generations WHERE ledger = ?", (ledger,)).fetchone()[0]
    fresh = Generation(ledger, (newest or 0) + 1, running, running, b"")
    connection.execute(f"CREATE TABLE {fresh.table} (key BLOB PRIMARY KEY, brought_by BLOB NOT NULL) WITHOUT ROWID")
    connection.execute(
        "INSERT INTO penstock_key_generations (ledger, number, began, latest, high) VALUES (?, ?, ?, ?, ?)",
        (ledger, fresh.number, running, running, b""),
    )
    return [*live, fresh]


def forget(connection: Connection, ledger: int) -> None:
    """No key is held any longer: another key space begins (rule 3)."""
    connection.execute("UPDATE penstock_key_generations SET over = 1 WHERE ledger = ?", (ledger,))


def shed(connection: Connection, ledger: int) -> None:
    """Remove some keys of a generation that is over, and its table with the last of them."""
    for generation in _generations(connection, ledger, over=True)[:1]:
        table = generation.table
        left = connection.execute(f"SELECT key FROM {table} ORDER BY key LIMIT 1 OFFSET ?", (SHED,)).fetchone()  # noqa: S608
        if left is not None:
            connection.execute(f"DELETE FROM {table} WHERE key < ?", left)  # noqa: S608 - as above: made of numbers alone
            return
        # The row goes first: whoever looks keys up holds on to it, and then the table is there too.
        connection.execute("DELETE FROM penstock_key_generations WHERE ledger = ? AND number = ?", (ledger, generation.number))
        connection.execute(f"DROP TABLE {table}")
