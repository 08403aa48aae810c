"""A ledger in SQL tables: epoch, checkpoint, counts, dedup keys and job records of one scope, beside whoever's rows they are.

Used by the state stores, and by sinks that hold their own. Every method of `LedgerTables` is a plain call on the connection's
thread, inside a transaction that the caller has begun and commits: that is what makes rows and ledger one. Invariants 2, 4, 6
and 7 stand here.

Source: docs/guarantees.md, rules 1 to 3, 5, 6 and 8.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec

from penstock.errors import EnvironmentFault, Fenced
from penstock.ledger import Claim, Claimant, Commit, Counts, JobRecord
from penstock.spi import Position
from penstock.state import key_tables
from penstock.state.dialect import Connection, dialect_of
from penstock.state.migration import Schema

LEDGER_SCHEMA = Schema(
    "ledger",
    [
        [
            """CREATE TABLE penstock_ledgers (
                number INTEGER PRIMARY KEY,
                scope TEXT NOT NULL UNIQUE,
                instance TEXT NOT NULL,
                source TEXT NOT NULL,
                key_space TEXT NOT NULL,
                "window" REAL NOT NULL,
                epoch INTEGER NOT NULL,
                "group" INTEGER NOT NULL,
                counts TEXT NOT NULL,
                running REAL NOT NULL)""",
            """CREATE TABLE penstock_positions (
                ledger INTEGER NOT NULL, "partition" TEXT NOT NULL, "order" BLOB NOT NULL, detail BLOB NOT NULL,
                PRIMARY KEY (ledger, "partition")) WITHOUT ROWID""",
            """CREATE TABLE penstock_sink_states (
                ledger INTEGER NOT NULL, sink TEXT NOT NULL, state BLOB NOT NULL,
                PRIMARY KEY (ledger, sink)) WITHOUT ROWID""",
            """CREATE TABLE penstock_job_records (
                ledger INTEGER NOT NULL, job TEXT NOT NULL, event TEXT NOT NULL,
                PRIMARY KEY (ledger, job, event)) WITHOUT ROWID""",
            """CREATE TABLE penstock_key_generations (
                ledger INTEGER NOT NULL, number INTEGER NOT NULL, began REAL NOT NULL, latest REAL NOT NULL, high BLOB NOT NULL,
                PRIMARY KEY (ledger, number)) WITHOUT ROWID""",
        ],
        [
            "ALTER TABLE penstock_ledgers ADD COLUMN run_id TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE penstock_key_generations ADD COLUMN over INTEGER NOT NULL DEFAULT 0",
        ],
        ["ALTER TABLE penstock_ledgers ADD COLUMN journal TEXT NOT NULL DEFAULT ''"],
    ],
)

_SELECT = (
    'SELECT number, instance, source, key_space, "window", epoch, run_id, "group", counts, running, journal, '
    "EXISTS (SELECT 1 FROM penstock_key_generations AS g WHERE g.ledger = penstock_ledgers.number AND g.over = 1) "
    "FROM penstock_ledgers WHERE scope = ?"
)


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    instance: str
    source: str
    key_space: str
    window: float
    epoch: int
    run_id: str
    group: int
    counts: str
    running: float
    journal: str
    sheds: bool
    """Some of its keys are over, and not all are removed."""


class LedgerTables:
    """The ledger of one scope. Holds no state of its own: a transaction that is rolled back leaves nothing stale here."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    def claim(self, connection: Connection, claimant: Claimant) -> Claim:
        """See `Ledger.claim`. The claimant's scope is the ledger's from now on."""
        row = _read(connection, claimant.scope)
        if row is not None and row.epoch >= claimant.epoch and not _is_own(row, claimant):  # Invariant 6
            raise _fenced(claimant.scope, f"epoch {row.epoch} stands there, this run has {claimant.epoch}")
        if not claimant.adopt:
            _compare(row, claimant)
            _recognise(row, claimant)
        if row is None:
            row = _create(connection, claimant)
        if row.key_space != claimant.key_space:
            key_tables.forget(connection, row.number)
        connection.execute(
            'UPDATE penstock_ledgers SET epoch = ?, run_id = ?, source = ?, key_space = ?, "window" = ? WHERE number = ?',
            (claimant.epoch, claimant.run_id, claimant.source, claimant.key_space, claimant.window, row.number),
        )
        self.scope = claimant.scope
        return _claim(connection, row)

    def commit(self, connection: Connection, commit: Commit) -> None:
        """See `Ledger.commit`."""
        row = _read(connection, self.scope)
        if row is None or (row.epoch, row.group) != (commit.epoch, commit.previous):  # Invariant 6
            found = "nothing stands there" if row is None else f"epoch {row.epoch}, group {row.group} stand there"
            raise _fenced(self.scope, f"{found}; epoch {commit.epoch}, group {commit.previous} were expected")
        if commit.keys:  # Invariant 4: in the transaction of the delivery
            key_tables.add(connection, row.number, commit.keys, commit.running, row.window)
        if commit.settled:
            key_tables.settle(connection, row.number, commit.settled, commit.running, row.window)
        if row.sheds or commit.keys or commit.settled:  # with new keys, old ones may be over
            key_tables.shed(connection, row.number)
        connection.execute(
            'UPDATE penstock_ledgers SET "group" = ?, counts = ?, running = ?, journal = ? WHERE number = ?',
            (commit.group, encode_counts(commit.counts), commit.running, commit.journal or row.journal, row.number),
        )
        put_positions(connection, "penstock_positions", row.number, commit.positions)
        connection.executemany(
            "INSERT INTO penstock_sink_states VALUES (?, ?, ?) ON CONFLICT (ledger, sink) DO UPDATE SET state = excluded.state",
            [(row.number, sink, state) for sink, state in commit.sink_states.items()],
        )
        _record(connection, row.number, commit)

    def seen(self, connection: Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `Ledger.seen`."""
        row = _read(connection, self.scope, lock=False)
        return key_tables.seen(connection, row.number, keys) if row else {}

    def committed(self, connection: Connection) -> tuple[int, int]:
        """See `Ledger.committed`. (0, 0) where the ledger is new. Invariant 7: the caller's transaction waits for one in
        doubt, in SQLite by `BEGIN IMMEDIATE`, in PostgreSQL by the lock of the ledger's row."""
        row = _read(connection, self.scope)
        return (row.epoch, row.group) if row else (0, 0)

    def forget_jobs(self, connection: Connection, job: str) -> None:
        """See `Ledger.forget_jobs`."""
        connection.execute(
            "DELETE FROM penstock_job_records WHERE job = ? AND ledger = (SELECT number FROM penstock_ledgers WHERE scope = ?)",
            (job, self.scope),
        )

    def reset(self, connection: Connection, positions: Mapping[str, Position] | None) -> None:
        """Move the checkpoint of some partitions, or forget it for all (None)."""
        row = _read(connection, self.scope)
        if row is None:
            return
        if positions is None:
            connection.execute("DELETE FROM penstock_positions WHERE ledger = ?", (row.number,))
        else:
            put_positions(connection, "penstock_positions", row.number, positions)


def _record(connection: Connection, ledger: int, commit: Commit) -> None:
    """What jobs delivered with this commit, and what of earlier ones is known elsewhere by now."""
    among = dialect_of(connection).among
    for job, events in _by_job(commit.forgotten):
        connection.execute(
            "DELETE FROM penstock_job_records WHERE ledger = ? AND job = ? AND event IN (SELECT value FROM json_each(?))",
            (ledger, job, among(events)),
        )
    for job, events in _by_job(commit.jobs):
        connection.execute(
            "INSERT INTO penstock_job_records SELECT ?, ?, value FROM json_each(?) WHERE true ON CONFLICT DO NOTHING",
            (ledger, job, among(events)),
        )


def _by_job(records: Iterable[JobRecord]) -> Iterator[tuple[str, list[str]]]:
    for job, each in groupby(records, key=lambda record: record.job):
        yield job, [record.event for record in each]


def put_positions(connection: Connection, table: str, owner: int, positions: Mapping[str, Position]) -> None:
    """Write positions; one with an empty order is the partition's beginning, and so removed."""
    connection.executemany(
        f'INSERT INTO {table} VALUES (?, ?, ?, ?) ON CONFLICT (ledger, "partition") '  # noqa: S608 - a constant of this package
        'DO UPDATE SET "order" = excluded."order", detail = excluded.detail',
        [(owner, partition, *position) for partition, position in positions.items() if position.order],
    )
    beginnings = [(owner, partition) for partition, position in positions.items() if not position.order]
    if beginnings:
        connection.executemany(f'DELETE FROM {table} WHERE ledger = ? AND "partition" = ?', beginnings)  # noqa: S608 - as above


def read_positions(connection: Connection, table: str, owner: int) -> dict[str, Position]:
    """Every partition's position."""
    rows = connection.execute(
        f'SELECT "partition", "order", detail FROM {table} WHERE ledger = ?',  # noqa: S608 - the table is a constant
        (owner,),
    )
    return {partition: Position(order, detail) for partition, order, detail in rows.fetchall()}


def encode_counts(counts: Counts) -> str:
    """As stored: a JSON object."""
    return msgspec.json.encode(counts).decode()


def decode_counts(text: str) -> Counts:
    """The inverse of `encode_counts`; a count that an older program did not keep is 0."""
    return msgspec.json.decode(text, type=Counts)


def _read(connection: Connection, scope: str, *, lock: bool = True) -> _Row | None:
    """:param lock: until the transaction's end nobody else writes this ledger (Invariant 7)."""
    query = _SELECT + dialect_of(connection).for_update if lock else _SELECT
    row = connection.execute(query, (scope,)).fetchone()
    return None if row is None else _Row(*row)


def _create(connection: Connection, claimant: Claimant) -> _Row:
    # The system's own randomness: two copies of one ledger, or two runs with one seed, must never agree by design.
    instance = secrets.token_hex(16)
    connection.execute(
        'INSERT INTO penstock_ledgers (scope, instance, source, key_space, "window", epoch, "group", counts, running) '
        "VALUES (?, ?, ?, ?, ?, 0, 0, ?, 0.0) ON CONFLICT DO NOTHING",
        (claimant.scope, instance, claimant.source, claimant.key_space, claimant.window, encode_counts(claimant.counts)),
    )
    row = _read(connection, claimant.scope)
    if row is None or row.instance != instance:
        raise _fenced(claimant.scope, "another run has made it at the same moment")
    put_positions(connection, "penstock_positions", row.number, claimant.start)
    return row


def _claim(connection: Connection, row: _Row) -> Claim:
    states = connection.execute("SELECT sink, state FROM penstock_sink_states WHERE ledger = ?", (row.number,))
    jobs = connection.execute("SELECT job, event FROM penstock_job_records WHERE ledger = ?", (row.number,))
    return Claim(
        instance=row.instance,
        epoch=row.epoch,
        group=row.group,
        positions=read_positions(connection, "penstock_positions", row.number),
        counts=decode_counts(row.counts),
        sink_states=dict(states.fetchall()),
        jobs=[JobRecord(*record) for record in jobs.fetchall()],
        keys_high=key_tables.high_water(key_tables.generations(connection, row.number)),
        journal=row.journal,
    )


def _is_own(row: _Row, claimant: Claimant) -> bool:
    """Whether it claims again, because the answer to its COMMIT was lost."""
    return bool(claimant.run_id) and (row.epoch, row.run_id) == (claimant.epoch, claimant.run_id)


def _compare(row: _Row | None, claimant: Claimant) -> None:
    if row is None:
        if claimant.instance is None:
            return
        why = "it is empty, though the pipeline's state remembers one there: the database was removed or replaced"
    elif row.source != claimant.source:
        why = f"it was filled from {row.source!r}; the pipeline now reads {claimant.source!r}"
    elif claimant.instance is not None and row.instance != claimant.instance:
        why = "it is another instance than the one the pipeline's state remembers: a copy, a restored backup, another database"
    else:
        return
    pipeline = claimant.scope.partition("/")[0]
    raise EnvironmentFault(
        "ledger.mismatch",
        f"the ledger {claimant.scope} does not belong to this pipeline as it stands",
        why=why,
        help=f"if that is meant: pipe checkpoint adopt {pipeline}",
    )


def _recognise(row: _Row | None, claimant: Claimant) -> None:
    """Rule 3: whoever claimed the ledger last is a run that the claimant's state store knows of."""
    issued = claimant.issued
    if row is None or not issued or row.epoch < min(issued) or issued.get(row.epoch) == row.run_id:
        return
    raise _fenced(claimant.scope, f"epoch {row.epoch} stands there, which another state store issued")


def _fenced(scope: str, why: str) -> Fenced:
    return Fenced(
        "ledger.fenced",
        f"another run has taken over the ledger {scope}",
        why=why,
        help="let the newer run work; if there is none, the state store was restored from a backup: pipe checkpoint adopt",
    )
