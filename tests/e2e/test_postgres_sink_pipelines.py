"""Whole pipelines into PostgreSQL: a file through the command, killed at every step; a table mirrored from another database."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import sql
from server_parts import MakeDatabase

from penstock.engine.embed import load, run
from penstock.testing.servers import Database

PIPE = [sys.executable, "-P", "-c", "from penstock.cli.main import main; main()"]

FROM_FILE = """
pipeline: load
source: { file: { paths: in.jsonl } }
dedup: { key: .data.id, window: 1h }
sink: { postgres: { dsn: "${DSN}", table: orders, key: [id] } }
batching: { count: 10 }
"""
MIRROR = """
pipeline: mirror
source: {{ postgres_cdc: {{ dsn: "{origin}", tables: [items] }} }}
sink:
  postgres:
    dsn: "{copy}"
    table: items
    key: [id]
    delete: $event.type | endswith(".delete")
    truncate: $event.type | endswith(".truncate")
state: sqlite:{directory}/state
"""
ITEMS = "CREATE TABLE items (id int PRIMARY KEY, name text UNIQUE, price numeric(10,2), tags text[], at timestamptz, raw bytea)"


def pipe(project: Path, database: Database, *arguments: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PIPE, *arguments],
        cwd=project,
        env={"DSN": database.dsn, "PENSTOCK_FAULT": fault, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Path:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, price int CHECK (price > 0), times int NOT NULL DEFAULT 1)")
    database.execute(
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.times := OLD.times + 1; RETURN NEW; END$$;"
        "CREATE TRIGGER again BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION again()"
    )
    rows = [{"id": n, "price": -1 if n in (7, 23) else n + 1} for n in range(50)] + [{"id": 3, "price": 4}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "load.yaml").write_text(FROM_FILE)
    return tmp_path


@pytest.mark.parametrize(
    "fault",
    [
        "mid_migration:2",
        "mid_claim:1",
        "before_commit:1",
        "inside_sink_write:1",
        "inside_commit:1",
        "before_note:1",
        "after_note:1",
    ],
)
def test_a_run_that_is_killed_anywhere_and_started_again_writes_every_row_once(
    project: Path, database: Database, fault: str
) -> None:
    killed = pipe(project, database, "run", "--once", "load.yaml", fault=f"{fault}:kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ended = pipe(project, database, "run", "--once", "load.yaml")
    assert ended.returncode == 0, ended.stderr
    assert database.execute("SELECT count(*), sum(id), max(times) FROM orders") == [(48, sum(range(50)) - 30, 1)]
    (status,) = json.loads(pipe(project, database, "status", "--json").stdout)["items"]
    counts = {name: status[name] for name in ("received", "delivered", "deduplicated", "dead_lettered")}
    assert counts == {"received": 51, "delivered": 48, "deduplicated": 1, "dead_lettered": 2}


def test_dead_letters_name_the_constraint_and_a_replay_writes_them_once_it_is_gone(project: Path, database: Database) -> None:
    assert pipe(project, database, "run", "--once", "load.yaml").returncode == 0
    letters = json.loads(pipe(project, database, "dlq", "ls", "--json").stdout)["items"]
    assert {letter["code"] for letter in letters} == {"sink.constraint"}
    assert all("orders_price_check" in letter["message"] for letter in letters)
    database.execute("ALTER TABLE orders DROP CONSTRAINT orders_price_check")
    replayed = pipe(project, database, "dlq", "replay", "load.yaml", "--all", "--overwrite")
    assert replayed.returncode == 0, replayed.stderr
    assert database.execute("SELECT count(*), max(times) FROM orders") == [(50, 1)]


def test_what_is_missing_at_the_start_is_said_with_its_sql_and_exit_3(project: Path, database: Database) -> None:
    database.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    ended = pipe(project, database, "run", "--once", "load.yaml")
    assert ended.returncode == 3
    said = json.loads(ended.stderr.splitlines()[-1])
    assert (said["code"], said["help"]) == (
        "sink.no_unique_key",
        'CREATE UNIQUE INDEX CONCURRENTLY ON "public"."orders" ("id")',
    )
    assert database.execute("SELECT count(*) FROM orders") == [(0,)]


async def test_a_table_is_mirrored_with_its_deletions_new_keys_and_truncation(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    origin, copy = make_database(prefix="origin"), make_database(prefix="copy")
    for database in (origin, copy):
        await sql(database, ITEMS)
    file = tmp_path / "mirror.yaml"
    file.write_text(MIRROR.format(origin=origin.dsn, copy=copy.dsn, directory=tmp_path))
    pipeline = load(file)
    await run(pipeline, once=True)

    async def equal() -> bool:
        summary = await run(pipeline, once=True)
        assert summary.counts.dead_lettered == 0
        found: list[Any] = [await sql(each, "SELECT items::text FROM items ORDER BY id") for each in (origin, copy)]
        return bool(found[0] == found[1])

    values = (
        "'name ' || n, n / 4.0, ARRAY['a', NULL, n::text], '2026-01-01'::timestamptz + n * interval '1 s', decode('00ff', 'hex')"
    )
    await sql(origin, f"INSERT INTO items SELECT n, {values} FROM generate_series(1, 300) AS n")
    assert await equal()
    await sql(
        origin,
        "UPDATE items SET price = price + 1 WHERE id % 3 = 0; DELETE FROM items WHERE id % 7 = 0; "
        "UPDATE items SET id = id + 1000 WHERE id % 10 = 1; "
        "UPDATE items SET name = 'x' WHERE id = 2; UPDATE items SET name = 'name 2' WHERE id = 3; "
        "DELETE FROM items WHERE id = 4; INSERT INTO items (id, name) VALUES (4, 'name 3')",
    )
    assert await equal()
    await sql(origin, f"TRUNCATE items; INSERT INTO items SELECT n, {values} FROM generate_series(5, 20) AS n")
    assert await equal()
    await sql(origin, "DELETE FROM items")
    assert await equal()
