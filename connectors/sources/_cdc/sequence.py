"""The attribute `sequence` of each event: which of two events of one table is the newer, as text that sorts by code point.

    0001-00000000019e1048-0000000000000003
    stream, commit LSN, place in the transaction (`_cdc.positions`)

It is the event's position in the change stream, behind the number of the stream: where the server's log has gone back
(`_cdc.positions.following`), LSNs begin lower, and what comes is newer all the same. Changes of one row in one transaction have
places that rise. A row of a snapshot stands behind the transactions that it holds, and before the first place of every later one.

It costs a tenth of what a change costs, and is left out where nobody asks for it.

Source: CloudEvents, "Sequence" extension: a string, of which the lexicographic order is the order of events.
"""

from __future__ import annotations

from typing import Any

from connectors.sources._cdc.positions import number_of, order

SEQUENCE = "sequence"
_BYTES = 8


Extensions = dict[str, Any]


def opening(partition: str) -> str:
    """What the sequences of one stream begin with.

    :param partition: of the stream.
    """
    return f"{number_of(partition):04x}-"


def sequenced(opening: str | None, at: bytes) -> Extensions | None:
    """The extensions of an event.

    :param opening: None: without a sequence.
    :param at: the event's position in the stream.
    """
    return None if opening is None else {SEQUENCE: opening + at.hex("-", _BYTES)}


def sequenced_rows(opening: str | None, lsn: int) -> Extensions | None:
    """Those of rows that hold every transaction of which the commit lies before this LSN, and none other that was given."""
    return sequenced(opening, order(lsn, 0))
