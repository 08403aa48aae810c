"""Which ledgers owe a dead letter's event, and which took it by replay, with which group.

A letter is resolved once no ledger owes it, whether the pipeline still has that ledger or not (Invariant 13). Replays move no
position, so what a ledger restored from a backup lacks of them is not read again from the source; their letters are opened again
instead. Every function runs inside the caller's transaction.

Source: docs/guarantees.md, rules 3 and 10.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from penstock.ledger import Claim, JobRecord
from penstock.state import job_tables, lane_tables
from penstock.state.dialect import Connection, dialect_of
from penstock.state.letter_queries import numbered
from penstock.state.letter_tables import has_passed
from penstock.state.letter_where import LIVE, STANDS
from penstock.state.records import UNSETTLED, Status, inherited

REPLAYS_TABLE = """CREATE TABLE replays (
    letter TEXT NOT NULL, ledger TEXT NOT NULL, "group" INTEGER NOT NULL, PRIMARY KEY (letter, ledger)) WITHOUT ROWID"""

_decode_owed = msgspec.json.Decoder(list[str]).decode


def record(
    connection: Connection,
    group: int,
    resolved: Mapping[str, Collection[str]],
    failed_again: Mapping[str, Collection[str]],
    still: Mapping[str, Collection[str]],
) -> None:
    """What a replay's group did, before it changes the letters: of the ledgers that were given a letter, those that owed it have
    taken it, unless they `still` do."""
    given = {**resolved, **failed_again}
    if not given:
        return
    rows = connection.execute(
        f"SELECT id, owed FROM letters WHERE {STANDS} AND id IN (SELECT value FROM json_each(?))",  # noqa: S608 - a constant
        (dialect_of(connection).among(given),),
    )
    owed = [(identity, name) for identity, text in rows.fetchall() for name in _decode_owed(text)]
    taken = [(identity, name) for identity, name in owed if name in given[identity] and name not in still.get(identity, ())]
    _took(connection, taken, group)


def resolve(connection: Connection, given: Mapping[str, Collection[str]]) -> None:
    """Letters that a replay got through to the ledgers which it gave them to, by id: no other may owe them still."""
    if not given:
        return
    dialect = dialect_of(connection)
    rows = connection.execute(
        f"SELECT owed, id, seq FROM letters WHERE {STANDS} AND id IN (SELECT value FROM json_each(?)) "  # noqa: S608 - constants
        f"AND {dialect.unindexed}{LIVE}",
        (dialect.among(given),),
    )
    alike = defaultdict(list)
    for text, identity, seq in rows.fetchall():
        alike[text, tuple(given[identity])].append(seq)
    for (text, ledgers), seqs in alike.items():
        owed = _decode_owed(text)
        left = [name for name in owed if name not in ledgers]  # Invariant 13
        _owe(connection, seqs, left or owed, None if left else "resolved")
    lane_tables.free(connection, list(given))


def hand_over(connection: Connection, heirs: Mapping[str, Sequence[str]], ids: Sequence[str] | None) -> None:
    """See `StateStore.hand_over`."""
    chosen = "pending IS NULL" if ids is None else "id IN (SELECT value FROM json_each(?)) AND " + STANDS  # noqa: S608 - a constant
    rows = connection.execute(
        f"SELECT seq, owed FROM letters WHERE {chosen} AND {LIVE}",  # noqa: S608 - constants
        () if ids is None else (dialect_of(connection).among(ids),),
    )
    for seq, text in rows.fetchall():
        owed = _decode_owed(text)
        due = inherited(owed, heirs)
        if due != owed:
            _owe(connection, [seq], due, None)


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
        f"SELECT seq, owed FROM letters WHERE id = ? AND job = ? AND {STANDS} AND {LIVE}",  # noqa: S608 - constants
        (one.event, one.job),
    ).fetchone()
    if row is None:  # settled before, or failed again since
        return False
    _took(connection, [(one.event, ledger)], group)
    owed = [name for name in _decode_owed(row[1]) if name != ledger]
    _owe(connection, [row[0]], owed, None if owed else "resolved")
    return not owed


def _owe(connection: Connection, seqs: Sequence[int], owed: Sequence[str], status: Status | None) -> None:
    """These owe the letters from now on; None: they keep their status."""
    where, numbers = numbered(connection, seqs)
    change = f"UPDATE letters AS l SET owed = ?, status = ifnull(?, status) WHERE {where}"  # noqa: S608 - a constant
    connection.execute(change, (_json(owed), status, numbers))


def _took(connection: Connection, taken: Iterable[tuple[str, str]], group: int) -> None:
    """Of these letters these ledgers took the event, with this group or an earlier one."""
    by_ledger = defaultdict(list)
    for letter, ledger in taken:
        by_ledger[ledger].append(letter)
    for ledger, letters in by_ledger.items():
        connection.execute(
            "INSERT INTO replays SELECT value, ?, ? FROM json_each(?) WHERE true "
            'ON CONFLICT (letter, ledger) DO UPDATE SET "group" = excluded."group"',
            (ledger, group, dialect_of(connection).among(letters)),
        )


def takers(connection: Connection, ids: Collection[str]) -> dict[str, list[str]]:
    """By letter, the ledgers that took its event by replay."""
    rows = connection.execute(
        "SELECT letter, ledger FROM replays WHERE letter IN (SELECT value FROM json_each(?))",
        (dialect_of(connection).among(ids),),
    )
    found = defaultdict(list)
    for letter, ledger in rows.fetchall():
        found[letter].append(ledger)
    return found


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
        others = _decode_owed(owed) if status in UNSETTLED else []
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
            _owe(connection, [seq], others, None if others else "superseded")


def _json(names: Sequence[str]) -> str:
    return msgspec.json.encode(list(names)).decode()
