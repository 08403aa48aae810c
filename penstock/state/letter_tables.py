"""Dead letters in SQL tables: how they are written, merged, made to stand, and settled after a crash.

A letter is provisional (`pending` holds its group's number) until step 3 of its group, or a claim, makes it stand (`pending` is
NULL). A provisional letter never touches the standing one of the same id, so that deleting it undoes it; the two are merged when
it stands. Group 0 is no group: what has no position stands at the end of the transaction that brings it. Bodies lie in a table
of their own, so that listing reads small rows. Every function runs inside the caller's transaction.

Source: docs/guarantees.md, "One commit, in this order", rules 7, 9 and 10.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.ledger import Claim
from penstock.state import lane_tables, letter_history
from penstock.state.dialect import Connection, dialect_of
from penstock.state.letter_tally import sweep
from penstock.state.letter_where import LIVE, SETTLED, STANDS
from penstock.state.records import UNSETTLED, DeadLetter, Delivered, Repeat, Status

LETTER_TABLES = (
    """CREATE TABLE letters (
        seq INTEGER PRIMARY KEY, pending INTEGER, id TEXT NOT NULL, version TEXT NOT NULL, step TEXT NOT NULL, code TEXT NOT NULL,
        message TEXT NOT NULL, why TEXT, help TEXT, violations TEXT NOT NULL, fingerprint TEXT NOT NULL,
        "partition" TEXT NOT NULL, position BLOB NOT NULL, source TEXT NOT NULL, event_id TEXT NOT NULL, type TEXT NOT NULL,
        time TEXT, event BLOB NOT NULL, original_length INTEGER NOT NULL, original_digest TEXT NOT NULL, reread INTEGER NOT NULL,
        owed TEXT NOT NULL, delivered TEXT NOT NULL, key BLOB, brought_by BLOB NOT NULL, data_digest BLOB NOT NULL,
        attempts INTEGER NOT NULL, repeats INTEGER NOT NULL, first_at REAL NOT NULL, last_at REAL NOT NULL,
        status TEXT NOT NULL, job TEXT)""",
    "CREATE TABLE bodies (letter INTEGER PRIMARY KEY, record BLOB NOT NULL, original BLOB)",
    """CREATE TABLE repeats (
        pending INTEGER NOT NULL, kind TEXT NOT NULL, letter TEXT NOT NULL, "partition" TEXT NOT NULL, position BLOB NOT NULL,
        PRIMARY KEY (pending, kind, letter, "partition", position)) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX letters_id ON letters (id, ifnull(pending, -1))",
    "CREATE INDEX letters_pending ON letters (pending) WHERE pending IS NOT NULL",
    "CREATE INDEX letters_key ON letters (key) WHERE key IS NOT NULL AND status IN ('open', 'parked', 'replaying', 'discarded')",
    "CREATE INDEX letters_page ON letters (first_at, id, status) WHERE pending IS NULL",
    "CREATE INDEX letters_age ON letters (last_at) WHERE pending IS NULL",
)

COLUMNS = (
    "id", "version", "step", "code", "message", "why", "help", "violations", "fingerprint", "partition", "position", "source",
    "event_id", "type", "time", "event", "original_length", "original_digest", "reread", "owed", "delivered", "key", "brought_by",
    "data_digest", "attempts", "repeats", "first_at", "last_at", "status", "job", "lane", "arrival", "retries", "next_at",
    "redelivered",
)  # fmt: skip
FLAGS = ("reread", "redelivered")
"""Columns that are true or false."""
REDELIVERY_COLUMN = "ALTER TABLE letters ADD COLUMN redelivered INTEGER NOT NULL DEFAULT 0"
_JSON = frozenset({"violations", "owed", "delivered"})
_QUOTED = ", ".join(f'"{column}"' for column in COLUMNS)
_INSERT = f"INSERT INTO letters (pending, {_QUOTED}) VALUES (?{', ?' * len(COLUMNS)}) RETURNING seq"  # noqa: S608 - constants
_decode_delivered = msgspec.json.Decoder(list[Delivered]).decode


