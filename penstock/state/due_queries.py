"""Dead letters that a run takes up by itself: open ones whose next retry is due, and parked ones with nothing before them.

An index gives them, so that a look costs little however many letters there are. Every function runs inside the caller's
transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from penstock.state.dialect import Connection, dialect_of
from penstock.state.lane_queries import LanePlace
from penstock.state.lane_tables import first_of
from penstock.state.records import Status

_DUE = "l.pending IS NULL AND l.next_at IS NOT NULL AND l.status = ? AND l.next_at <= ?"


def due(connection: Connection, now: float) -> list[Literal["open", "parked"]]:
    """Of which status some letters are due."""
    query = f"SELECT EXISTS (SELECT 1 FROM letters AS l WHERE {_DUE})"  # noqa: S608 - a constant
    kinds: tuple[Literal["open", "parked"], ...] = ("open", "parked")
    return [status for status in kinds if connection.execute(query, (status, now)).fetchone()[0]]


def due_places(connection: Connection, status: Status, due: float, upto: int, limit: int) -> list[LanePlace]:
    """The next letters to take up, in order: the open ones that are due, or lanes whose head is to be released, each from its
    head on.

    :param upto: none that came later.
    """
    rows = connection.execute(
        f"""SELECT l."partition", l.position, l.arrival, l.seq, l.original_length, l.lane FROM letters AS l
            WHERE {_DUE} AND {dialect_of(connection).unindexed}l.seq <= ? ORDER BY l.next_at LIMIT ?""",  # noqa: S608 - constants
        (status, due, upto, limit),
    ).fetchall()
    if status == "open":
        return [LanePlace(partition, position, seq, size) for partition, position, _, seq, size, _ in sorted(rows, key=_order)]
    places: list[LanePlace] = []
    for partition, _, _, _, _, lane in rows:
        if len(places) >= limit:
            break
        found = first_of(connection, partition, lane, limit - len(places))
        places += [LanePlace(partition, position, seq, size) for seq, _, size, position in found if seq <= upto]
    return places


def _order(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(row[:4])
