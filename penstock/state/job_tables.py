"""Stored jobs in a SQL table. Every function runs inside the caller's transaction.

What people want of a job (`asked`) and what it is (`state`) are two columns: people write the one, its carrier the other. A job
that no carrier ever began, and one that stands alone, people end themselves; every other end is its carrier's, behind a claim
that has settled what the ledgers recorded.

Source: docs/guarantees.md, rule 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.errors import Fenced, UsageError
from penstock.state import lane_tables
from penstock.state.dialect import Connection
from penstock.state.job_records import Ending, Job, JobError, JobProgress, JobState, JobWish
from penstock.state.records import Status

KEPT = 1000
"""Jobs of a kind on record; one that has not ended is kept beyond it."""

TAKES_UP: Mapping[str, Status] = {"retry": "open", "release": "parked"}
"""The kinds of job that a run makes by itself, each with the status of the letters that it takes up."""

JOB_COLUMNS = (
    "ALTER TABLE jobs RENAME COLUMN query TO options",
    "ALTER TABLE jobs RENAME COLUMN finished_at TO ended_at",
    "ALTER TABLE jobs ADD COLUMN created_by TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN alone INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN state TEXT NOT NULL DEFAULT 'waiting'",
    "ALTER TABLE jobs ADD COLUMN asked TEXT NOT NULL DEFAULT 'run'",
    "ALTER TABLE jobs ADD COLUMN cursor BLOB",
    "ALTER TABLE jobs ADD COLUMN done INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN total INTEGER",
    "ALTER TABLE jobs ADD COLUMN counts TEXT NOT NULL DEFAULT '{}'",
    "ALTER TABLE jobs ADD COLUMN rate REAL",
    "ALTER TABLE jobs ADD COLUMN error TEXT",
    "ALTER TABLE jobs ADD COLUMN started_at REAL",
    "ALTER TABLE jobs ADD COLUMN changed_at REAL NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN host TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN pid INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN beats INTEGER NOT NULL DEFAULT 0",
    "UPDATE jobs SET state = 'done' WHERE ended_at IS NOT NULL",
    # A job of an older program that did not end died with its command: the next run ends it.
    "UPDATE jobs SET asked = 'cancel', started_at = created_at WHERE ended_at IS NULL",
    "CREATE INDEX jobs_open ON jobs (created_at, id) WHERE ended_at IS NULL",
)

_COLUMNS = (
    "id, kind, options, created_at, created_by, alone, state, asked, cursor, done, total, counts, rate, error, started_at, "
    "changed_at, ended_at, owner, host, pid, beats"
)
_PREFIX_END = "\U0010ffff"
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode
_decode_error = msgspec.json.Decoder(JobError).decode


def create(connection: Connection, job: Job) -> None:
    """Store a job; of those that have ended, the latest are kept."""
    connection.execute(
        "INSERT INTO jobs (id, kind, options, created_at, created_by, alone, changed_at, total) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO NOTHING",
        (job.id, job.kind, job.options, job.created_at, job.created_by, int(job.alone), job.created_at, job.progress.total),
    )
    connection.execute(
        "DELETE FROM jobs WHERE ended_at IS NOT NULL AND kind = ? AND created_at < "
        "(SELECT created_at FROM jobs WHERE kind = ? ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET ?)",
        (job.kind, job.kind, KEPT - 1),
    )


def latest(connection: Connection, limit: int) -> list[Job]:
    """Jobs, newest first."""
    query = f"SELECT {_COLUMNS} FROM jobs ORDER BY created_at DESC, id DESC LIMIT ?"  # noqa: S608 - constants
    return [_job(row) for row in connection.execute(query, (limit,)).fetchall()]


def open_ones(connection: Connection) -> list[Job]:
    """Jobs that have not ended, oldest first."""
    query = f"SELECT {_COLUMNS} FROM jobs WHERE ended_at IS NULL ORDER BY created_at, id"  # noqa: S608 - constants
    return [_job(row) for row in connection.execute(query).fetchall()]


def find(connection: Connection, prefix: str) -> Job:
    """One job, by the beginning of its id.

    :raises UsageError: `job.unknown`, `job.ambiguous`.
    """
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM jobs WHERE id >= ? AND id < ? ORDER BY id LIMIT 2",  # noqa: S608 - constants
        (prefix, prefix + _PREFIX_END),
    ).fetchall()
    if not rows or not prefix:
        raise UsageError("job.unknown", f"no job begins with {prefix!r}", help="pipe jobs ls lists them")
    if len(rows) > 1 and rows[0][0] != prefix:
        raise UsageError("job.ambiguous", f"more than one job begins with {prefix!r}", help="write more of it")
    return _job(rows[0])


def ask(connection: Connection, identity: str, wish: JobWish, now: float) -> Job:
    """Somebody wants it to pause, to go on, or to be cancelled. Of a job that was cancelled, or has ended, nothing else."""
    job = find(connection, identity)
    if not job.open or job.asked == "cancel":
        return job
    connection.execute("UPDATE jobs SET asked = ?, changed_at = ? WHERE id = ?", (wish, now, job.id))
    if wish == "cancel" and (job.alone or job.started_at is None):
        _end(connection, job.id, "cancelled", None, now)
        _give_up(connection, job)
    elif wish == "pause" and job.state == "waiting":
        _set_state(connection, job.id, "paused", now)
    elif wish == "run" and job.state == "paused":
        _set_state(connection, job.id, "waiting", now)
    return find(connection, job.id)


def withdraw(connection: Connection, identity: str, now: float) -> None:
    """It is cancelled if nobody ever began with it."""
    job = find(connection, identity)
    if job.started_at is None:
        _end(connection, job.id, "cancelled", None, now)


# ---- carriers


def recover(connection: Connection, now: float) -> list[Job]:
    """Open jobs of runs, oldest first, at a claim: what a run that died was at waits again, and its letters are open."""
    connection.execute(
        f"UPDATE letters SET status = {lane_tables.REOPENED}, job = NULL WHERE pending IS NULL AND status = 'replaying' "  # noqa: S608
        "AND job IN (SELECT id FROM jobs WHERE ended_at IS NULL AND alone = 0)"
    )
    connection.execute(
        "UPDATE jobs SET state = CASE asked WHEN 'pause' THEN 'paused' ELSE 'waiting' END, changed_at = ? "
        "WHERE ended_at IS NULL AND alone = 0 AND state = 'running'",
        (now,),
    )
    return [job for job in open_ones(connection) if not job.alone]


def take(connection: Connection, identity: str, now: float) -> Job:
    """Its carrier begins with it, or goes on. Nothing changes where it has ended, or is to pause or to end."""
    job = find(connection, identity)
    if not job.open or job.asked != "run":
        return job
    reopen_letters(connection, identity)
    connection.execute(
        "UPDATE jobs SET state = 'running', started_at = ifnull(started_at, ?), changed_at = ? WHERE id = ?", (now, now, job.id)
    )
    return find(connection, identity)


def own(connection: Connection, seen: Job, owner: str, host: str, pid: int) -> bool:
    """Compare and set, with the job as it was seen: whether `owner` carries it out from now on."""
    cursor = connection.execute(
        "UPDATE jobs SET owner = ?, host = ?, pid = ?, beats = beats + 1 "
        "WHERE id = ? AND owner = ? AND beats = ? AND alone = 1 AND ended_at IS NULL",
        (owner, host, pid, seen.id, seen.owner, seen.beats),
    )
    return cursor.rowcount == 1


def beat(connection: Connection, identity: str, owner: str) -> None:
    """Its owner lives.

    :raises Fenced: it has another one.
    """
    cursor = connection.execute("UPDATE jobs SET beats = beats + 1 WHERE id = ? AND owner = ?", (identity, owner))
    if cursor.rowcount == 0:  # Invariant 6
        raise Fenced("job.fenced", f"job {identity} is carried out by another process", help="let that one work")


def report(connection: Connection, progress: JobProgress, now: float) -> None:
    """How far it is."""
    connection.execute(
        "UPDATE jobs SET cursor = ?, done = ?, total = ?, counts = ?, rate = ?, changed_at = ? WHERE id = ? AND ended_at IS NULL",
        (
            progress.cursor,
            progress.done,
            progress.total,
            msgspec.json.encode(progress.counts).decode(),
            progress.rate,
            now,
            progress.job,
        ),
    )


def settled(connection: Connection, identity: str, number: int) -> None:
    """So many more of its events are done: a ledger had taken them when its run died, and a claim has settled that."""
    row = connection.execute("SELECT counts FROM jobs WHERE id = ? AND ended_at IS NULL", (identity,)).fetchone()
    if row is not None:
        counts = _decode_counts(row[0])
        counts["settled"] = counts.get("settled", 0) + number
        text = msgspec.json.encode(counts).decode()
        connection.execute("UPDATE jobs SET counts = ?, done = done + ? WHERE id = ?", (text, number, identity))


def leave(connection: Connection, identity: str, now: float) -> Job:
    """Its carrier lets go of it; it waits, or is paused, where that was asked for."""
    reopen_letters(connection, identity)
    connection.execute(
        "UPDATE jobs SET state = CASE asked WHEN 'pause' THEN 'paused' ELSE 'waiting' END, owner = '', changed_at = ? "
        "WHERE id = ? AND ended_at IS NULL",
        (now, identity),
    )
    return find(connection, identity)


def end(connection: Connection, identity: str, ending: Ending, error: JobError | None, now: float) -> None:
    """It is over; the first end stands. Letters that it still held are open again. What it was to take up by itself and did not
    waits for people, unless it is done."""
    _end(connection, identity, ending, error, now)
    reopen_letters(connection, identity)
    if ending != "done":
        _give_up(connection, find(connection, identity))


def reopen_letters(connection: Connection, identity: str) -> None:
    """What it took up and did not replay is open again."""
    rows = connection.execute(
        f"UPDATE letters SET status = {lane_tables.REOPENED}, job = NULL "  # noqa: S608 - a constant
        "WHERE pending IS NULL AND status = 'replaying' AND job = ? RETURNING id",
        (identity,),
    )
    reopened = [letter for (letter,) in rows.fetchall()]
    if reopened:
        lane_tables.free(connection, reopened)


def _give_up(connection: Connection, job: Job) -> None:
    """Of a job that the run made by itself: the next would be made at once, and fail again."""
    status = TAKES_UP.get(job.kind)
    if status is not None:
        lane_tables.give_up_due(connection, status, job.created_at)


def _end(connection: Connection, identity: str, ending: Ending, error: JobError | None, now: float) -> None:
    text = None if error is None else msgspec.json.encode(error).decode()
    connection.execute(
        "UPDATE jobs SET state = ?, error = ?, ended_at = ?, changed_at = ?, owner = '' WHERE id = ? AND ended_at IS NULL",
        (ending, text, now, now, identity),
    )


def _set_state(connection: Connection, identity: str, state: JobState, now: float) -> None:
    connection.execute("UPDATE jobs SET state = ?, changed_at = ? WHERE id = ?", (state, now, identity))


def _job(row: Sequence[Any]) -> Job:
    identity, kind, options, created_at, created_by, alone, state, asked, cursor, done, total, counts, rate, error, *rest = row
    progress = JobProgress(identity, cursor or b"", done, total, _decode_counts(counts), rate)
    decoded = None if error is None else _decode_error(error)
    return Job(identity, kind, options, created_at, created_by, bool(alone), state, asked, progress, decoded, *rest)
