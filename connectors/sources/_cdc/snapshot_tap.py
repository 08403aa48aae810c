"""Listens to the change stream while tables are read beside it: which changes were given, of which keys. No I/O.

A `Tap` is set on `Changes` as long as there is somebody to tell. Keys are taken from the message itself, so that neither masks
nor columns that are not wanted stand between a change and the row that it is of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from struct import Struct

import msgspec

from connectors._pg_values import Converter
from connectors.sources._cdc.snapshot_touched import RawKey, Touched
from connectors.sources._pgoutput_messages import UNCHANGED, Relation
from connectors.sources._pgoutput_rows import Plan, decode_row
from penstock.event import Event

_u4 = Struct("!I").unpack_from
_ROWS = frozenset(b"IUD")
_TRUNCATE = ord("T")
_OLD_ROW, _NEW_ROW = b"KO", ord("N")
_raw: Converter = bytes


class Listener(msgspec.Struct, frozen=True, eq=False):
    """A table that is read.

    :ivar source: of its events.
    :ivar key: names of the key's columns, with the OIDs of their types.
    """

    source: str
    key: tuple[tuple[str, int], ...]
    touched: Touched


class Tap:
    """Tells each table's `Touched` of the changes that were given of it."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}
        self._plans: dict[int, tuple[Relation, Plan]] = {}
        self._pending: dict[bytes, list[Callable[[], None]]] = {}

    def add(self, listener: Listener) -> None:
        """From now on."""
        self._listeners.setdefault(listener.source, []).append(listener)
        self._plans.clear()

    def remove(self, listener: Listener) -> None:
        """Harmless where it does not listen."""
        others = [one for one in self._listeners.pop(listener.source, ()) if one is not listener]
        if others:
            self._listeners[listener.source] = others
        self._plans.clear()

    @property
    def is_idle(self) -> bool:
        return not self._listeners

    def forget(self) -> None:
        """What was not given will be told again, by another connection."""
        self._pending.clear()

    def collected(
        self, message: bytes, streamed: bool, xid: int, relations: Mapping[int, Relation], events: Sequence[Event]
    ) -> None:
        """A message made these events, which are to be given."""
        for listener in self._listeners.get(events[0].source, ()):
            if message[0] in _ROWS:
                self._row(listener, message, 5 if streamed else 1, xid, relations, events)
        if message[0] == _TRUNCATE:
            for event in events:
                for listener in self._listeners.get(event.source, ()):
                    self._note(event, lambda touched=listener.touched: touched.empty(xid))  # type: ignore[misc]

    def given(self, events: Sequence[Event], rejects: Collection[int]) -> None:
        """These of the events that were collected are in the batch; all the others were left out."""
        if self._pending:
            for index, event in enumerate(events):
                if index not in rejects:
                    for tell in self._pending.get(event.position, ()):
                        tell()
            self._pending.clear()

    def _row(
        self,
        listener: Listener,
        message: bytes,
        at: int,
        xid: int,
        relations: Mapping[int, Relation],
        events: Sequence[Event],
    ) -> None:
        (oid,) = _u4(message, at)
        relation = relations[oid]
        old, new = self._keys(message, at + 4, self._plan(relation), listener, relation)
        for event in events:
            op = event.record["op"]
            keys = {key for key, of in ((old, "delete"), (new, "insert")) if key is not None and op in (of, "update")}
            for key in keys:
                self._note(event, lambda key=key: listener.touched.add(xid, key or None))  # type: ignore[misc]

    def _note(self, event: Event, tell: Callable[[], None]) -> None:
        self._pending.setdefault(event.position, []).append(tell)

    def _keys(
        self, message: bytes, at: int, plan: Plan, listener: Listener, relation: Relation
    ) -> tuple[RawKey | None, RawKey | None]:
        """Old and new key; empty where it cannot be told, None where the message has no such row."""
        types = {column.name: column.type_oid for column in relation.columns}
        known = all(types.get(name) == oid for name, oid in listener.key)
        old = new = None
        while at < len(message):
            kind = message[at]
            row, at, _, _ = decode_row(message, at + 1, plan)
            values = tuple(row.get(name) for name, _ in listener.key) if known else (None,)
            key: RawKey = () if any(value is None or value is UNCHANGED for value in values) else values  # type: ignore[assignment]
            if kind == _NEW_ROW:
                new = key
            elif kind in _OLD_ROW:
                old = key
        return old, new

    def _plan(self, relation: Relation) -> Plan:
        found = self._plans.get(relation.oid)
        if found is None or found[0] is not relation:
            names = {name for listeners in self._listeners.values() for listener in listeners for name, _ in listener.key}
            plan: Plan = [(column.name, _raw if column.name in names else None) for column in relation.columns]
            found = self._plans[relation.oid] = relation, plan
        return found[1]