def put(connection: Connection, group: int, letters: Iterable[DeadLetter]) -> None:
    """Add letters, provisional until `promote(group)`. Putting a group's letter once more replaces it."""
    for letter in letters:
        pending = group if letter.position else 0
        owed, delivered = list(letter.owed), list(letter.delivered)
        earlier = connection.execute(
            "SELECT seq, owed, delivered FROM letters WHERE id = ? AND ifnull(pending, -1) = ?", (letter.id, pending)
        ).fetchone()
        if earlier:
            owed = union(msgspec.json.decode(earlier[1]), owed)
            delivered = union(_decode_delivered(earlier[2]), delivered)
            delete(connection, [earlier[0]])
        _add(connection, pending, letter, {"owed": owed, "delivered": delivered})


def take_in(connection: Connection, letters: Iterable[DeadLetter]) -> None:
    """Add letters that stand at once, from elsewhere; none of their ids may be there."""
    for letter in letters:
        _add(connection, None, letter, {})
        if letter.edited is not None:
            letter_history.put_edit(connection, letter.id, letter.edited)


def _add(connection: Connection, pending: int | None, letter: DeadLetter, instead: Mapping[str, Any]) -> None:
    """The letter with its bodies; `instead`: other values than its own, by column."""
    row = [_stored(column, instead[column] if column in instead else getattr(letter, column)) for column in COLUMNS]
    ((seq,),) = connection.execute(_INSERT, [pending, *row]).fetchall()
    connection.execute("INSERT INTO bodies VALUES (?, ?, ?, ?)", (seq, letter.record, letter.original, letter.source_record))


def put_repeats(connection: Connection, group: int, kind: str, repeats: Iterable[Repeat]) -> None:
    """Add what happened to older letters, provisional until `promote(group)`.

    :param kind: `repeat`, or `superseded`: an event with the letter's key and other data got through. When a group is put again,
        its latest list of these counts, for a sink may have refused an event meanwhile.
    """
    if kind == "superseded":
        connection.execute("DELETE FROM repeats WHERE pending = ? AND kind = ?", (group, kind))
    connection.executemany(
        "INSERT INTO repeats VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(group, kind, *repeat) for repeat in map(_repeat_row, repeats) if repeat[-1]],
    )


def count_repeats(connection: Connection, repeats: Iterable[Repeat]) -> None:
    """Count the repeats that have no position, at once."""
    connection.executemany(
        "UPDATE letters SET repeats = repeats + 1 WHERE id = ?", [(repeat.letter,) for repeat in repeats if not repeat.position]
    )


def _repeat_row(repeat: Repeat) -> tuple[str, str, bytes]:
    return repeat.letter, repeat.partition, repeat.position


def promote(connection: Connection, upto: int, replayed: Mapping[str, Collection[str]] | None = None) -> None:
    """Everything provisional of groups up to `upto` stands from now on.

    :param replayed: by id whose new letter is the outcome of a replay, the ledgers of which it says alone whether they owe it.
    """
    outcomes = replayed or {}
    rivals = connection.execute(
        """SELECT p.seq, p.id FROM letters AS p WHERE p.pending <= ?
           AND EXISTS (SELECT 1 FROM letters AS s WHERE s.id = p.id AND s.seq <> p.seq) ORDER BY p.pending""",
        (upto,),
    )
    for seq, identity in rivals.fetchall():
        _absorb(connection, seq, identity, outcomes.get(identity))
    parked = lane_tables.provisional(connection, upto)
    connection.execute("UPDATE letters SET pending = NULL WHERE pending <= ?", (upto,))
    if parked:  # somebody may have discarded what they were parked behind
        lane_tables.free(connection, parked)
    connection.execute(
        """UPDATE letters SET repeats = repeats + r.n
           FROM (SELECT letter, count(*) AS n FROM repeats WHERE pending <= ? AND kind = 'repeat' GROUP BY letter) AS r
           WHERE letters.id = r.letter AND letters.pending IS NULL""",
        (upto,),
    )
    superseded = connection.execute("SELECT letter FROM repeats WHERE pending <= ? AND kind = 'superseded'", (upto,))
    conclude(connection, [identity for (identity,) in superseded.fetchall()], "superseded")
    connection.execute("DELETE FROM repeats WHERE pending <= ?", (upto,))


