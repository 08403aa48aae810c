"""What it costs a state store to put down dead letters, to make them stand, to take them up for a job and to settle them.

    python bench/letter_writes.py [--lanes 50] [--group 500] [--rounds 60] [--server]

In µs of a core for each letter, the median of the rounds: of this thread with SQLite, of the server's own process with
PostgreSQL. `--lanes 0` is a pipeline that does not park. Measured in one process beside the format before `cheap_writes`, in
alternation, 60 rounds, with letters of one cause, which the tallies count the cheapest: put 26.6 → 24.5, stand 15.3 → 12.7,
take up 30.9 → 18.8, settle 31.4 → 22.2; without lanes 26.5 → 24.5, 9.4 → 8.9, 16.4 → 14.5, 21.1 → 19.0; put in PostgreSQL
162 → 122, without lanes 145 → 107.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from dead_letters import letters as made

from penstock.faults import Faults
from penstock.state import lane_tables, letter_tables
from penstock.state.dialect import Connection, transaction
from penstock.state.ledger_tables import LEDGER_SCHEMA
from penstock.state.migration import migrate
from penstock.state.pipeline_records import Note
from penstock.state.pipeline_tables import STORE_SCHEMA, write_note
from penstock.state.records import DeadLetter
from penstock.testing.servers import PostgresServer

LEDGERS = {"state": "i"}
Clock = Callable[[], float]
WAITING = 10
"""Rounds between the two ends of a letter."""


def letters(count: int, lanes: int) -> list[DeadLetter]:
    found = list(made(count))
    for n, letter in enumerate(found):
        letter.arrival, letter.status = n, "open"
        if lanes:
            letter.lane, letter.status, letter.code = f"customer-{n % lanes}", "parked", lane_tables.PARKED
    return found


@contextmanager
def sqlite(directory: Path) -> Iterator[tuple[Connection, Clock]]:
    with closing(sqlite3.connect(directory / "bench.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")  # the disk is not what is measured
        yield db, time.thread_time


@contextmanager
def postgres() -> Iterator[tuple[Connection, Clock]]:
    import psycopg

    from penstock.state.postgres_connection import PostgresConnection

    with PostgresServer(durable=False) as server, psycopg.connect(server.create_database("bench").dsn, autocommit=True) as raw:
        used = Path(f"/proc/{raw.info.backend_pid}/schedstat")
        yield PostgresConnection(raw), lambda: int(used.read_text().split()[0]) / 1e9


def verbs(
    db: Connection, number: int, portion: Sequence[DeadLetter], old: Sequence[DeadLetter]
) -> dict[str, Callable[[], object]]:
    """Of one round. The old letters are the first in their lanes."""
    group, ids = 2 * number + 1, [letter.id for letter in old]

    def take_up() -> None:
        lane_tables.passing(db, ids)
        letter_tables.set_status(db, ids, "replaying", "job", ["open", "parked"])

    return {
        "put": lambda: letter_tables.put(db, group, portion),
        "stand": lambda: write_note(db, 1, Note(group, ledgers=LEDGERS)),
        "take up": take_up,
        "settle": lambda: write_note(db, 1, Note(group + 1, ledgers=LEDGERS, resolved=ids)),
    }


def measured(db: Connection, clock: Clock, portions: Sequence[Sequence[DeadLetter]]) -> dict[str, list[float]]:
    """By verb, seconds for each letter in each round. What a round takes up has come `WAITING` rounds before."""
    took: dict[str, list[float]] = {}
    for number, portion in enumerate(portions):
        old = portions[number - WAITING] if number >= WAITING else []
        for name, verb in verbs(db, number, portion, old).items():
            if not old and name in ("take up", "settle"):
                continue
            begun = clock()
            with transaction(db):
                verb()
            took.setdefault(name, []).append((clock() - begun) / len(portion))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lanes", type=int, default=50)
    parser.add_argument("--group", type=int, default=500, help="letters of a round")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--server", action="store_true", help="in a PostgreSQL of its own")
    given = parser.parse_args()
    found = letters(given.group * (given.rounds + WAITING), given.lanes)
    portions = [found[first : first + given.group] for first in range(0, len(found), given.group)]
    with tempfile.TemporaryDirectory() as directory, postgres() if given.server else sqlite(Path(directory)) as (db, clock):
        migrate(db, [LEDGER_SCHEMA, STORE_SCHEMA], Faults())
        for name, seconds in measured(db, clock, portions).items():
            print(f"{name:8s} {statistics.median(seconds) * 1e6:6.1f} µs")


if __name__ == "__main__":
    main()
