"""A million delivered events looked for in their sink, as `pipe verify` does: files and tables, by key and by values.

Each way runs in a process of its own, over a target that holds all of them but ten; the last case has lost every one. Time is
processor time of that process, without making the events and without the PostgreSQL server's. Memory is what the process grew by
from the first event to the last absence. Bounds: 15 s and 40 MB for a million.

    python bench/inspections.py [--rows 1000000] [--only MODE…]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import zstandard

from connectors.sinks.file import FileSink
from connectors.sinks.postgres import PostgresSink
from connectors.sinks.sqlite import SqliteSink
from penstock.clock import SystemClock
from penstock.event import Event
from penstock.faults import Faults
from penstock.inspection import Verifying
from penstock.spi import Context
from penstock.testing.servers import PostgresServer
from transforms.expressions import compiler

SECONDS, MEMORY_MB = 15.0, 40.0
LOST = 10
BATCH = 1000
LINE = '{"id":%d,"customer":"customer %d","status":"shipped","note":"a line of about two hundred bytes, as orders have them, %s"}'
NOTE = "x" * 80
TABLE = "CREATE TABLE orders (id bigint {key}, customer text, status text)"
MODES = ("file", "file .zst", "sqlite by key", "sqlite by values", "postgres by key", "postgres by values", "postgres, all lost")


def main() -> None:
    options = _options()
    if options.child:
        print(json.dumps(asyncio.run(_measure(options.child, options.rows, options.dsn))))
        return
    with PostgresServer(18, durable=False) as server:
        for mode in MODES:
            if not options.only or mode.startswith(tuple(options.only)):
                _tell(mode, options.rows, _in_a_process(mode, options.rows, server))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="*", default=[], help="modes whose names begin so")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--dsn", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(mode: str, rows: int, server: PostgresServer) -> dict[str, float]:
    dsn = server.create_database(mode.replace(" ", "_").replace(",", "")).dsn if mode.startswith("postgres") else ""
    command = [sys.executable, __file__, "--child", mode, "--rows", str(rows), "--dsn", dsn]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def _tell(mode: str, rows: int, found: dict[str, float]) -> None:
    share = rows / 1_000_000
    holds = found["seconds"] <= SECONDS * share and found["memory_mb"] <= MEMORY_MB * max(share, 0.5)
    pace = f"{found['seconds']:.1f} s of processor, {found['wall']:.1f} s in all, {found['memory_mb']:.0f} MB"
    print(f"{mode:>20}: {pace}, {found['absent']:,.0f} absent: {'holds' if holds else 'DOES NOT HOLD'}", flush=True)


async def _measure(mode: str, rows: int, dsn: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        sink = _prepared(mode, rows, dsn, Path(directory))
        before, wall, seconds = _memory(), time.perf_counter(), 0.0
        async with sink.inspection() as inspection:
            for first in range(0, rows, BATCH):
                events = [_event(n) for n in range(first, min(first + BATCH, rows))]
                began = time.process_time()
                await inspection.expect(range(first, first + len(events)), events)
                seconds += time.process_time() - began
            began = time.process_time()
            absent, named = await inspection.absences(20)
            seconds += time.process_time() - began
        assert absent == (rows if mode.endswith("lost") else LOST)
        assert len(named) == min(absent, 20)
        wall = time.perf_counter() - wall
        return {"seconds": seconds, "wall": wall, "memory_mb": _memory() - before, "absent": absent}


def _memory() -> float:
    """The process's greatest, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _event(n: int) -> Event:
    return Event(str(n), "bench", "order", raw=(LINE % (n, n % 1000, NOTE)).encode())


def _prepared(mode: str, rows: int, dsn: str, directory: Path) -> Verifying:
    context = Context("bench", "sink", directory, directory, compiler(), SystemClock(), random.Random(1), Faults())
    kind = mode.partition(" ")[0].strip(",")
    config: dict[str, Any] = {"key": ["id"]} if "values" not in mode else {}
    columns = {"id": ".id", "customer": ".customer", "status": ".status"}
    if kind == "file":
        path = "out.jsonl.zst" if mode.endswith(".zst") else "out.jsonl"
        _write_lines(directory / path, rows)
        return FileSink(FileSink.Config.model_validate({"path": path}), context)
    kept = (n for n in range(rows) if n % (rows // LOST) != 7 and not mode.endswith("lost"))
    found = ((n, f"customer {n % 1000}", "shipped") for n in kept)
    if kind == "sqlite":
        _fill_sqlite(directory / "orders.db", found, config)
        values = {"path": "orders.db", "table": "orders", "columns": columns, **config}
        return SqliteSink(SqliteSink.Config.model_validate(values), context)
    _fill_postgres(dsn, found, config)
    return PostgresSink(
        PostgresSink.Config.model_validate({"dsn": dsn, "table": "orders", "columns": columns, **config}), context
    )


def _write_lines(path: Path, rows: int) -> None:
    lines = ((LINE % (n, n % 1000, NOTE) + "\n").encode() for n in range(rows) if n % (rows // LOST) != 7)
    with path.open("wb") as file:
        if path.suffix != ".zst":
            file.writelines(lines)
            return
        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as writer:
            for line in lines:
                writer.write(line)


def _fill_sqlite(path: Path, rows: Iterator[tuple[Any, ...]], config: dict[str, Any]) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(TABLE.format(key="PRIMARY KEY" if config else ""))
        db.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)


def _fill_postgres(dsn: str, rows: Iterator[tuple[Any, ...]], config: dict[str, Any]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(TABLE.format(key="PRIMARY KEY" if config else "").encode())
        with cursor.copy(b"COPY orders FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(b"VACUUM ANALYZE orders")


if __name__ == "__main__":
    main()
