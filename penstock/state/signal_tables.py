"""What people ask of a pipeline (signals), and whether it is paused. Every function runs inside the caller's transaction.

A signal stays until a run has decided it; of the decided ones the latest are kept. Pausing is a state of the pipeline, not of a
run: it is set with the signal that asks for it, and a run only follows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.state.dialect import Connection
from penstock.state.signal_records import Inbox, Pause, SignalOutcome, SignalRecord

KEPT = 1000
"""Signals on record; one that waits is kept beyond it."""

PAUSE, RESUME = "pause", "resume"
"""The kinds that every pipeline takes."""

SIGNAL_TABLES = (
    """CREATE TABLE signals (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, arguments TEXT NOT NULL, made_at REAL NOT NULL, made_by TEXT NOT NULL,
        taken_at REAL, decided_at REAL, outcome TEXT, why TEXT)""",
    "CREATE INDEX signals_waiting ON signals (id) WHERE outcome IS NULL",
    """CREATE TABLE pause (
        number INTEGER PRIMARY KEY, since REAL NOT NULL, made_by TEXT NOT NULL, why TEXT)""",
)

_PAUSE = 1
"""The pause is one row, or none."""

_COLUMNS = "id, kind, arguments, made_at, made_by, taken_at, decided_at, outcome, why"
_decode = msgspec.json.Decoder(tuple[str, ...]).decode


def send(connection: Connection, kind: str, arguments: Sequence[str], by: str, now: float) -> int:
    """Store a signal. Its id is higher than any before it, and than those of a store that this one was restored from: it counts
    from the time in seconds."""
    newest = connection.execute("SELECT max(id) FROM signals").fetchone()[0] or 0
    identity = max(newest + 1, int(now))
    encoded = msgspec.json.encode(list(arguments)).decode()
    connection.execute(
        "INSERT INTO signals (id, kind, arguments, made_at, made_by) VALUES (?, ?, ?, ?, ?)", (identity, kind, encoded, now, by)
    )
    connection.execute(
        "DELETE FROM signals WHERE outcome IS NOT NULL AND id < (SELECT id FROM signals ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (KEPT - 1,),
    )
    return identity


def pause(connection: Connection, by: str, why: str | None, now: float) -> int:
    """Pause the pipeline, and tell its run. One that is paused already stays so since then, by whom it was."""
    connection.execute("INSERT INTO pause VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (_PAUSE, now, by, why))
    return send(connection, PAUSE, [why] if why else [], by, now)


def resume(connection: Connection, by: str, now: float) -> int:
    """End the pause, and tell the run."""
    connection.execute("DELETE FROM pause")
    return send(connection, RESUME, [], by, now)


def take(connection: Connection, identity: int, now: float) -> None:
    """A run has begun with a signal."""
    connection.execute("UPDATE signals SET taken_at = ? WHERE id = ? AND outcome IS NULL", (now, identity))


def decide(connection: Connection, identity: int, outcome: SignalOutcome, why: str | None, now: float) -> None:
    """What became of a signal; the first decision stands."""
    change = (
        "UPDATE signals SET outcome = ?, why = ?, decided_at = ?, taken_at = ifnull(taken_at, ?) WHERE id = ? AND outcome IS NULL"
    )
    connection.execute(change, (outcome, why, now, now, identity))


def inbox(connection: Connection) -> Inbox:
    """What a run follows."""
    row = connection.execute("SELECT since, made_by, why FROM pause").fetchone()
    waiting = connection.execute(f"SELECT {_COLUMNS} FROM signals WHERE outcome IS NULL ORDER BY id").fetchall()  # noqa: S608
    return Inbox(None if row is None else Pause(*row), [_record(found) for found in waiting])


def latest(connection: Connection, limit: int) -> list[SignalRecord]:
    """Signals, newest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM signals ORDER BY id DESC LIMIT ?", (limit,))  # noqa: S608
    return [_record(row) for row in rows.fetchall()]


def find(connection: Connection, identity: int) -> SignalRecord | None:
    """One signal, or None where it is not on record."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM signals WHERE id = ?", (identity,)).fetchone()  # noqa: S608
    return None if row is None else _record(row)


def _record(row: Sequence[object]) -> SignalRecord:
    identity, kind, arguments, *rest = row
    return SignalRecord(identity, kind, _decode(arguments), *rest)  # type: ignore[arg-type]  # as the table has them
