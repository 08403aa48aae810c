"""Lanes that a dead letter holds, and letters that wait for their next retry, in SQL.

A letter's `lane` is the key of its event within its partition; NULL: it is in none. The unsettled letters of a lane are in order
of position, then `arrival`; the first is its head, and holds the lane (rule 12). `next_at` says from when on a run takes a letter
up by itself: an open one for its next retry, a parked one (then 0) because nothing is before it any more. Whatever settles
letters calls `free`, in the same transaction. Every function runs inside the caller's transaction.

Source: docs/guarantees.md, rules 10 and 12.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

from penstock.state.dialect import Connection, dialect_of
from penstock.state.letter_where import HELD, STANDS
from penstock.state.records import Lane, ParkedLane, Retries, Status

PARKED = "lane.parked"
"""Code of what did not fail itself, but came behind something that did."""

FIRST = 0.0
"""`next_at` of a parked letter with nothing before it."""

LANE_COLUMNS = (
    "ALTER TABLE letters ADD COLUMN lane TEXT",
    "ALTER TABLE letters ADD COLUMN arrival INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE letters ADD COLUMN retries INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE letters ADD COLUMN next_at REAL",
    """CREATE INDEX letters_held ON letters ("partition", lane, position, arrival)
        WHERE pending IS NULL AND lane IS NOT NULL AND status IN ('open', 'parked', 'replaying')""",
    "CREATE INDEX letters_due ON letters (status, next_at) WHERE pending IS NULL AND next_at IS NOT NULL",
)

REOPENED = f"CASE WHEN code = '{PARKED}' AND lane IS NOT NULL THEN 'parked' ELSE 'open' END"
"""What a letter is again that was taken up and not replayed."""

_IN_LANE = f"SELECT l.seq, l.id, l.original_length, l.position FROM letters AS l WHERE {HELD}"  # noqa: S608 - a constant


def heads(connection: Connection, partition: str, lanes: Sequence[str]) -> dict[str, bytes]:
    """Of these lanes those that are held, each with the position of its head."""
    dialect = dialect_of(connection)
    each = "json_each(?) AS s" if dialect.name == "sqlite" else "unnest(CAST(? AS TEXT[])) AS s(value)"
    rows = connection.execute(
        f"""SELECT s.value, (SELECT l.position FROM letters AS l WHERE {HELD} AND l."partition" = ? AND l.lane = s.value
            ORDER BY l.position, l.arrival LIMIT 1) FROM {each}""",  # noqa: S608 - constants
        (partition, dialect.among(lanes)),
    )
    return {lane: position for lane, position in rows.fetchall() if position is not None}


def held(connection: Connection) -> list[Lane]:
    """All lanes that are held."""
    rows = connection.execute('SELECT "partition", lane FROM lane_tally')
    return [Lane(*row) for row in rows.fetchall()]


def free(connection: Connection, ids: Collection[str] | None = None) -> None:
    """Parked letters that are the first of their lane now are to be released: of the lanes of these letters, or of all."""
    dialect = dialect_of(connection)
    among = "pending IS NULL" if ids is None else STANDS + " AND l.id IN (SELECT value FROM json_each(?))"  # noqa: S608 - a constant
    first = f"""SELECT l.seq FROM letters AS l WHERE {HELD} AND l."partition" = s."partition" AND l.lane = s.lane
                ORDER BY l.position, l.arrival LIMIT 1"""  # noqa: S608 - a constant
    connection.execute(
        f"""UPDATE letters SET next_at = ? WHERE status = 'parked' AND next_at IS NULL AND seq IN (
            SELECT ({first}) FROM (SELECT DISTINCT l."partition", l.lane FROM letters AS l
            WHERE l.lane IS NOT NULL AND {among}) AS s)""",  # noqa: S608 - constants
        [FIRST, *([] if ids is None else [dialect.among(ids)])],
    )


def provisional(connection: Connection, upto: int) -> list[str]:
    """Parked letters that groups up to this one have brought, and that do not stand yet."""
    rows = connection.execute("SELECT id FROM letters WHERE pending <= ? AND lane IS NOT NULL AND status = 'parked'", (upto,))
    return [identity for (identity,) in rows.fetchall()]


def first_of(connection: Connection, partition: str, lane: str, limit: int) -> list[tuple[int, str, int, bytes]]:
    """The first letters of a lane, in order: `seq`, id, bytes of the record as it was read, position."""
    query = f'{_IN_LANE} AND l."partition" = ? AND l.lane = ? ORDER BY l.position, l.arrival LIMIT ?'
    return connection.execute(query, (partition, lane, limit)).fetchall()


def passing(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Which of these letters another one, not among them, is before in its lane: nothing may take them up (Invariant 5)."""
    rows = connection.execute(
        f"""SELECT l."partition", l.lane, l.id FROM letters AS l WHERE {STANDS} AND l.lane IS NOT NULL
           AND l.id IN (SELECT value FROM json_each(?)) ORDER BY l."partition", l.lane""",  # noqa: S608 - a constant
        (dialect_of(connection).among(ids),),
    ).fetchall()
    found: list[str] = []
    for (partition, lane), members in groupby(rows, key=lambda row: (row[0], row[1])):
        mine = {identity for _, _, identity in members}
        for _, identity, _, _ in first_of(connection, partition, lane, len(mine)):
            if identity not in mine:
                break
            mine.discard(identity)
        found += mine
    return found


