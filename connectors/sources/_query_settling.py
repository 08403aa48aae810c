"""Which transactions may still commit a row that sorts before rows that are visible already.

A row becomes visible when its transaction commits, but its sequence number or `now()` was taken before. So an upper bound is read
first, and rows up to it are read only when every transaction that was running then has ended: later ones take higher values. What
runs is told by the locks that each transaction holds on its own identity from its begin to its end, with or without a
transaction id, and that every role may see; a prepared transaction goes on under another identity.

Source: PostgreSQL manual, "pg_locks"; the same wait is what CREATE INDEX CONCURRENTLY does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import psycopg

_RUNNING = b"""
SELECT l.virtualtransaction, l.pid
FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
WHERE l.granted AND l.mode = 'ExclusiveLock' AND CASE l.locktype
  WHEN 'virtualxid' THEN l.pid <> pg_catalog.pg_backend_pid() AND a.usesysid IS NOT NULL
       AND a.datid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
  WHEN 'transactionid' THEN l.pid IS NULL
  ELSE false END
"""


class Running(NamedTuple):
    """Transactions that run in this database: `sessions` by identity, with the process; `prepared` ones by identity."""

    sessions: dict[str, int]
    prepared: frozenset[str]


def running(connection: psycopg.Connection[Any]) -> Running:
    """What runs now, besides this session. Server processes that write no rows (autovacuum) are left out."""
    rows = connection.execute(_RUNNING).fetchall()
    return Running({name: pid for name, pid in rows if pid is not None}, frozenset(name for name, pid in rows if pid is None))


class Settling:
    """Those that ran at the beginning, and which of them are left."""

    def __init__(self, at_first: Running) -> None:
        self._left = dict(at_first.sessions)
        self._prepared = set(at_first.prepared)

    def look(self, now: Running) -> bool:
        """Whether all have ended by now."""
        left = {name: pid for name, pid in self._left.items() if name in now.sessions}
        if len(left) < len(self._left):  # one that is gone may have been prepared, and then has a name that cannot be known
            self._prepared |= now.prepared
        self._left = left
        self._prepared &= now.prepared
        return not self._left and not self._prepared

    def __str__(self) -> str:
        parts = [f"process {pid}" for pid in sorted(set(self._left.values()))[:5]]
        parts += [f"prepared transaction {name}" for name in sorted(self._prepared)[:5]]
        return f"rows wait for {len(self._left) + len(self._prepared)} older transactions: " + ", ".join(parts)
