"""Which requests for snapshots were taken: one record in the checkpoint, however many there were.

A request is remembered twice. The partitions of its tables hold its id, from their plan until another snapshot uses them again;
and this record does, once all of its plans are durable. So one that comes again, because a run died before whoever asked had its
answer, plans no table twice: before the record is durable its partitions are not used again.

Signals of a pipeline come in the order of their numbers, so that the last one stands for those before it. Rows of a table come in
any order; those that are there no more are forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence

import msgspec

from connectors.sources._cdc.snapshot_held import Token
from connectors.sources._cdc.snapshot_positions import VERSION, generation_of, next_generation, order, unknown
from penstock.errors import Permanent
from penstock.event import Event
from penstock.spi import Batch, Position

PARTITION = "snapshots-asked"
"""No slot has a name with a hyphen."""
SIGNAL, ROW = "signal-", "table-"
"""What ids of snapshots begin with that were asked for by a signal, or by a row of a table."""


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record: the number of the last signal, and the ids of rows."""

    version: int
    signal: int = 0
    rows: tuple[str, ...] = ()

    def __contains__(self, snapshot: str) -> bool:
        if snapshot.startswith(SIGNAL):
            return int(snapshot.removeprefix(SIGNAL)) <= self.signal
        return snapshot.startswith(ROW) and snapshot.removeprefix(ROW) in self.rows

    def plus(self, snapshot: str) -> Asked:
        if snapshot.startswith(SIGNAL):
            return msgspec.structs.replace(self, signal=max(self.signal, int(snapshot.removeprefix(SIGNAL))))
        return msgspec.structs.replace(self, rows=(*self.rows, snapshot.removeprefix(ROW)))


_decode = msgspec.json.Decoder(Asked).decode
_encode = msgspec.json.Encoder().encode


class Refused(msgspec.Struct, frozen=True):
    """A request that becomes a dead letter: the event is given its position here."""

    event: Event
    error: Permanent


class _Due(msgspec.Struct):
    """A request that is remembered once its plans are durable."""

    snapshot: str
    plans: Sequence[Token]
    token: Token
    refused: Refused | None


class Memory:
    """The requests that were taken.

    :param rows: whether there is a table whose rows are looked at.
    """

    def __init__(self, *, rows: bool) -> None:
        self._rows = rows
        self._epoch = 0
        self._begin(Asked(VERSION), 0)

    def _begin(self, asked: Asked, generation: int) -> None:
        self._durable = self._last = asked
        self._generation = generation
        self._due: list[_Due] = []
        self._given: deque[tuple[Token, Asked]] = deque()
        self._there: set[str] | None = None if self._rows else set()

    def resume(self, positions: Mapping[str, Position], epoch: int) -> None:
        """:raises EnvironmentFault: `source.unknown_checkpoint`."""
        self._epoch = epoch
        found = positions.get(PARTITION)
        if found is None or not found.order:
            self._begin(Asked(VERSION), 0)
            return
        try:
            asked = _decode(found.detail)
        except msgspec.MsgspecError as error:
            raise unknown(PARTITION, "it cannot be read", str(error)) from error
        if asked.version != VERSION:  # Invariant 11
            raise unknown(PARTITION, f"it has version {asked.version}, and this program knows {VERSION}", None)
        self._begin(asked, generation_of(found.order))

    @property
    def rows(self) -> list[str]:
        """Ids of the rows that need not be looked at again."""
        due = [one.snapshot.removeprefix(ROW) for one in self._due if one.snapshot.startswith(ROW)]
        return [*self._last.rows, *due]

    @property
    def has_not_looked(self) -> bool:
        """Whether the rows that are there are not known yet."""
        return self._there is None

    def look(self, new: Collection[str], known: Collection[str]) -> None:
        """What the table has now: ids of rows that were not taken yet, and of those in `rows` that are still there."""
        self._settle()
        open_rows = (self._there or set()) | set(new)
        left = tuple(row for row in self._last.rows if row in known or row in open_rows)
        self._last, self._there = msgspec.structs.replace(self._last, rows=left), open_rows

    def taken(self, snapshot: str) -> Token | None:
        """Settled once it is remembered that this request was taken; None: it was not."""
        self._settle()
        waited = [one.token for one in self._due if one.snapshot == snapshot]
        waited += [token for token, asked in self._given if snapshot in asked]
        if waited:
            return waited[0]
        return Token.settled() if snapshot in self._durable else None

    def may_come_again(self, snapshot: str) -> bool:
        """Whether somebody may still ask for the snapshot of this id, which has to be known by its partitions then."""
        self._settle()
        if snapshot.startswith(SIGNAL):
            return snapshot not in self._durable
        return snapshot.startswith(ROW) and (self._there is None or snapshot.removeprefix(ROW) in self._there)

    def take(self, snapshot: str, plans: Sequence[Token], refused: Refused | None = None) -> Token:
        """Remember the request once these are settled: `batches` gives what does."""
        token = Token()
        self._due.append(_Due(snapshot, plans, token, refused))
        return token

    def batches(self) -> list[Batch]:
        """What is to be given now."""
        ready = [one for one in self._due if all(plan.is_done for plan in one.plans)]
        self._due = [one for one in self._due if one not in ready]
        return [self._batch(one) for one in ready]

    def _batch(self, due: _Due) -> Batch:
        self._last = self._last.plus(due.snapshot)
        self._generation = next_generation(self._generation, self._epoch)
        self._given.append((due.token, self._last))
        at = order(self._generation, 0, 1)
        end, refused = Position(at, _encode(self._last)), due.refused
        if refused is None:
            return Batch(PARTITION, [], end, due.token)
        refused.event.position = at
        return Batch(PARTITION, [refused.event], end, due.token, rejects={0: refused.error})

    def _settle(self) -> None:
        while self._given and self._given[0][0].is_done:
            _, self._durable = self._given.popleft()
            if self._there is not None:
                self._there -= set(self._durable.rows)
