"""Schema changes: what tables looked like when the pipeline accepted them, and what becomes of changes that look otherwise.

The stream describes a table before its first row, and again after each change of it. What is compared is what events hold: the
columns that are read, with their types. A renamed column is one dropped and one added, for names are all that the stream has.

With `freeze` and `quarantine` the first look of each table is kept beside the position (`_cdc.positions.Detail`), in the same
commit as the events: so a run that stopped stops again, and a ledger restored from a backup has the look of its moment. A run
with `evolve` keeps no looks: the next one with another policy takes the tables as it finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import msgspec

from connectors._postgres import sql_name
from connectors.sources._pgoutput_messages import Relation
from penstock.errors import ComponentError, EnvironmentFault, Permanent
from penstock.event import Event
from penstock.spi import Notes

CODE = "source.schema_changed"
Policy = Literal["evolve", "freeze", "quarantine"]
Look = Mapping[str, tuple[int, int]]
"""Columns that events hold: by name, type OID and modifier."""

_encode = msgspec.json.Encoder().encode


class Drift:
    """Looks of the tables of one run, each seen before the first change that has it.

    :param known: looks by the table's name in SQL that the checkpoint holds.
    :param type_name: of a type by its OID.
    :param log: is told of each change of a look.
    :ivar changes: changes of looks that this run has seen.
    :ivar encoded: the looks for the checkpoint; None with `evolve`.
    """

    def __init__(
        self, policy: Policy, pipeline: str, known: Mapping[str, Look], type_name: Callable[[int], str], log: Notes
    ) -> None:
        self._log = log
        self._policy = policy
        self._pipeline = pipeline
        self._type_name = type_name
        self._accepted = dict(known) if policy != "evolve" else {}
        self._last: dict[int, tuple[str, Look]] = {}
        self._active: dict[str, Permanent] = {}
        self._switches: list[tuple[int, str, Permanent | None]] = []
        self.changes = 0
        self.encoded: msgspec.Raw | None = None
        self._keep()

    def see(self, relation: Relation, wanted: Collection[str] | None, reads: bool, source: str, index: int) -> None:
        """A table as its next change has it.

        :param wanted: columns that events hold; None: all.
        :param reads: its changes become events.
        :param source: of its events.
        :param index: of its next event in the batch.
        :raises EnvironmentFault: `source.schema_changed` with `freeze`; `source.table_renamed`.
        """
        name = sql_name(relation.schema, relation.name)
        before, self_before = self._last.get(relation.oid, (None, None))
        if not reads:
            if before is not None:
                raise self._renamed(before, name)
            return
        look = {c.name: (c.type_oid, c.typmod) for c in relation.columns if wanted is None or c.name in wanted}
        self._last[relation.oid] = name, look
        if self_before is not None and (before, self_before) != (name, look):
            self.changes += 1
            self._tell(name, self_before, look)
        if self._policy != "evolve":
            self._hold(name, look, source, index)

    def judge(self, title: str, look: Look) -> Permanent | None:
        """Why rows of a table with this look may not go on; a table's first look is accepted.

        :param title: the table's name in SQL: no two tables have the same.
        :raises EnvironmentFault: `source.schema_changed` with `freeze`.
        """
        if self._policy == "evolve":
            return None
        accepted = self._accepted.setdefault(title, look)
        if accepted is look:
            self._keep()
        if accepted == look:
            return None
        if self._policy == "freeze":
            raise EnvironmentFault(CODE, self._told(title, accepted, look), why=_FROZEN, help=self._way_on())
        return Permanent(CODE, self._told(title, accepted, look), why=_HELD, help=self._way_on())

    def _hold(self, name: str, look: Look, source: str, index: int) -> None:
        fault = self.judge(name, look)
        if fault is not None or source in self._active or self._switches:
            self._switches.append((index, source, fault))

    def mark(self, events: Sequence[Event], rejects: dict[int, ComponentError]) -> None:
        """Refuse the events of a batch whose table looked otherwise; called once, when the batch is complete."""
        active, switches = self._active, self._switches
        if not active and not switches:
            return
        following = iter([*switches, (len(events), "", None)])
        at, source, fault = next(following)
        for index, event in enumerate(events):
            while at <= index:
                _switch(active, source, fault)
                at, source, fault = next(following)
            refused = active.get(event.source)
            if refused is not None:
                rejects.setdefault(index, refused)
        for _, source, fault in switches:
            _switch(active, source, fault)
        switches.clear()

    def restart(self) -> None:
        """What was not taken comes again, and with it the descriptions of its tables."""
        self._active.clear()
        self._switches.clear()

    def _tell(self, name: str, before: Look, after: Look) -> None:
        """A line for the log; with `freeze` the error says it."""
        if before != after and self._policy != "freeze":
            told = f"{self._told(name, before, after)}: ({', '.join(before)}) → ({', '.join(after)})"
            kept = self._policy == "quarantine"
            self._log("source.table_changed", told, level="warning" if kept else "info", why=_HELD if kept else None)

    def _keep(self) -> None:
        if self._policy != "evolve":
            self.encoded = msgspec.Raw(_encode(self._accepted))

    def _told(self, name: str, before: Look, after: Look) -> str:
        added = [f"{c} ({self._type(after[c])})" for c in after if c not in before]
        dropped = [c for c in before if c not in after]
        retyped = [
            f"{c} ({self._type(before[c])} to {self._type(after[c])})" for c in after if c in before and before[c] != after[c]
        ]
        parts = [
            f"{what} {', '.join(columns)}"
            for what, columns in (("added", added), ("dropped", dropped), ("changed the type of", retyped))
            if columns
        ]
        return f"table {name} has {'; '.join(parts)}"

    def _type(self, found: tuple[int, int]) -> str:
        name = self._type_name(found[0]).removeprefix("pg_catalog.")
        return name if found[1] < 0 else f"{name}, modifier {found[1]}"

    def _way_on(self) -> str:
        return (
            f"pipe run {self._pipeline} --set source.postgres_cdc.schema_change=evolve accepts the tables as they are now; "
            "once it has read beyond the change, the policy holds again"
        )

    def _renamed(self, before: str, after: str) -> EnvironmentFault:
        return EnvironmentFault(
            "source.table_renamed",
            f"table {before} is called {after} now, and the pipeline does not read a table of that name",
            why="its changes would be passed over",
            help=f"name {after} in `tables`; or, where it is not to be read any more: ALTER PUBLICATION … DROP TABLE",
        )


_FROZEN = "`schema_change: freeze`: no row that is different was given"
_HELD = "`schema_change: quarantine`: the change is kept here until it is replayed"


def _switch(active: dict[str, Permanent], source: str, fault: Permanent | None) -> None:
    if fault is None:
        active.pop(source, None)
    else:
        active[source] = fault