def give_up(connection: Connection, seqs: Sequence[int]) -> None:
    """Letters that were due and could not be taken up wait for people, or for what is before them."""
    connection.executemany(
        "UPDATE letters SET next_at = NULL WHERE seq = ? AND next_at IS NOT NULL AND status IN ('open', 'parked')",
        [(seq,) for seq in seqs],
    )


def give_up_due(connection: Connection, status: Status, due: float) -> None:
    """All that are due: the job that was to take them up has failed, or was called off."""
    connection.execute(
        "UPDATE letters SET next_at = NULL WHERE pending IS NULL AND next_at IS NOT NULL AND status = ? AND next_at <= ?",
        (status, due),
    )


# ---- the policy of today


def unschedule(connection: Connection) -> int:
    """The pipeline has no schedule of retries any more: what waited for one waits for people. How many."""
    waiting = "pending IS NULL AND next_at IS NOT NULL AND status = 'open'"
    return connection.execute(f"UPDATE letters SET next_at = NULL WHERE {waiting}").rowcount  # noqa: S608 - a constant


def unpark(connection: Connection) -> int:
    """The pipeline does not park any more: what was parked is open, and in no lane. How many were parked."""
    cursor = connection.execute(f"UPDATE letters SET status = 'open', next_at = NULL WHERE {HELD} AND status = 'parked'")  # noqa: S608
    connection.execute(f"UPDATE letters SET lane = NULL WHERE {HELD}")  # noqa: S608 - a constant
    return cursor.rowcount


def versions_held(connection: Connection) -> list[str]:
    """The pipeline versions under which the letters of held lanes failed."""
    index = dialect_of(connection).by_index.format("letters_held")  # the letters of all lanes, however many others there are
    rows = connection.execute(f"SELECT DISTINCT l.version FROM letters AS l {index} WHERE {HELD}")  # noqa: S608 - constants
    return [version for (version,) in rows.fetchall()]


# ---- looking


def retries(connection: Connection) -> Retries:
    """Open letters that wait for their next retry."""
    number, first = connection.execute(
        "SELECT count(*), min(next_at) FROM letters WHERE pending IS NULL AND next_at IS NOT NULL AND status = 'open'"
    ).fetchone()
    return Retries(int(number), first)


def parked(connection: Connection, limit: int) -> list[ParkedLane]:
    """Lanes that are held, those with most behind their head first."""
    rows = connection.execute(
        'SELECT "partition", lane, letters FROM lane_tally ORDER BY letters DESC, "partition", lane LIMIT ?', (limit,)
    )
    found = []
    for partition, lane, number in rows.fetchall():
        _, head, _, _ = first_of(connection, partition, lane, 1)[0]
        found.append(ParkedLane(partition, lane, head, int(number) - 1))
    return found


def held_lane(connection: Connection, partition: str, lane: str) -> ParkedLane | None:
    """One lane; None where nothing holds it."""
    first = first_of(connection, partition, lane, 1)
    if not first:
        return None
    query = 'SELECT letters FROM lane_tally WHERE "partition" = ? AND lane = ?'
    (number,) = connection.execute(query, (partition, lane)).fetchone()
    return ParkedLane(partition, lane, first[0][1], int(number) - 1)


def count_held(connection: Connection) -> int:
    """How many lanes are held."""
    return int(connection.execute("SELECT count(*) FROM lane_tally").fetchone()[0])
