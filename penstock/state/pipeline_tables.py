"""What the state store keeps of the pipeline itself: epochs, versions, the note of step 3. Every function runs inside the
caller's transaction.

Source: docs/guarantees.md, rules 1 to 3 and 10, and "One commit, in this order".
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import msgspec

from penstock.errors import Fenced
from penstock.spi import Position
from penstock.state import answer_tables, job_tables, letter_history, letter_tables, replay_tables
from penstock.state.answer_tables import ANSWERS_TABLE
from penstock.state.cheap_writes import CHEAP_WRITES
from penstock.state.dialect import Connection
from penstock.state.job_tables import JOB_COLUMNS
from penstock.state.lane_queries import LANE_INDEX
from penstock.state.lane_tables import LANE_COLUMNS
from penstock.state.lane_tally import LANE_TALLY_SCHEMA
from penstock.state.ledger_tables import decode_counts, encode_counts, put_positions, read_positions
from penstock.state.letter_history import HISTORY_TABLES
from penstock.state.letter_queries import LETTER_COUNTING_INDEXES
from penstock.state.letter_tables import LETTER_TABLES, REDELIVERY_COLUMN
from penstock.state.letter_tally import TALLY_SCHEMA
from penstock.state.migration import Schema
from penstock.state.pipeline_records import Note, RunRecord, Version
from penstock.state.replay_tables import REPLAYS_TABLE
from penstock.state.signal_tables import SIGNAL_TABLES

CARRIES_ON = "nothing is lost: the newer run carries on from the last commit"

_NOTE = 1
"""The note is one row, and owns its positions."""

STORE_SCHEMA = Schema(
    "state store",
    [
        [
            """CREATE TABLE epochs (
                epoch INTEGER PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, version TEXT NOT NULL,
                started_at REAL NOT NULL)""",
            """CREATE TABLE versions (
                version TEXT PRIMARY KEY, config TEXT NOT NULL, schemas TEXT NOT NULL, steps TEXT NOT NULL,
                created_at REAL NOT NULL)""",
            """CREATE TABLE note (
                number INTEGER PRIMARY KEY, "group" INTEGER NOT NULL, counts TEXT NOT NULL, ledgers TEXT NOT NULL,
                running REAL NOT NULL, drained INTEGER NOT NULL, at REAL NOT NULL)""",
            """CREATE TABLE note_positions (
                ledger INTEGER NOT NULL, "partition" TEXT NOT NULL, "order" BLOB NOT NULL, detail BLOB NOT NULL,
                PRIMARY KEY (ledger, "partition")) WITHOUT ROWID""",
            *LETTER_TABLES,
        ],
        [
            """CREATE TABLE jobs (
                id TEXT PRIMARY KEY, kind TEXT NOT NULL, query TEXT NOT NULL, created_at REAL NOT NULL, finished_at REAL)""",
            *LETTER_COUNTING_INDEXES,
        ],
        [
            "ALTER TABLE epochs ADD COLUMN run_id TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE note ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE note ADD COLUMN groups TEXT NOT NULL DEFAULT '{}'",
            REPLAYS_TABLE,
        ],
        [*SIGNAL_TABLES, "ALTER TABLE bodies ADD COLUMN source_record BLOB"],
        ["ALTER TABLE note ADD COLUMN journal TEXT NOT NULL DEFAULT ''"],
        [*JOB_COLUMNS],
        [LANE_INDEX],
        [*HISTORY_TABLES, *TALLY_SCHEMA],
        [
            """CREATE TABLE promotions (
                version TEXT PRIMARY KEY, promoted_at REAL NOT NULL, promoted_by TEXT NOT NULL, job TEXT NOT NULL,
                differences INTEGER NOT NULL)"""
        ],
        [ANSWERS_TABLE],
        [*LANE_COLUMNS],
        [*LANE_TALLY_SCHEMA],
        [REDELIVERY_COLUMN],
        [*CHEAP_WRITES],
    ],
)


def issue_epoch(connection: Connection, version: Version, above: int, pid: int, host: str, now: float) -> int:
    """The next epoch, higher than `above` too; keeps the version."""
    keep_version(connection, version)
    epoch = max(_newest_epoch(connection), above) + 1
    connection.execute(
        "INSERT INTO epochs (epoch, pid, host, version, started_at, run_id) VALUES (?, ?, ?, ?, ?, ?)",
        (epoch, pid, host, version.version, now, secrets.token_hex(8)),
    )
    return epoch


def issued(connection: Connection, since: int) -> dict[int, str]:
    """The epochs from `since` on, each with its run id (empty where an older program issued it)."""
    return dict(connection.execute("SELECT epoch, run_id FROM epochs WHERE epoch >= ?", (since,)).fetchall())


def check_epoch(connection: Connection, epoch: int) -> None:
    """:raises Fenced: a higher epoch was issued (or this one never was)."""
    newest = _newest_epoch(connection)
    if newest != epoch:  # Invariant 6
        raise Fenced(
            "state.fenced",
            f"a newer run holds the pipeline: epoch {newest}, this run has {epoch}",
            help=CARRIES_ON,
        )


def _newest_epoch(connection: Connection) -> int:
    row = connection.execute("SELECT max(epoch) FROM epochs").fetchone()
    return int(row[0] or 0)


def read_note(connection: Connection) -> Note:
    """The note as it stands; an empty one before the first."""
    query = 'SELECT "group", counts, ledgers, running, drained, at, epoch, groups, journal FROM note WHERE number = ?'
    row = connection.execute(query, (_NOTE,)).fetchone()
    if row is None:
        return Note()
    return Note(
        group=row[0],
        positions=read_positions(connection, "note_positions", _NOTE),
        counts=decode_counts(row[1]),
        ledgers=msgspec.json.decode(row[2], type=dict[str, str]),
        running=row[3],
        drained=bool(row[4]),
        at=row[5],
        epoch=row[6],
        groups=msgspec.json.decode(row[7], type=dict[str, int]),
        journal=row[8],
    )


def write_note(connection: Connection, epoch: int, note: Note) -> None:
    """Step 3: the note itself, and what the group did to dead letters, kept answers and its job."""
    _put_note(connection, epoch, note)
    put_positions(connection, "note_positions", _NOTE, note.positions)
    _change_letters(connection, note)
    if note.answered:
        answer_tables.forget(connection, note.answered)
    if note.set_aside:
        answer_tables.set_aside(connection, note.set_aside)
    if note.job is not None:
        job_tables.report(connection, note.job, note.at)


def _put_note(connection: Connection, epoch: int, note: Note) -> None:
    connection.execute(
        'INSERT INTO note (number, "group", counts, ledgers, running, drained, at, epoch, groups, journal) '
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        'ON CONFLICT (number) DO UPDATE SET "group" = excluded."group", counts = excluded.counts, ledgers = excluded.ledgers, '
        "running = excluded.running, drained = excluded.drained, at = excluded.at, epoch = excluded.epoch, "
        "groups = excluded.groups, journal = CASE excluded.journal WHEN '' THEN note.journal ELSE excluded.journal END",
        (
            _NOTE,
            note.group,
            encode_counts(note.counts),
            _json(dict(note.ledgers)),
            note.running,
            int(note.drained),
            note.at,
            epoch,
            _json(dict(note.groups)),
            note.journal,
        ),
    )


def _change_letters(connection: Connection, note: Note) -> None:
    """What the history tells of needs the jobs of the letters as they were before."""
    jobs = letter_history.jobs_of(connection, note)
    replayed = {letter.id: note.offered.get(letter.id, note.ledgers) for letter in note.failed_again}
    resolved = {identity: note.offered.get(identity, note.ledgers) for identity in note.resolved}
    replay_tables.record(connection, note.group, resolved, replayed, {letter.id: letter.owed for letter in note.failed_again})
    letter_tables.put(connection, note.group, note.failed_again)
    letter_tables.put_repeats(connection, note.group, "repeat", note.repeats)
    letter_tables.promote(connection, note.group, replayed)
    letter_tables.conclude(connection, note.superseded, "superseded")
    replay_tables.resolve(connection, resolved)
    letter_history.tell_group(connection, note, jobs)


def reset_note(connection: Connection, positions: Mapping[str, Position] | None) -> None:
    """Move the noted position of some partitions, or forget it for all (None)."""
    if positions is None:
        connection.execute("DELETE FROM note_positions")
    else:
        put_positions(connection, "note_positions", _NOTE, positions)


def keep_version(connection: Connection, version: Version) -> None:
    """What is needed to run it again."""
    connection.execute(
        "INSERT INTO versions VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (version.version, version.config, _json(dict(version.schemas)), _json(dict(version.steps)), version.created_at),
    )


def versions(connection: Connection) -> list[Version]:
    """Every version that ever ran, or was let through, newest first."""
    rows = connection.execute(
        "SELECT version, config, schemas, steps, created_at FROM versions ORDER BY created_at DESC, version"
    )
    decode = msgspec.json.Decoder(dict[str, str]).decode
    return [Version(name, config, decode(schemas), decode(steps), at) for name, config, schemas, steps, at in rows.fetchall()]


def runs(connection: Connection, limit: int) -> list[RunRecord]:
    """The latest epochs, newest first."""
    rows = connection.execute("SELECT epoch, pid, host, version, started_at FROM epochs ORDER BY epoch DESC LIMIT ?", (limit,))
    return [RunRecord(*row) for row in rows.fetchall()]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
