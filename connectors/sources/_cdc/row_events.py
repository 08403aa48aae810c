"""Changes of rows to events: what an insert, an update, a delete and a truncate become. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from connectors.sources._cdc.collected import Collected, Options
from connectors.sources._cdc.drift import Drift
from connectors.sources._cdc.keys import NO_KEY, Key, unknown_key
from connectors.sources._cdc.positions import Start
from connectors.sources._cdc.sequence import sequenced
from connectors.sources._cdc.snapshot_tap import Tap
from connectors.sources._cdc.tables import Selection, Table
from connectors.sources._cdc.toast import Unsent, UnsentUpdate, converters_of
from connectors.sources._cdc.transactions import Transactions
from connectors.sources._pgoutput import Decoder
from connectors.sources._pgoutput_messages import UNCHANGED, Delete, Insert, Relation, Row, Truncate, Update
from penstock.errors import Fatal, Permanent
from penstock.event import Event

PLACEHOLDER = "__penstock_unchanged"
"""Stands for a large value that an update left as it was, with `toast: placeholder`, and in dead letters."""


class RowEvents(Collected):
    """Makes events of changes, each at its place in the transaction that has begun.

    :ivar keys: primary keys by table OID, for tables with REPLICA IDENTITY FULL.
    """

    def __init__(
        self, decoder: Decoder, selection: Selection, options: Options, start: Start, drift: Drift, tap: Tap | None
    ) -> None:
        self.decoder = decoder
        self.keys: dict[int, Key] = {}
        self._selection = selection
        super().__init__(options, start, drift, tap)

    def _table(self, relation: Relation) -> Table:
        table = self._tables.get(relation.oid)
        return self._meet(relation) if table is None else table

    def _meet(self, relation: Relation) -> Table:
        """The first change of a table that was described."""
        selection = self._selection
        try:
            table = selection.table(relation, self.keys.get(relation.oid, NO_KEY))
            self._drift.see(relation, selection.wanted(relation), bool(table.types), table.source, len(self.events))
        except Fatal:
            self._change -= 1  # it was not given: the next run meets it again
            raise
        self._tables[relation.oid] = table
        return table

    def _insert(self, found: Insert) -> None:
        self._change += 1
        table = self._table(found.relation)
        place = 2 * self._change + 1
        if place > self._threshold and "insert" in table.types:
            self._give(table, "insert", place, None, found.new, found.unchanged, found.fault)

    def _update(self, found: Update) -> None:
        self._change += 1
        table = self._table(found.relation)
        place = 2 * self._change + 1
        if place <= self._threshold or not table.types:
            return
        old = found.old
        if old is not None and _rekeyed(old, found.new, tuple(old) if found.old_is_key else table.key):
            if place - 1 > self._threshold and "delete" in table.types:
                self._give(table, "delete", place - 1, old, None, (), found.fault)
            if "insert" in table.types:
                self._give(table, "insert", place, None, found.new, found.unchanged, found.fault)
        elif "update" in table.types:
            fault = found.fault
            if old is not None and not found.old_is_key and _rekeyed(old, found.new, table.doubtful):
                fault = unknown_key(table.title, table.doubtful)
            self._give(table, "update", place, None if found.old_is_key else old, found.new, found.unchanged, fault)

    def _delete(self, found: Delete) -> None:
        self._change += 1
        table = self._table(found.relation)
        place = 2 * self._change + 1
        if place > self._threshold and "delete" in table.types:
            self._give(table, "delete", place, found.old, None, (), found.fault)

    def _truncate(self, found: Truncate) -> None:
        for relation in found.relations:
            self._change += 1
            table = self._table(relation)
            place = 2 * self._change + 1
            if place <= self._threshold or "truncate" not in table.types or self._options.truncate == "ignore":
                continue
            if self._options.truncate == "fail":
                self._change -= 1  # it was not given: the next run meets it again
                raise Fatal(
                    "source.truncated",
                    f"table {relation.schema}.{relation.name} was truncated, in transaction {self._xid}",
                    where=f"LSN {self._lsn}, change {self._change + 1}",
                    help="`truncate: event` gives it as an event, `truncate: ignore` passes over it",
                )
            self._give(table, "truncate", place, None, None, (), None)

    def _give(
        self,
        table: Table,
        op: str,
        place: int,
        before: Row | None,
        after: Row | None,
        unchanged: tuple[str, ...],
        fault: Permanent | None,
    ) -> None:
        events, at = self.events, self._prefix + place.to_bytes(8, "big")
        if unchanged and after is not None:
            fault = self._unsent(table, after, unchanged) or fault
        if fault is not None:
            self.rejects[len(events)] = fault
        events.append(
            Event(
                f"{self._lsn}-{place >> 1}" if place & 1 else f"{self._lsn}-{place >> 1}-old",
                table.source,
                table.types[op],
                self._time,
                decoded={"before": before, "after": after}
                if self._options.include_before
                else before
                if op == "delete"
                else after,
                extensions=sequenced(self._opening, at),
                position=at,
                origin=len(events),
                record={
                    "op": op,
                    "schema": table.schema,
                    "table": table.name,
                    "before": before,
                    "after": after,
                    "lsn": self._lsn,
                    "xid": self._xid,
                },
            )
        )

    def _unsent_update(self, found: UnsentUpdate) -> None:
        before = len(self.events)
        self._update(found)
        names = tuple(name for name in found.unchanged if name not in self._selection.masks.nulls)
        if names and len(self.events) > before and self.events[-1].record["after"] is found.new:
            relation = found.relation
            converters = converters_of(self.decoder.plans(relation.oid))
            self.unsent.append(Unsent(len(self.events) - 1, relation, found.row, names, converters, found.fault))

    def _unsent(self, table: Table, row: Row, unchanged: tuple[str, ...]) -> Permanent | None:
        """Put the placeholder where the server sent nothing; why that is a fault, where it is one (Invariant 13)."""
        nulls = self._selection.masks.nulls
        for name in unchanged:
            row[name] = None if name in nulls else PLACEHOLDER
        unchanged = tuple(name for name in unchanged if name not in nulls)
        if self._options.toast == "placeholder" or not unchanged:
            return None
        return Permanent(
            "source.unchanged_toast",
            f"the update does not carry the large value of {', '.join(unchanged)}, which it left as it was",
            where=f"table {table.schema}.{table.name}",
            help=f'ALTER TABLE "{table.schema}"."{table.name}" REPLICA IDENTITY FULL; or `toast: placeholder`',
        )

    def _counted(self, handler: Callable[[Any], None], transactions: Transactions) -> Callable[[Any], None]:
        """Counts the changes of tables that are read, given or not."""
        tables = self._tables

        def counted(found: Any) -> None:
            handler(found)
            for relation in found.relations if found.__class__ is Truncate else (found.relation,):
                table = tables[relation.oid]
                if table.types:
                    transactions.count(table.title)

        return counted


def _rekeyed(old: Row, new: Row, key: tuple[str, ...]) -> bool:
    """Whether a column of the key has another value. One that was not sent is unchanged."""
    return any(name in old and new[name] is not UNCHANGED and old[name] != new[name] for name in key)
