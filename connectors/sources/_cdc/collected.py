"""What was collected of the stream since the last batch, and the batch that it becomes. No I/O.

Events are put in by `_cdc.row_events`; here are the places of transactions, and what may be confirmed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from connectors.sources._cdc.cut import cutter, selected
from connectors.sources._cdc.drift import Drift
from connectors.sources._cdc.positions import END, Start, order, position
from connectors.sources._cdc.readmit import kept
from connectors.sources._cdc.sequence import opening
from connectors.sources._cdc.snapshot_tap import Tap
from connectors.sources._cdc.tables import Table
from connectors.sources._cdc.toast import Unsent
from connectors.sources._cdc.transactions import PLACE, Transactions, annotate
from connectors.sources._pg_replication import TimeTexts, lsn_text
from penstock.errors import ComponentError
from penstock.event import Event
from penstock.spi import Batch, Program


class Options(msgspec.Struct, frozen=True):
    """How changes become events."""

    partition: str
    include_before: bool
    toast: Literal["placeholder", "reselect", "fail"]
    truncate: Literal["event", "fail", "ignore"]
    where: Program | None
    transactions: Transactions | None = None
    """With `transaction_metadata`."""
    sequence: bool = False
    """Whether events have one (`_cdc.sequence`)."""


class Collected:
    """Collects the events of the next batch.

    :ivar size: bytes of the messages that they were made from.
    :ivar in_transaction: between the begin of a transaction and its commit.
    :ivar end: end of the last complete transaction, or LSN of the last keepalive: what may be confirmed once all is durable.
    :ivar timeline: of the server's log; whoever feeds sets it, once it is known.
    :ivar tap: is told which changes are given, while tables are read beside the stream.
    :ivar unsent: events that lack values, which are refused unless whoever takes has filled them in (`_cdc.toast`).
    """

    def __init__(self, options: Options, start: Start, drift: Drift, tap: Tap | None) -> None:
        self.tap = Tap() if tap is None else tap
        self._options = options
        self._opening = opening(options.partition) if options.sequence else None
        self._drift = drift
        self._time_text = TimeTexts()
        self._tables: dict[int, Table] = {}
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

    def _sum_up(self, transactions: Transactions) -> None:
        end = transactions.end(self._lsn, self._time, self._xid, self._change, self._prefix, len(self.events), self._opening)
        if end is not None:
            self.events.append(end)