def _absorb(connection: Connection, seq: int, identity: str, settled: Collection[str] | None) -> None:
    """The provisional letter `seq` takes the place of the standing one of its id, and what that one had gathered.

    :param settled: the ledgers of which a letter that was replayed says alone whether they owe it; None: it was not replayed.
    """
    was_replayed = settled is not None
    columns = "seq, owed, delivered, attempts, repeats, first_at, status, lane, arrival, retries, next_at, job, redelivered"
    query = f"SELECT {columns} FROM letters WHERE "  # noqa: S608 - constants
    old = connection.execute(query + "id = ? AND pending IS NULL", (identity,)).fetchone()
    if old is None:
        connection.execute("UPDATE letters SET pending = NULL WHERE seq = ?", (seq,))
        return
    new = connection.execute(query + "seq = ?", (seq,)).fetchone()
    owed, delivered = msgspec.json.decode(new[1]), _decode_delivered(new[2])
    is_held = old[6] in UNSETTLED  # then what it owes and had, its place, and what it waits for, stay
    if is_held:
        owed = union((name for name in msgspec.json.decode(old[1]) if name not in (settled or ())), owed)
        delivered = union(_decode_delivered(old[2]), delivered)
    if was_replayed:
        _keep_what_came(connection, old[0], seq, identity)
    delete(connection, [old[0]])
    lane, arrival = old[7:9] if is_held and old[7] is not None else new[7:9]
    stays = old[6] == "parked" or (old[6] == "replaying" and not was_replayed)  # a job that has it settles what it found
    status, job = (old[6], old[11]) if stays else (new[6], new[11])
    redelivered = int(new[12] or (is_held and old[12]))
    retries, next_at = old[9:11] if is_held and not was_replayed and status != "parked" else new[9:11]
    connection.execute(
        """UPDATE letters SET pending = NULL, owed = ?, delivered = ?, attempts = attempts + ?, repeats = repeats + ?,
           first_at = ?, status = ?, lane = ?, arrival = ?, retries = ?, next_at = ?, job = ?, redelivered = ?
           WHERE seq = ?""",
        (
            *(_json(owed), _json(delivered), old[3], old[4], old[5]),
            *(status, lane, arrival, retries, next_at, job, redelivered, seq),
        ),
    )


def _keep_what_came(connection: Connection, old: int, new: int, identity: str) -> None:
    """An edited event that fails again brings a letter made of the edit: what the source gave stays what it was."""
    if connection.execute("SELECT 1 FROM letter_edits WHERE letter = ?", (identity,)).fetchone() is None:
        return
    row = connection.execute("SELECT record, original, source_record FROM bodies WHERE letter = ?", (old,)).fetchone()
    connection.execute("UPDATE bodies SET record = ?, original = ?, source_record = ? WHERE letter = ?", (*row, new))
    names = ("original_length", "original_digest", "reread", "key", "brought_by", "data_digest")
    columns = ", ".join(names)
    row = connection.execute(f"SELECT {columns} FROM letters WHERE seq = ?", (old,)).fetchone()  # noqa: S608 - constants
    values = ", ".join(f"{name} = ?" for name in names)
    connection.execute(f"UPDATE letters SET {values} WHERE seq = ?", (*row, new))  # noqa: S608 - constants


def settle(connection: Connection, claims: Mapping[str, Claim]) -> None:
    """See `StateStore.settle`: all but the job records. A letter that stands is owed by those alone that have passed it: the
    others read it again."""
    rows = connection.execute('SELECT seq, "partition", position, owed FROM letters WHERE pending IS NOT NULL ORDER BY pending')
    for seq, partition, position, owed in rows.fetchall():
        passed = _passed(claims, partition, position, msgspec.json.decode(owed))
        if passed:
            connection.execute("UPDATE letters SET pending = 0, owed = ? WHERE seq = ?", (_json(passed), seq))
            promote(connection, 0)  # one by one: two groups may have brought the same id
        else:
            delete(connection, [seq])
    # By who owes the letters that stand: a run asks the same when it reads the repetitions again.
    owed_by_id = dict(connection.execute("SELECT l.id, l.owed FROM letters AS l JOIN repeats AS r ON r.letter = l.id").fetchall())
    for row in connection.execute('SELECT pending, kind, letter, "partition", position FROM repeats').fetchall():
        stands = _passed(claims, row[3], row[4], msgspec.json.decode(owed_by_id.get(row[2], "[]")))
        where = 'pending = ? AND kind = ? AND letter = ? AND "partition" = ? AND position = ?'
        connection.execute(f"DELETE FROM repeats WHERE {where}", row)  # noqa: S608 - a constant
        if stands:
            connection.execute("INSERT INTO repeats VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", (0, *row[1:]))
    promote(connection, 0)


