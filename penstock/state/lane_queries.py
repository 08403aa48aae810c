"""Dead letters as a job goes through them: in the order in which their events were read, partition by partition, a bounded set.

The set is what stood when the job was made: a letter that fails again, or is new, gets a higher `seq` and is not come upon twice.
An index gives the order, so that each page costs what it holds, however many letters there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.state.dialect import Connection, dialect_of
from penstock.state.letter_queries import read_letters
from penstock.state.letter_where import STANDS
from penstock.state.records import DeadLetter, LetterQuery

LANE_INDEX = 'CREATE INDEX letters_lane ON letters ("partition", position, seq) WHERE pending IS NULL'


class LanePlace(msgspec.Struct, frozen=True, array_like=True):
    """A letter in its lane; as JSON it is the cursor behind it.

    :ivar size: bytes of the record as it was read.
    """

    partition: str
    position: bytes
    seq: int
    size: int = 0


def newest(connection: Connection) -> int:
    """The highest `seq` of all that stand; 0 where there are none."""
    return int(connection.execute("SELECT max(seq) FROM letters WHERE pending IS NULL").fetchone()[0] or 0)


def places(connection: Connection, query: LetterQuery, upto: int, after: LanePlace | None, limit: int) -> list[LanePlace]:
    """One page, in order, behind `after`. `ids` and `fingerprint` of the query are whole, no prefixes."""
    if not query.ids:
        for statement in dialect_of(connection).unsorted:
            connection.execute(statement)
    where, values = _where(connection, query)
    if after is not None:
        where += ' AND (l."partition", l.position, l.seq) > (?, ?, ?)'
        values += [after.partition, after.position, after.seq]
    rows = connection.execute(
        f"""SELECT l."partition", l.position, l.seq, l.original_length FROM letters AS l
            WHERE l.pending IS NULL AND {where} AND {dialect_of(connection).unindexed}l.seq <= ?
            ORDER BY l."partition", l.position, l.seq LIMIT ?""",  # noqa: S608 - constants
        [*values, upto, limit],
    )
    return [LanePlace(*row) for row in rows.fetchall()]


def letters_at(connection: Connection, pipeline: str, places: Sequence[LanePlace], query: LetterQuery) -> list[DeadLetter]:
    """The letters at these places that still stand in one of the query's statuses, in order, with their bodies."""
    where = "l.seq IN (SELECT CAST(value AS INTEGER) FROM json_each(?))"
    among = dialect_of(connection).among
    if dialect_of(connection).name == "postgres":
        where = "l.seq = ANY(CAST(? AS BIGINT[]))"
    condition = f"{where} AND {STANDS} AND l.status IN (SELECT value FROM json_each(?))"  # noqa: S608 - constants
    values = [among(str(place.seq) for place in places), among(query.status)]
    return read_letters(connection, pipeline, condition, values, 'ORDER BY l."partition", l.position, l.arrival, l.seq')


def _where(connection: Connection, query: LetterQuery) -> tuple[str, list[Any]]:
    """No condition may choose the index but the ids, which are few: any other would be sorted anew for each page."""
    unindexed = dialect_of(connection).unindexed
    parts = [f"{unindexed}l.status IN (SELECT value FROM json_each(?))"]  # noqa: S608 - constants
    values = [dialect_of(connection).among(query.status)]
    if query.ids:
        parts.append("l.id IN (SELECT value FROM json_each(?))")
        values.append(dialect_of(connection).among(query.ids))
    equal = {"fingerprint": query.fingerprint, "code": query.code, "step": query.step, "type": query.type}
    for column, value in equal.items():
        if value is not None:
            parts.append(f"{unindexed}l.{column} = ?")
            values.append(value)
    for comparison, bound in (("l.first_at >= ?", query.after), ("l.first_at < ?", query.before)):
        if bound is not None:
            parts.append(unindexed + comparison)
            values.append(bound)
    return " AND ".join(parts), values
