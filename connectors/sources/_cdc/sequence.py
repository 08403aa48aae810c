"""The attribute `sequence` of each event: which of two events of one table is the newer, as text that sorts by code point.

    0001-00000000019e1048-0000000000000003
    stream, commit LSN, place in the transaction (`_cdc.positions`)

It is the event's position in the change stream, behind the number of the stream: where the server's log has gone back
(`_cdc.positions.following`), LSNs begin lower, and what comes is newer all the same. Changes of one row in one transaction have
places that rise. A row of a snapshot stands behind the transactions that it holds, and before the first place of every later one.

Source: CloudEvents, "Sequence" extension: a string, of which the lexicographic order is the order of events.
"""

from __future__ import annotations

from connectors.sources._cdc.positions import number_of, order

SEQUENCE = "sequence"
_BYTES = 8


def opening(partition: str) -> str:
    """What the sequences of one stream begin with.

    :param partition: of the stream.
    """
    return f"{number_of(partition):04x}-"


def sequence(opening: str, at: bytes) -> str:
    """:param at: the event's position in the stream."""
    return opening + at.hex("-", _BYTES)


def sequence_of_rows(opening: str, lsn: int) -> str:
    """Of rows that hold every transaction of which the commit lies before this LSN, and none other that was given."""
    return sequence(opening, order(lsn, 0))
