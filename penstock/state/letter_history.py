"""What was done with dead letters, by whom and when; and the events that people edited. Every function runs inside the caller's
transaction. A letter itself tells its failures; here stands what people and replays did.

The letter's own bodies stay as they came: an edit is kept beside them, so that nothing which rewrites a letter can lose either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from penstock.ledger import Claim
from penstock.state.dialect import Connection, dialect_of
from penstock.state.letter_where import STANDS
from penstock.state.pipeline_records import Note
from penstock.state.records import Happening

HISTORY_TABLES = (
    """CREATE TABLE letter_history (
        seq INTEGER PRIMARY KEY, letter TEXT NOT NULL, at REAL NOT NULL, what TEXT NOT NULL, made_by TEXT NOT NULL,
        detail TEXT NOT NULL)""",
    "CREATE INDEX letter_history_letter ON letter_history (letter, at)",
    "CREATE TABLE letter_edits (letter TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
)

_decode_detail = msgspec.json.Decoder(dict[str, str]).decode


def add(connection: Connection, ids: Iterable[str], happening: Happening) -> None:
    """The same of several letters."""
    detail = msgspec.json.encode(dict(happening.detail)).decode()
    connection.execute(
        "INSERT INTO letter_history (letter, at, what, made_by, detail) SELECT value, ?, ?, ?, ? FROM json_each(?)",
        (happening.at, happening.what, happening.by, detail, dialect_of(connection).among(ids)),
    )


def read(connection: Connection, letter: str) -> list[Happening]:
    """Oldest first."""
    rows = connection.execute("SELECT at, what, made_by, detail FROM letter_history WHERE letter = ? ORDER BY seq", (letter,))
    return [Happening(at, what, by, _decode_detail(detail)) for at, what, by, detail in rows.fetchall()]


def put_edit(connection: Connection, letter: str, record: bytes | None) -> None:
    """From now on this is the edited event; None: there is none."""
    connection.execute("DELETE FROM letter_edits WHERE letter = ?", (letter,))
    if record is not None:
        connection.execute("INSERT INTO letter_edits VALUES (?, ?)", (letter, record))


def forget(connection: Connection, ids: Sequence[str]) -> None:
    """With the letters themselves."""
    rows = [(identity,) for identity in ids]
    connection.executemany("DELETE FROM letter_history WHERE letter = ?", rows)
    connection.executemany("DELETE FROM letter_edits WHERE letter = ?", rows)


def jobs_of(connection: Connection, note: Note) -> dict[str, str]:
    """The jobs that hold the letters of a replay's group, before the group changes them."""
    ids = [*note.resolved, *(letter.id for letter in note.failed_again)]
    return dict(_statuses(connection, ids, "job")) if ids else {}


def tell_group(connection: Connection, note: Note, jobs: Mapping[str, str]) -> None:
    """What a job's group did to older letters, once it has, and which it has made of past events.

    :param jobs: what `jobs_of` said before.
    """
    alike = defaultdict(list)
    for identity, status in _statuses(connection, note.resolved, "status"):
        alike[jobs.get(identity) or "", status == "resolved"].append(identity)
    for (job, settled), ids in alike.items():
        result = "delivered" if settled else "delivered, still owed to other sinks"
        add(connection, ids, Happening(note.at, "replayed", "", {"job": job, "result": result}))
    carrier = note.job.job if note.job is not None else ""
    for letter in note.failed_again:
        what, how = ("replayed", "failed again") if letter.id in jobs else ("backfilled", "failed")
        result = f"{how} in {letter.step}: {letter.message}"
        detail = {"job": jobs.get(letter.id) or carrier, "result": result, "code": letter.code}
        add(connection, [letter.id], Happening(note.at, what, "", detail))
    done = [identity for identity, status in _statuses(connection, note.superseded, "status") if status == "superseded"]
    if done:
        add(connection, done, Happening(note.at, "superseded", "", {}))


def tell_settled(connection: Connection, claims: Mapping[str, Claim], now: float) -> None:
    """What the records of a replay that died have settled, and was not told yet."""
    for one in {(record.event, record.job) for claim in claims.values() for record in claim.jobs}:
        identity, job = one
        for _, status in _statuses(connection, [identity], "status"):
            told = any(each.what == "replayed" and each.detail.get("job") == job for each in read(connection, identity))
            if status == "resolved" and not told:
                add(connection, [identity], Happening(now, "replayed", "", {"job": job, "result": "delivered"}))


def _statuses(connection: Connection, ids: Sequence[str], column: str) -> list[tuple[str, str]]:
    if not ids:
        return []
    rows = connection.execute(
        f"SELECT id, {column} FROM letters WHERE {STANDS} AND id IN (SELECT value FROM json_each(?)) ORDER BY id",  # noqa: S608 - constants
        (dialect_of(connection).among(ids),),
    )
    return [(identity, value) for identity, value in rows.fetchall()]
