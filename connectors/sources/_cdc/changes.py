"""Messages of the stream in, batches of events out. No I/O.

    changes = Changes(decoder, selection, options, start)
    changes.feed(message)             # as often as there is something to read
    batch = changes.take()            # what has come together, with its positions

What lies at or before the start is counted and left out, so that a change has the same place and id however often it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from connectors.sources._cdc.collected import Options
from connectors.sources._cdc.drift import Drift
from connectors.sources._cdc.positions import Start
from connectors.sources._cdc.row_events import RowEvents
from connectors.sources._cdc.sequence import sequenced
from connectors.sources._cdc.snapshot_tap import Tap
from connectors.sources._cdc.tables import Selection
from connectors.sources._cdc.toast import UnsentUpdate
from connectors.sources._pg_replication import protocol_error
from connectors.sources._pgoutput import INSERT, Decoder
from connectors.sources._pgoutput_messages import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Origin,
    Relation,
    RelationMessage,
    StreamAbort,
    StreamCommit,
    Streamed,
    StreamStart,
    Truncate,
    TypeMessage,
    Update,
)
from penstock.event import Event


class Changes(RowEvents):
    """Takes messages, whole or of a transaction that was streamed (`feed`), and gives what they are (`take`).

    Whoever feeds fills in `keys` when `feed` gives back a relation.
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
        super().__init__(decoder, selection, options, start, drift, tap)
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
        at = self._prefix + place.to_bytes(8, "big")
        event = Event(
            f"{lsn}-{change}",
            table.source,
            kind,
            self._time,
            decoded={"before": None, "after": row} if self._options.include_before else row,
            extensions=None if self._opening is None else sequenced(self._opening, at),
            position=at,
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
