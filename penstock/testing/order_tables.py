"""Tables with a row for each key and an order, for crash stories in which older events come late; each remembers all that is
done to it, and refuses some rows until it is mended.

Every fifth line of a key deletes its row (`DELETES`), the others replace it. Lines are ordered by their sequence.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from penstock.testing.scenario import Output
from penstock.testing.telling import Telling

DELETES = ".sequence % 5 == 4"


def deletes(sequence: int) -> bool:
    """What `DELETES` says."""
    return sequence % 5 == 4


_COLUMNS = "key TEXT PRIMARY KEY, sequence INTEGER, part INTEGER, text TEXT, checksum TEXT, kind TEXT"
_KEPT = {"key": ["key"], "delete": DELETES}
_RECORDS = "SELECT job, event FROM {}penstock_job_records"
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class OrderTable:
    """A sink of an order story.

    :ivar component: as it stands in the pipeline file.
    :ivar make: SQL that makes the table, and what remembers; `mend`: from now on it takes every row.
    :ivar tombstones: SQL that gives key and order of the deletions that are remembered.
    :ivar execute: carries out SQL where the table lies.
    """

    name: str
    component: Mapping[str, Any]
    make: str
    mend: str
    tombstones: str
    records: str
    execute: Callable[[Telling, str], Rows]

    @property
    def output(self) -> Output:
        """The sink, of which nobody reads rows in order of arrival."""
        return Output(self.name, self.component, lambda project: [], lambda project: b"")

    def rows(self, told: Telling) -> Rows:
        """Key, sequence, text and checksum of each."""
        return self.execute(told, "SELECT key, sequence, text, checksum FROM mirror ORDER BY key")

    def history(self, told: Telling) -> Rows:
        """What was done, in order: `put` or `delete`, the key, and the sequence of the row that is there, or was."""
        return self.execute(told, "SELECT done, key, sequence FROM history ORDER BY place")


_TRIGGERS = """
CREATE TRIGGER after_insert AFTER INSERT ON mirror BEGIN
    INSERT INTO history (done, key, sequence) VALUES ('put', new.key, new.sequence);
END;
CREATE TRIGGER after_update AFTER UPDATE ON mirror BEGIN
    INSERT INTO history (done, key, sequence) VALUES ('put', new.key, new.sequence);
END;
CREATE TRIGGER after_delete AFTER DELETE ON mirror BEGIN
    INSERT INTO history (done, key, sequence) VALUES ('delete', old.key, old.sequence);
END;
CREATE TRIGGER refuses_insert BEFORE INSERT ON mirror WHEN new.kind = 'refused' BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: refused');
END;
CREATE TRIGGER refuses_update BEFORE UPDATE ON mirror WHEN new.kind = 'refused' BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: refused');
END;
"""


def sqlite_mirror(order_by: str) -> OrderTable:
    """In a SQLite database of the project."""
    path = "out/mirror.db"
    own = ", penstock_order INTEGER" if order_by.startswith(".") else ""

    def execute(told: Telling, sql: str) -> Rows:
        with closing(sqlite3.connect(told.project / path, timeout=30)) as database:
            if sql.startswith("SELECT"):
                return database.execute(sql).fetchall()
            database.executescript(sql)
            return []

    return OrderTable(
        "lite",
        {"sqlite": {"path": path, "table": "mirror", "order_by": order_by, **_KEPT}},
        f"CREATE TABLE mirror ({_COLUMNS}{own}); "
        f"CREATE TABLE history (place INTEGER PRIMARY KEY, done TEXT, key TEXT, sequence INTEGER); {_TRIGGERS}",
        "DROP TRIGGER IF EXISTS refuses_insert; DROP TRIGGER IF EXISTS refuses_update;",
        'SELECT k1, "order" FROM penstock_tombstones_mirror',
        _RECORDS.format(""),
        execute,
    )


_REMEMBER = """
CREATE FUNCTION public.remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO public.history (done, key, sequence) VALUES ('delete', old.key, old.sequence);
    ELSE
        INSERT INTO public.history (done, key, sequence) VALUES ('put', new.key, new.sequence);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER remembers AFTER INSERT OR UPDATE OR DELETE ON mirror FOR EACH ROW EXECUTE FUNCTION public.remember()
"""


def postgres_mirror(order_by: str) -> OrderTable:
    """In the database of the story's state, to which the sink comes by the same way."""
    own = ", penstock_order bigint" if order_by.startswith(".") else ""

    def execute(told: Telling, sql: str) -> Rows:
        assert told.state.database is not None
        return told.state.database.execute(sql)

    return OrderTable(
        "server",
        {"postgres": {"dsn": "${DATABASE}", "table": "mirror", "order_by": order_by, **_KEPT}},
        f"CREATE TABLE mirror ({_COLUMNS}{own}, CONSTRAINT refuses CHECK (kind <> 'refused')); CREATE TABLE history "
        f"(place bigint GENERATED ALWAYS AS IDENTITY, done text, key text, sequence bigint); {_REMEMBER}",
        "ALTER TABLE mirror DROP CONSTRAINT IF EXISTS refuses",
        'SELECT k1, "order" FROM penstock."penstock_tombstones_public.mirror"',
        _RECORDS.format("penstock."),
        execute,
    )
