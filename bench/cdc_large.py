"""One large transaction through whole processes: rows a second, peak memory, and what stays on disk.

Five million order rows of six columns in one transaction, read by `pipe run --once` with the sinks `drop` and `file`, streamed
while in progress and not; then a million rows that are rolled back while a run follows. Each run reads from a slot of its own
that was made before; the server is PostgreSQL 18. The bound is a peak of 200 MB, and that nothing stays of what was rolled back.

    python bench/cdc_large.py [--rows 5000000] [--aborted 1000000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import psycopg
from cdc import ROWS, TABLE

from penstock.testing.servers import Database, PostgresServer

MEMORY_MB = 200
CASES = tuple(product(("drop", "file"), ("on", "off")))
PIPELINE = """
pipeline: large
source:
  postgres_cdc:
    dsn: {dsn}
    tables: [public.orders]
    publication: {{ name: bench, create: never }}
    slot: {{ name: {slot}, create: never }}
    snapshot: {{ mode: never }}
    streaming: {streaming}
sink: {sink}
journal: off
"""
SINKS = {"drop": "drop", "file": "{ file: { path: out.jsonl } }"}
PIPE = [sys.executable, "-m", "penstock.cli.main", "run", "--json", "large.yaml"]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished process: seconds, MB, what was counted, the most that it spilled and what it left, in files and MB."""

    wall: float
    cpu: float
    memory: float
    delivered: int
    spilled: float
    left: int


def run(database: Database, slot: str, sink: str, streaming: str, *ends: str, beside: Callable[[], None] | None = None) -> Run:
    """`pipe run` in a project of its own.

    :param ends: options that say when it ends.
    :param beside: what happens while it runs.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
        project = Path(scratch)
        text = PIPELINE.format(dsn=database.dsn, slot=slot, streaming=streaming, sink=SINKS[sink])
        (project / "large.yaml").write_text(text)
        began = time.perf_counter()
        with (project / "summary.json").open("wb") as out:
            child = subprocess.Popen([*PIPE, *ends], cwd=project, stdout=out)
        other = threading.Thread(target=beside or (lambda: None))
        other.start()
        spilled = 0
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            spilled = max(spilled, sum(size_of(path) for path in (project / ".penstock" / "spill").rglob("*")))
            time.sleep(0.05)
        wall, (_, status, usage) = time.perf_counter() - began, ended
        child.returncode = os.waitstatus_to_exitcode(status)
        other.join()
        if child.returncode != 0:
            raise SystemExit(f"the run ended with {child.returncode}")
        delivered = json.loads((project / "summary.json").read_bytes())["delivered"]
        left = len(list((project / ".penstock" / "spill").rglob("*")))
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6, delivered, spilled / 1e6, left)


def size_of(path: Path) -> int:
    """0 where it is gone by now."""
    try:
        return path.stat().st_size if path.suffix == ".changes" else 0
    except FileNotFoundError:
        return 0


def roll_back(database: Database, rows: int) -> None:
    """Behind the rolled back rows one that is committed, with which the run ends."""
    with psycopg.connect(database.dsn) as connection:
        connection.execute(ROWS.format(first=-rows, last=-1).encode())
        connection.rollback()
    database.execute(ROWS.format(first=0, last=0))


def create_slot(database: Database, name: str) -> None:
    database.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--aborted", type=int, default=1_000_000)
    options = parser.parse_args()
    with PostgresServer(18, durable=False, settings={"max_wal_size": "8GB"}) as server:
        database = server.create_database("bench")
        database.execute(TABLE)
        for sink, streaming in CASES:
            create_slot(database, f"{sink}_{streaming}")
        database.execute(ROWS.format(first=1, last=options.rows))
        holds = True
        for sink, streaming in CASES:
            found = run(database, f"{sink}_{streaming}", sink, streaming, "--once")
            holds = report(f"{options.rows:,} rows to {sink}, streaming {streaming}", found, options.rows) and holds
        create_slot(database, "aborted")
        found = run(database, "aborted", "drop", "on", "--max-events", "1", beside=lambda: roll_back(database, options.aborted))
        holds = report(f"{options.aborted:,} rows rolled back", found, 1) and holds
    print("holds" if holds else "MISSED")


def report(what: str, found: Run, expected: int) -> bool:
    """Print a run; whether it delivered what was expected, in bounded memory, and left nothing."""
    rate = found.delivered / found.wall
    print(
        f"{what}: {found.delivered:,} delivered in {found.wall:.1f} s ({found.cpu:.1f} s of processor time), {rate:,.0f} rows/s, "
        f"peak {found.memory:.0f} MB, {found.spilled:.0f} MB spilled, {found.left} files left of it",
        flush=True,
    )
    return found.delivered == expected and found.memory < MEMORY_MB and not found.left


if __name__ == "__main__":
    main()
