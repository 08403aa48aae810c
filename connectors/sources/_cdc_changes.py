"""Messages of the stream in, batches of events out. No I/O.

    changes = Changes(decoder, selection, options, start)
    changes.feed(message)             # as often as there is something to read
    batch = changes.take()            # what has come together, with its positions

What lies at or before the start is counted and left out, so that a change has the same place and id however often it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from connectors.sources._cdc_cut import cutter, selected
from connectors.sources._cdc_drift import Drift
from connectors.sources._cdc_keys import NO_KEY, Key, unknown_key
from connectors.sources._cdc_positions import END, Start, order, position
from connectors.sources._cdc_readmit import kept
from connectors.sources._cdc_snapshot_tap import Tap
from connectors.sources._cdc_tables import Selection, Table
from connectors.sources._cdc_toast import Unsent, UnsentUpdate, converters_of
from connectors.sources._cdc_transactions import PLACE, Transactions, annotate
from connectors.sources._pg_replication import TimeTexts, lsn_text, protocol_error
from connectors.sources._pgoutput import INSERT, Decoder
from connectors.sources._pgoutput_messages import (
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Origin,
    Relation,
    RelationMessage,
    Row,
    StreamAbort,
    StreamCommit,
    Streamed,
    StreamStart,
    Truncate,
    TypeMessage,
    Update,
)
from penstock.errors import ComponentError, Fatal, Permanent
from penstock.event import Event
from penstock.spi import Batch, Program

PLACEHOLDER = "__penstock_unchanged"
"""Stands for a large value that an update left as it was, with `toast: placeholder`, and in dead letters."""


class Options(msgspec.Struct, frozen=True):
    """How changes become events."""

    partition: str
    include_before: bool
    toast: Literal["placeholder", "reselect", "fail"]
    truncate: Literal["event", "fail", "ignore"]
    where: Program | None
    transactions: Transactions | None = None
    """With `transaction_metadata`."""


class Changes:
    """Collects the events of the next batch.

    :ivar count: events collected.
    :ivar size: bytes of the messages that they were made from.
    :ivar in_transaction: between the begin of a transaction and its commit.
    :ivar end: end of the last complete transaction, or LSN of the last keepalive: what may be confirmed once all is durable.
    :ivar timeline: of the server's log; whoever feeds sets it, once it is known.
    :ivar keys: primary keys by table OID, for tables with REPLICA IDENTITY FULL; whoever feeds fills them in when `feed` says so.
    :ivar tap: is told which changes are given, while tables are read beside the stream.
    :ivar unsent: events that lack values, which are refused unless whoever takes has filled them in (`_cdc_toast`).
    """

    def __init__(
        self,
        decoder: Decoder,
        selection: Selection,
        options: Options,
        start: Start,
        drift: Drift,
        tap: Tap | None = None,
    ) -> None:
        self.decoder = decoder
        self.tap = Tap() if tap is None else tap
        self._drift = drift
        self.keys: dict[int, Key] = {}
        self._selection = selection
        self._options = options
        self._time_text = TimeTexts()
        self._tables: dict[int, Table] = {}
        self._handlers: Mapping[type, Callable[[Any], Relation | Streamed | None]] = {
            Begin: self._begin,
            Commit: self._commit,
            Insert: self._insert,
            Update: self._update,
            Delete: self._delete,
            Truncate: self._truncate,
            RelationMessage: self._relation,
            Origin: self._ignore,
            TypeMessage: self._ignore,
            LogicalMessage: self._ignore,
            StreamStart: self._streamed,
            StreamAbort: self._streamed,
            StreamCommit: self._streamed,
        }
        more: dict[type, Callable[[Any], None]] = {UnsentUpdate: self._unsent_update} if options.toast == "reselect" else {}
        if options.transactions is not None:
            rows: dict[type, Callable[[Any], None]] = {Insert: self._insert, Update: self._update, **more}
            rows |= {Delete: self._delete, Truncate: self._truncate}
            more = {kind: self._counted(handler, options.transactions) for kind, handler in rows.items()}
        self._handlers = {**self._handlers, **more}
        self.restart(start)

    def restart(self, start: Start) -> None:
        """A new connection, which sends on from `start.end`: forget what was not taken, and what tables look like."""
        self._start = start
        self.timeline = start.timeline
        self.end = self._acknowledged = start.end
        self._reached = order(start.commit, start.place)
        self.in_transaction = False
        self._xid = self._change = self._commit_lsn = 0
        self._threshold = END
        self._lsn = self._time = ""
        self._prefix = b""
        self._tables.clear()
        self.tap.forget()
        self._drift.restart()
        self._clear()
        if start.commit == 0:  # nothing was read from here yet: the slot's own place becomes the first checkpoint
            self._acknowledged = 0
            self._marks.append((order(start.end, 0), start.end))

    def _clear(self) -> None:
        self.events: list[Event] = []
        self.size = 0
        self.rejects: dict[int, ComponentError] = {}
        self.unsent: list[Unsent] = []
        self._marks: list[tuple[bytes, int]] = []
        self._base = self.end

    @property
    def count(self) -> int:
        return len(self.events)

    @property
    def moved(self) -> bool:
        """Whether there is an LSN to confirm that no batch has carried yet."""
        return self.end > self._acknowledged

    @property
    def start(self) -> Start:
        """Where a new connection goes on behind the last batch that was taken."""
        return self._start

    @property
    def feed(self) -> Callable[..., Relation | Streamed | None]:
        """`feed(message, streamed=False)`: one message. What it gives back is for the one who feeds: a relation that was
        described, or what became of a transaction in progress.

        :raises ProtocolError: the message does not fit.
        :raises Fatal: `source.truncated`, with `truncate: fail`.
        """
        return self._feed if self.tap.is_idle else self._feed_tapped

    def _feed(self, message: bytes, streamed: bool = False) -> Relation | Streamed | None:
        """Inserts at once, which most of a stream are, as `_insert` and `_give` would."""
        if message[:1] != INSERT or self._options.transactions is not None:
            return self._feed_other(message, streamed)
        relation, row, unchanged, fault = self.decoder.insert(message, streamed)
        self._change = change = self._change + 1
        table = self._tables.get(relation.oid) or self._meet(relation)
        place, kind, events, lsn = 2 * change + 1, table.types.get("insert"), self.events, self._lsn
        if kind is None or place <= self._threshold:
            return None
        self.size += len(message)
        if unchanged or fault is not None:
            self._give(table, "insert", place, None, row, unchanged, fault)
            return None
        record = {
            "op": "insert",
            "schema": table.schema,
            "table": table.name,
            "before": None,
            "after": row,
            "lsn": lsn,
            "xid": self._xid,
        }
        event = Event(
            f"{lsn}-{change}",
            table.source,
            kind,
            self._time,
            decoded={"before": None, "after": row} if self._options.include_before else row,
            position=self._prefix + place.to_bytes(8, "big"),
            origin=len(events),
            record=record,
        )
        events.append(event)
        return None

    def _feed_other(self, message: bytes, streamed: bool) -> Relation | Streamed | None:
        found = self.decoder.decode(message, streamed)
        handler = self._handlers.get(found.__class__)
        if handler is None:
            raise protocol_error(f"a {type(found).__name__} stands outside of streamed blocks")
        before = len(self.events)
        described = handler(found)
        if len(self.events) != before:
            self.size += len(message)
        return described

    def _feed_tapped(self, message: bytes, streamed: bool = False) -> Relation | Streamed | None:
        before = len(self.events)
        described = self._feed(message, streamed)
        if len(self.events) != before:
            self.tap.collected(message, streamed, self._xid, self.decoder.relations, self.events[before:])
        return described

    def keepalive(self, end: int) -> None:
        """The server has sent everything before `end`."""
        if not self.in_transaction and end > self.end:
            self.end = end
            self._marks.append((order(end, 0), end))

    def begin(self, commit_lsn: int, time: int, xid: int) -> None:
        """What is fed next belongs to this transaction."""
        self.in_transaction = True
        self._commit_lsn, self._xid, self._change = commit_lsn, xid, 0
        self._prefix = commit_lsn.to_bytes(8, "big")
        self._lsn, self._time = lsn_text(commit_lsn), self._time_text(time)
        if self._options.transactions is not None:
            self._options.transactions.begin()
        start = self._start
        self._threshold = 0 if commit_lsn > start.commit else start.place if commit_lsn == start.commit else END

    def commit(self, end_lsn: int) -> None:
        """The transaction is complete."""
        if self._options.transactions is not None and self._threshold < PLACE:
            self._sum_up(self._options.transactions)
        self.in_transaction = False
        if self._threshold < END:
            self._marks.append((order(self._commit_lsn, END), end_lsn))
        self.end = max(self.end, end_lsn)

    def take(self) -> Batch | None:
        """All that was collected; None where nothing was, and no LSN either."""
        at = self._at()
        self._drift.mark(self.events, self.rejects)
        if self._options.transactions is not None:
            annotate(self.events)
        events, rejects = selected(self._options.where, self.events, self.rejects)
        for index in rejects:  # what the dead letter keeps, of a change that the server will not send again
            events[index].original = kept(events[index])
        self.tap.given(events, rejects)
        looks = self._drift.encoded
        if (not events and not self.moved) or at <= self._reached:
            self._clear()
            return None
        token = self.end if self.moved else None  # Invariant 1: never in mid-transaction
        batch = Batch(
            self._options.partition,
            events,
            position(at, self.end, looks, self.timeline),
            token,
            self.size,
            rejects,
            cutter(events, self._marks, self._base, looks, self.timeline),
        )
        self._acknowledged = self.end
        self._reached = at
        self._start = Start(int.from_bytes(at[:8], "big"), int.from_bytes(at[8:], "big"), self.end, self.timeline)
        self._clear()
        return batch

    def _at(self) -> bytes:
        """The position of all that was fed."""
        place = 2 * self._change + 1
        if self.in_transaction and self._change and place > self._threshold:
            return order(self._commit_lsn, place)
        return self._marks[-1][0] if self._marks else self._reached

    def _ignore(self, found: object) -> None:
        """Origins, types and logical messages are no changes."""

    def _streamed(self, found: Streamed) -> Streamed:
        return found

    def _relation(self, found: RelationMessage) -> Relation:
        self._tables.pop(found.relation.oid, None)
        return found.relation

    def _begin(self, found: Begin) -> None:
        self.begin(found.commit_lsn, found.time, found.xid)

    def _commit(self, found: Commit) -> None:
        self.commit(found.end_lsn)

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
        events = self.events
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
                position=self._prefix + place.to_bytes(8, "big"),
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

    def _sum_up(self, transactions: Transactions) -> None:
        end = transactions.end(self._lsn, self._time, self._xid, self._change, self._prefix, len(self.events))
        if end is not None:
            self.events.append(end)

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


def _rekeyed(old: Row, new: Row, key: tuple[str, ...]) -> bool:
    """Whether a column of the key has another value. One that was not sent is unchanged."""
    return any(name in old and new[name] is not UNCHANGED and old[name] != new[name] for name in key)
