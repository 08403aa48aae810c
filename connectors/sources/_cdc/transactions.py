"""`transaction_metadata`: which transaction a change belongs to, and an event behind each transaction that sums it up.

The counts are of the transaction as it was committed: before `where`, and also where a run began in the middle of it, so that the
event is the same however often it is read. A receiver has the whole transaction once it has seen this event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from connectors.sources._cdc.positions import END
from connectors.sources._cdc.sequence import sequenced
from penstock.event import Event

TYPE = "transaction.end"
PLACE = END - 1
"""Of the event in its transaction: behind all changes, before the end."""
_PLACE = PLACE.to_bytes(8, "big")


class Transactions:
    """Counts the changes of the transaction under way.

    :param source: of the events, without what follows the `/`.
    """

    def __init__(self, source: str) -> None:
        self._source = f"{source}/transaction"
        self._counts: Counter[str] = Counter()

    def begin(self) -> None:
        self._counts.clear()

    def count(self, table: str) -> None:
        """A change of a table that is read, whether it is given or not."""
        self._counts[table] += 1

    def end(self, lsn: str, time: str, xid: int, changes: int, prefix: bytes, origin: int, opening: str | None) -> Event | None:
        """The event behind the transaction; None where no table that is read was changed.

        :param changes: all that it made, those of other tables of the publication among them.
        :param opening: of its sequence; None: without one.
        """
        if not self._counts:
            return None
        data = {"id": xid, "lsn": lsn, "changes": changes, "tables": dict(self._counts)}
        record: dict[str, Any] = {"op": "transaction", "schema": None, "table": None, "before": None, "after": None}
        return Event(
            f"{lsn}-end",
            self._source,
            TYPE,
            time,
            decoded=data,
            position=prefix + _PLACE,
            origin=origin,
            extensions={**(sequenced(opening, prefix + _PLACE) or {}), "txid": str(xid)},
            record={**record, "lsn": lsn, "xid": xid, "transaction": data},
        )


def annotate(events: Sequence[Event]) -> None:
    """Tell each change of a batch its transaction, and its place there."""
    for event in events:
        record = event.record
        if event.position[8:] == _PLACE:
            continue
        place = int.from_bytes(event.position[8:], "big") >> 1
        record["transaction"] = {"id": record["xid"], "lsn": record["lsn"], "index": place}
        event.extensions = {**(event.extensions or {}), "txid": str(record["xid"]), "txindex": str(place)}


def is_end(event: Event) -> bool:
    """Whether it is no change, but the end of a transaction."""
    return event.position[8:] == _PLACE
