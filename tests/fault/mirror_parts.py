"""What the mirror tests share: a schema of many kinds of tables, those who change them, one pipeline that copies them all."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import psycopg
from pgoutput_parts import CASES, TYPES_SQL

from penstock.testing.cdc_scenario import SLOT, World
from penstock.testing.proxy import Proxy
from penstock.testing.scenario import PIPELINE
from penstock.testing.servers import Database

COLUMNS = [f"c{n} {kind}" for n, kind in enumerate(dict.fromkeys(kind for kind, _, _ in CASES))]
LITERALS = [[text for kind, text, _ in CASES if kind == column.partition(" ")[2]] for column in COLUMNS]
"""Every type has a column; its literals by column."""

LITERALS[COLUMNS.index(next(column for column in COLUMNS if column.endswith(" jsonb[]")))] = ['{"{\\"a\\": [1, 2]}",NULL}']
"""An array of JSON values cannot tell a JSON null from a missing one: in an event both are null."""

SCHEMA = f"""
{TYPES_SQL}
CREATE SCHEMA zoo;
CREATE TABLE zoo.every_type (id int PRIMARY KEY, {", ".join(COLUMNS)});
CREATE TABLE zoo.parted (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE zoo.parted_1 PARTITION OF zoo.parted FOR VALUES FROM (MINVALUE) TO ('2024-07-01');
CREATE TABLE zoo.parted_2 PARTITION OF zoo.parted FOR VALUES FROM ('2024-07-01') TO (MAXVALUE);
CREATE TABLE zoo.moving (country text, id int, note text, PRIMARY KEY (country, id));
CREATE TABLE zoo.large (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0, body text, more text);
CREATE TABLE zoo.reselected (id int PRIMARY KEY, hits int NOT NULL DEFAULT 0, body text);
CREATE TABLE zoo.by_index (id int PRIMARY KEY, code text NOT NULL UNIQUE, note text);
CREATE TABLE zoo.appended (at timestamptz NOT NULL DEFAULT clock_timestamp(), writer int, n int);
CREATE TABLE zoo."Odd Name's" ("a b" int PRIMARY KEY, "SELECT" text, "q""q" text);
CREATE TABLE zoo.changing (id int PRIMARY KEY, n int, note text, gone text);
ALTER TABLE zoo.large ALTER body SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL;
ALTER TABLE zoo.reselected ALTER body SET STORAGE EXTERNAL;
"""
IDENTITIES = """
ALTER TABLE zoo.large REPLICA IDENTITY FULL;
ALTER TABLE zoo.by_index REPLICA IDENTITY USING INDEX by_index_code_key;
ALTER TABLE zoo.changing REPLICA IDENTITY FULL;
"""

KEYS: Mapping[str, Sequence[str] | None] = {
    "public.pgbench_accounts": ["aid"],
    "public.pgbench_branches": ["bid"],
    "public.pgbench_tellers": ["tid"],
    "public.pgbench_history": None,
    "zoo.every_type": ["id"],
    "zoo.parted": ["id", "day"],
    "zoo.moving": ["country", "id"],
    "zoo.large": ["id"],
    "zoo.reselected": ["id"],
    "zoo.by_index": ["code"],
    "zoo.appended": None,
    'zoo."Odd Name\'s"': ["a b"],
    "zoo.changing": ["id"],
}
"""Every mirrored table, and what identifies its rows in the copy."""

_PLAIN = {"json": "jsonb", "json[]": "jsonb[]"}
"""Types whose text the copy may write in another way, and one in which both are the same."""


def prepare(world: World, accounts: int) -> None:
    """Both schemas, and rows that are there before the first run."""
    for database in (world.source, world.target):
        pgbench(database, "-i", "-I", "dtp", "-q")
        database.execute(SCHEMA)
    world.source.execute(IDENTITIES)
    world.source.execute(
        "INSERT INTO pgbench_branches SELECT 1, 0; INSERT INTO pgbench_tellers SELECT n, 1, 0 FROM generate_series(1, 10) AS n;"
        f"INSERT INTO pgbench_accounts SELECT n, 1, 0, '' FROM generate_series(1, {accounts}) AS n;"
        "INSERT INTO zoo.moving SELECT 'de', n, 'early' FROM generate_series(1, 30) AS n;"
        "INSERT INTO zoo.large SELECT n, 0, repeat(md5(n::text), 200), md5(n::text) FROM generate_series(1, 10) AS n;"
        "INSERT INTO zoo.parted SELECT n, date '2024-06-20' + n, 'early' FROM generate_series(1, 30) AS n"
    )


def write_pipeline(project: Path, world: World) -> None:
    """One pipeline; each table has a sink of its own, which takes the events of that table."""
    target = world.target.dsn_through(world.to_target.port)
    sinks = []
    for number, (table, key) in enumerate(KEYS.items()):
        postgres: dict[str, Any] = {"dsn": target, "table": table, "truncate": '$event.type | endswith(".truncate")'}
        if key is not None:
            postgres |= {"key": key, "delete": '$event.type | endswith(".delete")'}
        name = json.dumps("/" + quote(table, safe="'"))  # as in the source of an event, a URI
        sinks.append({"name": f"table-{number}", "when": f"$event.source | endswith({name})", "postgres": postgres})
    pipeline = {
        "pipeline": PIPELINE,
        "source": {
            "postgres_cdc": {
                "dsn": world.source.dsn_through(world.to_source.port),
                "tables": list(KEYS),
                "slot": {"name": SLOT},
                "toast": "reselect",
                "snapshot": {"mode": "initial", "keyless": "skip"},
                "status_interval": "1s",
            }
        },
        "sinks": sinks,
        "retry": {"initial_delay": "5ms", "max_delay": "50ms", "max_attempts": 1000, "max_elapsed": "5m"},
    }
    (project / f"{PIPELINE}.yaml").write_text(json.dumps(pipeline, indent=2))


def pgbench(database: Database, *arguments: str) -> int:
    """Run pgbench; its exit status, which is not 0 where the server went away."""
    server = database.server
    given = psycopg.conninfo.conninfo_to_dict(database.dsn)
    environment = {**os.environ, "PGPASSWORD": str(given["password"])}
    command = [str(server.program("pgbench")), "-h", "127.0.0.1", "-p", str(server.port), "-U", str(given["user"]), *arguments]
    return subprocess.run([*command, database.name], env=environment, capture_output=True, check=False).returncode


@dataclass(slots=True)
class Reading:
    """Whether the slot has ever been read from: from then on every change reaches the pipeline.

    Until then a slot is given up and made anew where a table is emptied beside its snapshot, and while it is being made it is
    listed already. A row that comes before the slot is not in the stream, and, without a key, not in the snapshot either.
    """

    database: Database
    begun: bool = False

    def has_begun(self) -> bool:
        """False too while the server is away, where it had not begun before."""
        if not self.begun:
            try:
                self.begun = bool(self.database.execute(_READ))
            except psycopg.OperationalError:
                return False
        return self.begun


_READ = "SELECT 1 FROM pg_stat_replication WHERE state IN ('catchup', 'streaming')"
"""Other than a connection that makes a slot, which is in `startup`."""


def differences(world: World, tables: Sequence[str] = tuple(KEYS)) -> dict[str, str]:
    """Tables whose rows are not those of the original, by checksums that the servers compute."""
    found = {}
    for table in tables:
        theirs, ours = _checksum(world.source, table), _checksum(world.target, table)
        if theirs != ours:
            found[table] = f"{ours} instead of {theirs}; {_first_difference(world, table)}"
    return found


def _columns(database: Database, table: str) -> str:
    """Every column as text, under its name."""
    columns = database.execute(
        "SELECT quote_ident(attname), format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname",
        (table,),
    )
    return ", ".join(f"{name}::{_PLAIN.get(kind, 'text')}::text AS {name}" for name, kind in columns)


def _checksum(database: Database, table: str) -> tuple[int, str]:
    ((count, digest),) = database.execute(
        "SELECT count(*), md5(coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '')) "
        f"FROM (SELECT {_columns(database, table)} FROM {table}) AS t"
    )
    return int(count), str(digest)


def _first_difference(world: World, table: str) -> str:
    """The columns in which the first pair of rows differs that are not in both."""
    rows = []
    for database in (world.source, world.target):
        texts = f"SELECT to_jsonb(t) FROM (SELECT {_columns(database, table)} FROM {table}) AS t"
        rows.append({json.dumps(row, sort_keys=True): row for (row,) in database.execute(texts)})
    lacking, extra = sorted(rows[0].keys() - rows[1].keys()), sorted(rows[1].keys() - rows[0].keys())
    key = KEYS.get(table)
    if key and lacking and extra:
        one = rows[0][lacking[0]]
        for other in (rows[1][text] for text in extra):
            if [one[name] for name in key] == [other[name] for name in key]:
                return str({name: (value, other[name]) for name, value in one.items() if value != other[name]})
    return f"lacks {len(lacking)} {str(lacking[:1])[:300]}, has {len(extra)} more {str(extra[:1])[:300]}"


@dataclass(slots=True)
class Busy:
    """Somebody who changes the source again and again, in a thread, until the block is left."""

    step: Callable[[], None]
    done: int = 0
    failure: BaseException | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Busy:
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self.failure is not None and error is None:
            raise self.failure

    def _work(self) -> None:
        try:
            while not self._ended.is_set():
                self.step()
                self.done += 1
                time.sleep(0.01)  # so that the machine has something left for the pipeline
        except BaseException as error:  # raised at the end of the block
            self.failure = error


class Keeper:
    """Changes every table of the zoo, a transaction at a time, on one connection; a lost one is made anew."""

    def __init__(self, database: Database, number: int, rng: random.Random, reading: Reading) -> None:
        self.database = database
        self.reading = reading
        self.number = number
        self.rng = rng
        self.connection: psycopg.Connection[Any] | None = None
        self.n = 0
        self.changes = [
            self._every_type,
            self._parted,
            self._moving,
            self._large,
            self._reselected,
            self._by_index,
            self._appended,
            self._odd,
            self._changing,
        ]

    def step(self) -> None:
        """A transaction; where the server goes away it is forgotten, committed or not."""
        try:
            if self.connection is None:
                self.connection = psycopg.connect(self.database.dsn, connect_timeout=10, application_name="writer")
                self.connection.execute("SET deadlock_timeout = '20ms'; SET lock_timeout = '2s'")
                self.connection.commit()
            for change in self.rng.sample(self.changes, self.rng.randrange(1, 4)):
                change(self.connection)
            self.connection.rollback() if self.rng.random() < 0.1 else self.connection.commit()
        except (psycopg.OperationalError, psycopg.InterfaceError):
            self.close()
            time.sleep(0.02)
        except psycopg.errors.UniqueViolation:
            self.close()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _id(self, most: int = 40) -> int:
        return self.rng.randrange(1, most)

    def _every_type(self, db: psycopg.Connection[Any]) -> None:
        values = [self.rng.choice([*literals, None]) for literals in LITERALS]
        names = [column.partition(" ")[0] for column in COLUMNS]
        casts = ", ".join(f"%s::{column.partition(' ')[2]}" for column in COLUMNS)
        sets = ", ".join(f"{name} = excluded.{name}" for name in self.rng.sample(names, 20))
        db.execute(
            f"INSERT INTO zoo.every_type VALUES (%s, {casts}) ON CONFLICT (id) DO UPDATE SET {sets}", (self._id(), *values)
        )
        db.execute("DELETE FROM zoo.every_type WHERE id = %s", (self._id(),))

    def _parted(self, db: psycopg.Connection[Any]) -> None:
        day = f"2024-{self.rng.randrange(5, 9):02}-{self.rng.randrange(1, 28):02}"
        db.execute("INSERT INTO zoo.parted VALUES (%s, %s, 'new') ON CONFLICT DO NOTHING", (self._id(), day))
        db.execute("UPDATE zoo.parted SET day = %s, note = 'moved' WHERE id = %s AND day < '2024-06-25'", (day, self._id()))
        db.execute("DELETE FROM zoo.parted WHERE id = %s", (self._id(),))

    def _moving(self, db: psycopg.Connection[Any]) -> None:
        country = self.rng.choice(["de", "fr", "naïve", "", "a'b"])
        db.execute("INSERT INTO zoo.moving VALUES (%s, %s, 'new') ON CONFLICT DO NOTHING", (country, self._id()))
        db.execute("UPDATE zoo.moving SET id = id + 1000, note = note || '.' WHERE id = %s", (self._id(),))
        db.execute("UPDATE zoo.moving SET country = 'pt' WHERE id = %s AND country = 'de'", (self._id(),))
        if self.rng.random() < 0.04:
            db.execute("TRUNCATE zoo.moving")

    def _large(self, db: psycopg.Connection[Any]) -> None:
        body = self.rng.randbytes(self.rng.randrange(10, 4000)).hex()
        db.execute("INSERT INTO zoo.large VALUES (%s, 0, %s, %s) ON CONFLICT DO NOTHING", (self._id(), body, body[:5000]))
        db.execute("UPDATE zoo.large SET hits = hits + 1 WHERE id %% 7 = %s", (self._id(7),))
        db.execute("UPDATE zoo.large SET body = %s WHERE id = %s", (body, self._id()))
        db.execute("UPDATE zoo.large SET id = id + 100 WHERE id = %s", (self._id(),))
        if self.rng.random() < 0.02:
            db.execute("TRUNCATE zoo.large, zoo.by_index")

    def _reselected(self, db: psycopg.Connection[Any]) -> None:
        body = self.rng.randbytes(self.rng.randrange(10, 4000)).hex()
        db.execute("INSERT INTO zoo.reselected VALUES (%s, 0, %s) ON CONFLICT DO NOTHING", (self._id(), body))
        db.execute("UPDATE zoo.reselected SET hits = hits + 1 WHERE id = %s", (self._id(),))

    def _by_index(self, db: psycopg.Connection[Any]) -> None:
        db.execute("INSERT INTO zoo.by_index VALUES (%s, %s, 'new') ON CONFLICT DO NOTHING", (self._id(), f"k{self._id()}"))
        db.execute("UPDATE zoo.by_index SET code = %s WHERE id = %s", (f"m{self._id(2000)}", self._id()))
        db.execute("UPDATE zoo.by_index SET note = %s WHERE id = %s", (f"n{self._id(2000)}", self._id()))
        db.execute("DELETE FROM zoo.by_index WHERE id = %s", (self._id(),))

    def _appended(self, db: psycopg.Connection[Any]) -> None:
        if not self.reading.has_begun():
            return
        self.n += 1
        db.execute("INSERT INTO zoo.appended (writer, n) VALUES (%s, %s), (%s, %s)", (self.number, self.n, self.number, -self.n))

    def _odd(self, db: psycopg.Connection[Any]) -> None:
        db.execute(
            'INSERT INTO zoo."Odd Name\'s" VALUES (%s, %s, %s) ON CONFLICT ("a b") DO UPDATE SET "SELECT" = excluded."SELECT"',
            (self._id(), f"v{self._id()}", None),
        )

    def _changing(self, db: psycopg.Connection[Any]) -> None:
        db.execute("INSERT INTO zoo.changing (id, n) VALUES (%s, %s) ON CONFLICT DO NOTHING", (self._id(), self._id()))
        db.execute("UPDATE zoo.changing SET n = n + 1 WHERE id = %s", (self._id(),))
        db.execute("DELETE FROM zoo.changing WHERE id = %s", (self._id(),))


@contextmanager
def two_databases(source: Any, target: Any, name: str) -> Iterator[World]:
    """Databases of one name on both servers, and proxies before these; dropped afterwards."""
    one, other = source.create_database(name), target.create_database(name)
    try:
        with Proxy(source.port) as to_source, Proxy(target.port) as to_target:
            yield World(one, other, to_source, to_target)
    finally:
        one.server.drop_database(name)
        other.server.drop_database(name)
