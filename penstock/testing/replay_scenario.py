"""A table that refuses some rows until it is mended, for crash stories in which dead letters are replayed.

A trigger of the table refuses the oracle's kinds `refused` and `refused_part`; `mend` drops it while the run lives. What the
steps refuse (`error`, `garbage`, `oversized`) fails again, however often it is replayed.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from penstock.testing.scenario import Output, table_output

TABLE = "table"
_TRIGGER = (
    "CREATE TRIGGER refuses BEFORE INSERT ON events WHEN new.kind = 'refused' OR (new.kind = 'refused_part' AND new.part = 1) "
    "BEGIN SELECT RAISE(ABORT, 'CHECK constraint failed: refused'); END"
)


def refusing_table() -> Output:
    """A table whose refusals can be mended while somebody writes to it."""
    table = table_output(TABLE, refuses=False)

    def prepare(project: Path) -> None:
        table.prepare(project)
        with closing(sqlite3.connect(project / f"out/{TABLE}.db")) as database:
            database.execute(_TRIGGER)
            database.commit()

    return replace(table, prepare=prepare)


def mend(project: Path) -> None:
    """From now on the table takes every row."""
    with closing(sqlite3.connect(project / f"out/{TABLE}.db", timeout=30)) as database:
        database.execute("DROP TRIGGER IF EXISTS refuses")
        database.commit()
