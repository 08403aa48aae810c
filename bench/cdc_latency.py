"""How long a committed row is on its way into another database, at a thousand transactions a second.

A writer inserts one row per transaction at a steady rate; each row holds the time just before its COMMIT was sent. The pipeline
(`postgres_cdc` to the `postgres` sink, processes and servers of their own, all on this machine) writes it into a table of another
server. A reader polls that table on a connection of its own and takes the time at which it first sees a row. So the latency is
from the commit at the source to the visibility in the sink, both ends included; the poll adds half its interval on average.
CPU seconds are those of the processes over the measured time.

    python bench/cdc_latency.py [--rate 1000] [--seconds 20] [--profile FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from penstock.testing.servers import Database, PostgresServer

BOUNDS = {50: 10.0, 99: 50.0}
"""Milliseconds by percentile."""

WARM_UP = 2.0
"""Seconds whose rows do not count."""

TABLE = "CREATE TABLE orders (id bigint PRIMARY KEY, customer text, total numeric(12,2), sent double precision NOT NULL)"
PIPELINE = """
pipeline: bench
source:
  postgres_cdc: {{ dsn: "{source}", tables: [public.orders] }}
sink:
  postgres: {{ dsn: "{target}", table: public.orders, key: [id] }}
state: sqlite:{directory}
"""
BOOT = "import sys; from penstock.cli.main import main; sys.argv[0] = 'pipe'; sys.exit(main())"


def write(dsn: str, rate: int, seconds: float, behind: Any) -> None:
    """So many transactions a second; how far the writer fell behind its clock goes to `behind`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        insert = "INSERT INTO orders VALUES (%s, %s, %s, %s)"
        began, worst = time.perf_counter(), 0.0
        for n in range(int(rate * seconds)):
            due = began + n / rate
            while (now := time.perf_counter()) < due:
                time.sleep(min(0.0005, due - now))
            worst = max(worst, now - due)
            connection.execute(insert, (n, f"customer {n % 500}", n % 9999, time.time()), prepare=True)
    behind.put(worst)


def watch(dsn: str, rows: int, poll: float) -> list[tuple[float, float]]:
    """(sent, seen) of every row, in the order in which they were seen."""
    found: list[tuple[float, float]] = []
    last = -1
    with psycopg.connect(dsn, autocommit=True) as connection:
        while last < rows - 1:
            new = connection.execute("SELECT id, sent FROM orders WHERE id > %s ORDER BY id", (last,), prepare=True).fetchall()
            seen = time.time()
            found += [(sent, seen) for _, sent in new]
            last = new[-1][0] if new else last
            time.sleep(poll)
    return found


def cpu(pid: int) -> float:
    """Seconds of a process and of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def cpu_below(root: int) -> float:
    """Of a process and all its living descendants."""
    parents = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    family = [root]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    return sum(cpu(pid) for pid in family if Path(f"/proc/{pid}").exists())


def percentiles(latencies: Sequence[float]) -> Mapping[int, float]:
    cuts = statistics.quantiles(latencies, n=1000, method="inclusive")
    return {50: cuts[499], 90: cuts[899], 99: cuts[989], 100: max(latencies)}


def measure(source: Database, target: Database, options: argparse.Namespace, directory: Path) -> None:
    for database in (source, target):
        database.execute(TABLE)
    file = directory / "bench.yaml"
    file.write_text(PIPELINE.format(source=source.dsn, target=target.dsn, directory=directory))
    profiled = ["-m", "cProfile", "-o", options.profile] if options.profile else []
    boot = directory / "boot.py"
    boot.write_text(BOOT)
    pipeline = subprocess.Popen([sys.executable, *profiled, str(boot), "run", str(file)], cwd=directory)
    context = multiprocessing.get_context("spawn")
    behind = context.Queue()
    writer = context.Process(target=write, args=(source.dsn, options.rate, options.seconds, behind))
    try:
        while not source.execute("SELECT pid FROM pg_stat_replication"):
            time.sleep(0.05)
        servers = {"source": source.server.pid, "target": target.server.pid, "penstock": pipeline.pid}
        before = {name: cpu_below(pid) for name, pid in servers.items()}
        began = time.perf_counter()
        writer.start()
        found = watch(target.dsn, int(options.rate * options.seconds), options.poll)
        took = time.perf_counter() - began
        used = {name: cpu_below(pid) - before[name] for name, pid in servers.items()}
        report(found, took, used, behind.get(timeout=30), options.rate)
    finally:
        writer.join(30)
        pipeline.terminate()
        pipeline.wait(30)


def report(found: list[tuple[float, float]], took: float, used: Mapping[str, float], behind: float, rate: int) -> None:
    counted = [(seen - sent) * 1000 for sent, seen in found if sent > found[0][0] + WARM_UP]
    figures = percentiles(counted)
    print(f"{len(counted)} rows at {rate}/s, the writer at most {behind * 1000:.1f} ms late")
    print("latency in ms: " + ", ".join(f"p{name} {value:.1f}" for name, value in figures.items()).replace("p100", "max"))
    print("CPU: " + ", ".join(f"{name} {seconds / took:.0%} of a core" for name, seconds in used.items()))
    held = all(figures[name] < bound for name, bound in BOUNDS.items())
    print(f"bounds {json.dumps(BOUNDS)}: {'hold' if held else 'missed'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=1000, help="transactions a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--poll", type=float, default=0.001, help="seconds between two looks at the sink's table")
    parser.add_argument("--durable", action="store_true", help="servers with fsync")
    parser.add_argument("--profile", help="where cProfile's figures go, which make the run slower")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        PostgresServer(18, durable=options.durable) as source,
        PostgresServer(18, durable=options.durable) as target,
    ):
        measure(source.create_database("shop"), target.create_database("warehouse"), options, Path(directory))


if __name__ == "__main__":
    main()
