"""What a run's log is told of snapshots: which go on and where, which tables are read now, what was read. No values of keys."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.sources._cdc.snapshot_held import Table
from penstock.spi import Notes

_SHOWN = 5
"""Tables that a line names."""


class Telling:
    """Writes the lines.

    :param log: the source's.
    """

    def __init__(self, log: Notes) -> None:
        self._log = log

    def resumed(self, tables: Sequence[Table]) -> None:
        """What earlier runs left: a line for each snapshot that is not done."""
        for snapshot in dict.fromkeys(table.progress.snapshot for table in tables if not table.is_done):
            known = [table for table in tables if table.progress.snapshot == snapshot]
            left = [table for table in known if not table.is_done]
            done = len(known) - len(left)
            behind = f"; {done:,} of its tables are done" if done else ""
            self._log(
                "snapshot.resumed", f"the snapshot {snapshot} goes on: {_listed([_place(table) for table in left])}{behind}"
            )

    def planned(self, snapshot: str, tables: Sequence[Table]) -> None:
        """Tables that were not among those of the snapshot before."""
        if tables:
            self._log("snapshot.begun", f"the snapshot {snapshot} reads {_listed([table.progress.title for table in tables])}")

    def given(self, table: Table) -> None:
        """The last of a table's rows."""
        snapshot, title = table.progress.snapshot, table.progress.title
        self._log("snapshot.given", f"the snapshot {snapshot} of {title} is done: {table.rows:,} rows in this run")


def _place(table: Table) -> str:
    if not table.progress.key:
        return f"{table.progress.title} from its beginning, for it has no key"
    return f"{table.progress.title} " + (f"behind chunk {table.chunk:,}" if table.chunk else "from its beginning")


def _listed(texts: Sequence[str]) -> str:
    more = f", and {len(texts) - _SHOWN:,} more tables" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
