"""Which ledgers owe a dead letter's event, and which took it by replay, with which group.

A letter is resolved once no ledger owes it, whether the pipeline still has that ledger or not (Invariant 13). Replays move no
position, so what a ledger restored from a backup lacks of them is not read again from the source; their letters are opened again
instead. Every function runs inside the caller's transaction.

Source: docs/guarantees.md, rules 3 and 10.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from penstock.ledger import Claim, JobRecord
from penstock.state import job_tables, lane_tables
from penstock.state.dialect import Connection, dialect_of
from penstock.state.letter_tables import LIVE, has_passed
from penstock.state.records import DeadLetter, Status, inherited

REPLAYS_TABLE = """CREATE TABLE replays (
    letter TEXT NOT NULL, ledger TEXT NOT NULL, "group" INTEGER NOT NULL, PRIMARY KEY (letter, ledger)) WITHOUT ROWID"""

_decode_owed = msgspec.json.Decoder(list[str]).decode


def record(
    connection: Connection,
    group: int,
    resolved: Iterable[str],
    failed_again: Iterable[DeadLetter],
    ledgers: Collection[str],
) -> None:
    """What a replay's group did, before it changes the letters: of these ledgers, those that owed a letter have taken it, unless
    they still do."""
    for identity, still in [(identity, ()) for identity in resolved] + [(one.id, tuple(one.owed)) for one in failed_again]:
        row = connection.execute("SELECT owed FROM letters WHERE id = ? AND pending IS NULL", (identity,)).fetchone()
        if row is not None:
            owed = _decode_owed(row[0])
            _took(connection, identity, [ledger for ledger in owed if ledger in ledgers and ledger not in still], group)


def resolve(connection: Connection, ids: Sequence[str], ledgers: Collection[str]) -> None:
    """Letters that a replay got through to all these ledgers: no other may owe them still."""
    for identity in ids:
        row = connection.execute(
            f"SELECT seq, owed FROM letters WHERE id = ? AND pending IS NULL AND {LIVE}",  # noqa: S608 - a constant
            (identity,),
        ).fetchone()
        if row is not None:
            owed = _decode_owed(row[1])
            left = [name for name in owed if name not in ledgers]  # Invariant 13
            _owe(connection, row[0], left or owed, None if left else "resolved")
    if ids:
        lane_tables.free(connection, ids)


def hand_over(connection: Connection, heirs: Mapping[str, Sequence[str]], ids: Sequence[str] | None) -> None:
    """See `StateStore.hand_over`."""
    among = "" if ids is None else " AND id IN (SELECT value FROM json_each(?))"
    rows = connection.execute(
        f"SELECT seq, owed FROM letters WHERE pending IS NULL AND {LIVE}{among}",  # noqa: S608 - constants
        () if ids is None else (dialect_of(connection).among(ids),),
    )
    for seq, text in rows.fetchall():
        owed = _decode_owed(text)
        due = inherited(owed, heirs)
        if due != owed:
            _owe(connection, seq, due, None)


def settle(connection: Connection, claims: Mapping[str, Claim]) -> None:
    """See `StateStore.settle`: the job records of the ledgers."""
    resolved = Counter[str]()
    for ledger, claim in claims.items():
        for one in claim.jobs:
            resolved[one.job] += _settle_one(connection, ledger, claim.group, one)
    for job, number in resolved.items():
        if number:
            job_tables.settled(connection, job, number)


def _settle_one(connection: Connection, ledger: str, group: int, one: JobRecord) -> bool:
    """Whether that resolves the letter."""
    row = connection.execute(
        f"SELECT seq, owed FROM letters WHERE id = ? AND job = ? AND pending IS NULL AND {LIVE}",  # noqa: S608 - a constant
        (one.event, one.job),
    ).fetchone()
    if row is None:  # settled before, or failed again since
        return False
    _took(connection, one.event, [ledger], group)
    owed = [name for name in _decode_owed(row[1]) if name != ledger]
    _owe(connection, row[0], owed, None if owed else "resolved")
    return not owed


def _owe(connection: Connection, seq: int, owed: Sequence[str], status: Status | None) -> None:
    """These owe the letter from now on; None: it keeps its status."""
    connection.execute("UPDATE letters SET owed = ?, status = ifnull(?, status) WHERE seq = ?", (_json(owed), status, seq))


def _took(connection: Connection, letter: str, ledgers: Iterable[str], group: int) -> None:
    """These ledgers took the letter's event, with this group or an earlier one."""
    connection.executemany(
        'INSERT INTO replays VALUES (?, ?, ?) ON CONFLICT (letter, ledger) DO UPDATE SET "group" = excluded."group"',
        [(letter, ledger, group) for ledger in ledgers],
    )


def rewind(connection: Connection, ledger: str, claim: Claim) -> int:
    """See `StateStore.rewind`."""
    _leave_to_reading(connection, ledger, claim)
    rows = connection.execute(
        """SELECT l.seq, l."partition", l.position, l.owed, l.status FROM replays AS r JOIN letters AS l ON l.id = r.letter
           WHERE r.ledger = ? AND r."group" > ? AND l.pending IS NULL""",
        (ledger, claim.group),
    ).fetchall()
    lost = [row for row in rows if has_passed(claim, row[1], row[2])]
    for seq, _, _, owed, status in lost:
        others = _decode_owed(owed) if status in ("open", "parked", "replaying") else []
        connection.execute(
            f"UPDATE letters SET status = {lane_tables.REOPENED}, job = NULL, owed = ? WHERE seq = ?",  # noqa: S608 - a constant
            (_json([*(name for name in others if name != ledger), ledger]), seq),
        )
    connection.execute('DELETE FROM replays WHERE ledger = ? AND "group" > ?', (ledger, claim.group))
    return len(lost)


def _leave_to_reading(connection: Connection, ledger: str, claim: Claim) -> None:
    """A ledger owes only what it has passed: the rest it reads again."""
    rows = connection.execute(
        f'SELECT seq, "partition", position, owed FROM letters WHERE pending IS NULL AND {LIVE}'  # noqa: S608 - a constant
    )
    for seq, partition, position, owed in rows.fetchall():
        names = _decode_owed(owed)
        if ledger in names and not has_passed(claim, partition, position):
            others = [name for name in names if name != ledger]
            _owe(connection, seq, others, None if others else "superseded")


def _json(names: Sequence[str]) -> str:
    return msgspec.json.encode(list(names)).decode()