def _passed(claims: Mapping[str, Claim], partition: str, position: bytes, owed: Sequence[str]) -> list[str]:
    return [name for name in owed if (claim := claims.get(name)) and has_passed(claim, partition, position)]


def has_passed(claim: Claim, partition: str, position: bytes) -> bool:
    """Whether a ledger stands at this position or beyond."""
    stands = claim.positions.get(partition)
    return stands is not None and stands.order >= position


def conclude(connection: Connection, ids: Sequence[str], status: Status) -> None:
    """Unresolved letters end as `status`."""
    connection.executemany(
        f"UPDATE letters SET status = ? WHERE id = ? AND pending IS NULL AND {LIVE}",  # noqa: S608 - a constant
        [(status, identity) for identity in ids],
    )
    if ids:
        lane_tables.free(connection, ids)


def set_status(
    connection: Connection, ids: Sequence[str], status: Status, job: str | None, among: Collection[Status] | None
) -> list[str]:
    """Give standing letters a status, and the job that works on them (None: no job). The ids of those that changed.

    :param among: only those that stand in one of these; None: in any.
    """
    dialect = dialect_of(connection)
    few = dialect.unindexed  # the ids are, the letters that stand in one status are not
    limited = "" if among is None else f" AND {few}status IN (SELECT value FROM json_each(?))"  # noqa: S608 - a constant
    rows = connection.execute(
        f"""UPDATE letters SET status = ?, job = ?
            WHERE {STANDS} AND id IN (SELECT value FROM json_each(?)) AND (status <> ? OR job IS DISTINCT FROM ?){limited}
            RETURNING id""",  # noqa: S608 - constants
        [status, job, dialect.among(ids), status, job, *([] if among is None else [dialect.among(among)])],
    )
    changed = [identity for (identity,) in rows.fetchall()]
    if changed and status not in UNSETTLED:
        lane_tables.free(connection, changed)
    return changed


def delete(connection: Connection, seqs: Sequence[int]) -> None:
    """Remove letters with their bodies."""
    rows = [(seq,) for seq in seqs]
    connection.executemany("DELETE FROM letters WHERE seq = ?", rows)
    connection.executemany("DELETE FROM bodies WHERE letter = ?", rows)


def expire(connection: Connection, before: float, limit: int) -> int:
    """Remove settled letters to which nothing has happened since `before`; others never (Invariant 13). How many went."""
    rows = connection.execute(
        f"""SELECT l.seq, l.id FROM letters AS l WHERE l.pending IS NULL AND l.last_at < ? AND {SETTLED}
           AND NOT EXISTS (SELECT 1 FROM letter_history AS h WHERE h.letter = l.id AND h.at >= ?)
           ORDER BY l.last_at LIMIT ?""",  # noqa: S608 - a constant
        (before, before, limit),
    ).fetchall()
    ids = [identity for _, identity in rows]
    delete(connection, [seq for seq, _ in rows])
    connection.executemany("DELETE FROM replays WHERE letter = ?", [(identity,) for identity in ids])
    letter_history.forget(connection, ids)
    sweep(connection)
    return len(rows)


def union(first: Iterable[Any], second: Iterable[Any]) -> list[Any]:
    """Of both, each once, in order."""
    return list(dict.fromkeys([*first, *second]))


def _stored(column: str, value: Any) -> Any:
    if column in _JSON:
        return _json(list(value))
    return int(value) if column in FLAGS else value


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
