"""Seeded writers that change a table at the same time, each on a connection of its own, and record what they committed.

A transaction inserts, updates, deletes, moves keys, changes many rows at once, rolls back to savepoints, or altogether. A writer
survives that its server dies or throws it out: what had not been committed is forgotten, and a COMMIT whose answer was lost is
looked up in the database. Collaborators: `cdc_scenario` (the tables), `cdc_oracle` (the record).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable, UniqueViolation

from penstock.testing.cdc_oracle import Change, Record, Transaction, checksum
from penstock.testing.cdc_scenario import COLUMNS
from penstock.testing.servers import Database

HOT, BULK = range(1, 61), range(100, 1300)
"""Ids that all writers fight for, and ids of the rows that are changed many at a time."""

SECONDS = 60.0
"""How long a writer waits for its server to come back."""

_PAUSE = 0.02
_WORDS = ("crate", "naïve", "日本", "a\tb", 'say "so"', "back\\slash", "\u2028", "𝄞", "</x>", "NULL", "{a,b}", "")

_CONNECTION_LOST = (psycopg.OperationalError, psycopg.InterfaceError)
_REFUSED = (DeadlockDetected, LockNotAvailable, UniqueViolation)


class Writers:
    """Several writers over one database, as a context manager: leaving it ends them.

    They make as many transactions as `allow` has let them, in an order that the seed gives each of them.

    :param bodies: bytes of the longest bodies, which do not compress; their hexadecimal digits stand in the rows.
    :param bulk: how many times as often as usual a step changes many rows at once; usual is one step of fourteen.
    """

    def __init__(self, database: Database, seed: str, *, count: int = 3, bodies: int = 200, bulk: int = 1) -> None:
        self.record = Record()
        self._permits = threading.Semaphore(0)
        self._ended = threading.Event()
        self._idle = threading.Condition()
        self._owed = 0
        self._failure: BaseException | None = None
        writers = [_Writer(database, f"w{n}", random.Random(f"{seed}/{n}"), self.record, bodies, bulk) for n in range(count)]
        self._threads = [threading.Thread(target=self._work, args=(writer,)) for writer in writers]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._permits.release(len(self._threads))
        for thread in self._threads:
            thread.join()

    def allow(self, transactions: int) -> None:
        """Let them make so many more; they begin at once."""
        with self._idle:
            self._owed += transactions
        self._permits.release(transactions)

    def settle(self) -> None:
        """Wait until all that was allowed is done, and known to be committed or not.

        :raises RuntimeError: a writer failed.
        """
        with self._idle:
            done = self._idle.wait_for(lambda: self._owed == 0 or self._failure is not None, 4 * SECONDS)
        if self._failure is not None or not done:
            raise RuntimeError("a writer failed") from self._failure

    def _work(self, writer: _Writer) -> None:
        try:
            while True:
                self._permits.acquire()
                if self._ended.is_set():
                    return
                writer.transaction()
                self._done()
        except BaseException as error:  # told by `settle`
            with self._idle:
                self._failure = error
                self._idle.notify_all()
        finally:
            writer.close()

    def _done(self) -> None:
        with self._idle:
            self._owed -= 1
            self._idle.notify_all()


class _Writer:
    def __init__(self, database: Database, name: str, rng: random.Random, record: Record, bodies: int, bulk: int) -> None:
        self._database = database
        self._name = name
        self._rng = rng
        self._record = record
        self._bodies = bodies
        self._weights = [30, 30, 10, 8, 2 * bulk, 3 * bulk, bulk]
        self._connection: psycopg.Connection[Any] | None = None
        self._transactions = self._entities = 0
        self._changes: list[Change] = []

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def transaction(self) -> None:
        """One more, committed or not."""
        self._transactions += 1
        name = f"{self._name}-{self._transactions}"
        connection = self._connected()
        self._changes = []
        began = time.monotonic()
        try:
            connection.execute("BEGIN")
            for _ in range(self._rng.choice([1, 1, 1, 2, 3, 6])):
                self._step(connection)
            if self._rng.random() < 0.1:
                connection.execute("ROLLBACK")
                return
            ticket = self._draw(connection, name)
        except _REFUSED:
            self._give_up(connection)
            return
        except _CONNECTION_LOST:
            self.close()
            return
        self._commit(connection, name, ticket, began)

    def _give_up(self, connection: psycopg.Connection[Any]) -> None:
        try:
            connection.execute("ROLLBACK")
        except _CONNECTION_LOST:
            self.close()

    def _draw(self, connection: psycopg.Connection[Any], name: str) -> int:
        (ticket,) = connection.execute("UPDATE tickets SET last = last + 1 RETURNING last").fetchone() or (0,)
        connection.execute("INSERT INTO commits VALUES (%s, %s)", (name, ticket))
        return int(ticket)

    def _commit(self, connection: psycopg.Connection[Any], name: str, ticket: int, began: float) -> None:
        lost = False
        try:
            connection.execute("COMMIT")
        except _CONNECTION_LOST:
            lost = True
            backend = connection.info.backend_pid
            self.close()
            if not self._was_committed(name, backend):
                return
        self._record.add(Transaction(name, ticket, began, time.monotonic(), tuple(self._changes)), resolved=lost)

    def _was_committed(self, name: str, backend: int) -> bool:
        """Asked once the backend that had the COMMIT is gone, whatever it did."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                if not self._connected().execute("SELECT pid FROM pg_stat_activity WHERE pid = %s", (backend,)).fetchall():
                    return bool(self._connected().execute("SELECT ticket FROM commits WHERE name = %s", (name,)).fetchall())
            except _CONNECTION_LOST:
                self.close()
            time.sleep(_PAUSE)
        raise TimeoutError(f"nobody knows whether {name} was committed")

    def _connected(self) -> psycopg.Connection[Any]:
        deadline = time.monotonic() + SECONDS
        while self._connection is None:
            try:
                connection = psycopg.connect(self._database.dsn, autocommit=True, connect_timeout=10, application_name="writer")
                connection.execute("SET deadlock_timeout = '20ms'; SET lock_timeout = '5s'")
                self._connection = connection
            except _CONNECTION_LOST:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)
        return self._connection

    # ---- what a transaction does

    def _step(self, connection: psycopg.Connection[Any]) -> None:
        steps: Sequence[Callable[[psycopg.Connection[Any]], None]] = (
            self._insert, self._update, self._delete, self._move, self._insert_many, self._update_many, self._delete_many,
        )  # fmt: skip
        step = self._rng.choices(steps, self._weights)[0]
        if self._rng.random() < 0.85:
            step(connection)
            return
        before = len(self._changes)
        connection.execute("SAVEPOINT inner_one")
        try:
            step(connection)
            kept = self._rng.random() < 0.5
        except UniqueViolation:
            kept = False
        connection.execute("RELEASE inner_one" if kept else "ROLLBACK TO inner_one")
        if not kept:
            del self._changes[before:]

    def _insert(self, connection: psycopg.Connection[Any]) -> None:
        self._put(connection, [self._rng.choice(HOT)])

    def _insert_many(self, connection: psycopg.Connection[Any]) -> None:
        self._put(connection, self._many(300))

    def _put(self, connection: psycopg.Connection[Any], ids: Sequence[int]) -> None:
        """Rows whose id is taken stay as they are."""
        rows = [self._row(id, self._entity(), 0) for id in ids]
        columns = ", ".join(f"%s::{kind}[]" for kind in ("bigint", "text", "int", "text", "text"))
        made = connection.execute(
            f"INSERT INTO items SELECT * FROM unnest({columns}) ON CONFLICT DO NOTHING RETURNING {COLUMNS}",  # noqa: S608
            [list(column) for column in zip(*rows, strict=True)],
        )
        self._note("insert", made.fetchall())

    def _update(self, connection: psycopg.Connection[Any]) -> None:
        self._change(connection, self._rng.sample(HOT, 5), self._rng.choice([1, 1, 3]))

    def _update_many(self, connection: psycopg.Connection[Any]) -> None:
        self._change(connection, self._many(600), 600)

    def _change(self, connection: psycopg.Connection[Any], ids: Sequence[int], most: int) -> None:
        found = self._lock(connection, ids)[:most]
        if not found:
            return
        rows = [self._row(id, entity, sequence + 1) for id, entity, sequence in found]
        changed = connection.execute(
            "UPDATE items SET sequence = new.sequence, body = new.body, checksum = new.checksum "
            "FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::text[]) AS new (id, sequence, body, checksum) "
            "WHERE items.id = new.id RETURNING items.id, items.entity, items.sequence, items.body, items.checksum",
            [list(column) for column in zip(*((row[0], *row[2:]) for row in rows), strict=True)],
        )
        self._note("update", changed.fetchall())

    def _delete(self, connection: psycopg.Connection[Any]) -> None:
        self._remove(connection, self._rng.sample(HOT, 2))

    def _delete_many(self, connection: psycopg.Connection[Any]) -> None:
        self._remove(connection, self._many(400))

    def _remove(self, connection: psycopg.Connection[Any], ids: Sequence[int]) -> None:
        gone = connection.execute(f"DELETE FROM items WHERE id = ANY(%s) RETURNING {COLUMNS}", (list(ids),))  # noqa: S608
        self._note("delete", gone.fetchall())

    def _move(self, connection: psycopg.Connection[Any]) -> None:
        """Another key for a row: it goes, and comes."""
        if not (found := self._lock(connection, self._rng.sample(HOT, 4))):
            return
        old, entity, sequence = found[0]
        (before,) = connection.execute(f"SELECT {COLUMNS} FROM items WHERE id = %s", (old,)).fetchall()  # noqa: S608
        row = self._row(self._rng.choice(HOT), entity, sequence + 1)
        if row[0] == old:
            return
        moved = connection.execute(
            f"UPDATE items SET id = %s, sequence = %s, body = %s, checksum = %s WHERE id = %s RETURNING {COLUMNS}",  # noqa: S608
            (row[0], *row[2:], old),
        )
        self._note("delete", [before])
        self._note("insert", moved.fetchall())

    def _lock(self, connection: psycopg.Connection[Any], ids: Sequence[int]) -> list[tuple[int, str, int]]:
        asked = "SELECT id, entity, sequence FROM items WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
        return connection.execute(asked, (list(ids),)).fetchall()

    def _many(self, most: int) -> list[int]:
        return sorted(self._rng.sample(BULK, self._rng.randrange(20, most)))

    def _entity(self) -> str:
        self._entities += 1
        return f"{self._name}/{self._entities}"

    def _row(self, id: int, entity: str, sequence: int) -> tuple[int, str, int, str, str]:
        body = " ".join(self._rng.choice(_WORDS) for _ in range(self._rng.randrange(1, 9)))
        body += self._rng.randbytes(self._rng.randrange(self._bodies)).hex() if self._rng.random() < 0.3 else ""
        return id, entity, sequence, body, checksum(entity, sequence, body)

    def _note(self, op: Any, rows: Sequence[tuple[Any, ...]]) -> None:
        """In the order in which the server changed the rows, which is that of RETURNING."""
        self._changes += [Change(op, id, entity, sequence, digest) for id, entity, sequence, _, digest in rows]
