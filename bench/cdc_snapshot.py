"""An initial snapshot through whole processes: rows a second, peak memory, and where a run goes on that was killed.

Order rows of six columns, read by `pipe run --once` into the sink `drop`, once from the slot's exported snapshot and once beside
the stream; then into a file by runs that are killed with SIGKILL, one after the other, before one is left alone. The file must
have each row once. The server is PostgreSQL 18. The bound is a peak of 200 MB in every process.

    python bench/cdc_snapshot.py [--rows 5000000] [--kills 3]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cdc import ROWS, TABLE

from penstock.testing.servers import Database, PostgresServer

MEMORY_MB = 200
PIPELINE = """
pipeline: {name}
source:
  postgres_cdc:
    dsn: {dsn}
    tables: [public.orders]
    publication: {{ name: bench, create: never }}
    slot: {{ name: {name} }}
sink: {sink}
journal: off
"""
COMMAND = [sys.executable, "-m", "penstock.cli.main"]
_ID = re.compile(rb'"id":(\d+)')


@dataclass(frozen=True, slots=True)
class Run:
    """A process that ended or was killed: seconds, seconds of processor time, MB."""

    wall: float
    cpu: float
    memory: float


class Pipeline:
    """A pipeline in a project of its own."""

    def __init__(self, project: Path, database: Database, name: str, sink: str) -> None:
        self._project = project
        self._name = name
        (project / f"{name}.yaml").write_text(PIPELINE.format(name=name, dsn=database.dsn, sink=sink))

    def run(self, kill_after: float | None = None) -> Run:
        """Until it ends, or is killed after so many seconds."""
        began = time.perf_counter()
        command = [*COMMAND, "run", "--once", "--json", f"{self._name}.yaml"]
        child = subprocess.Popen(command, cwd=self._project, stdout=subprocess.DEVNULL)
        timer = None if kill_after is None else threading.Timer(kill_after, os.kill, (child.pid, signal.SIGKILL))
        if timer is not None:
            timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        if timer is not None:
            timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"the run ended with {child.returncode}")
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)

    def delivered(self) -> int:
        """By all runs together, as far as it is committed."""
        return int(json.loads(self._ask("status"))["items"][0]["delivered"])

    def places(self) -> str:
        """Where the snapshot stands."""
        return "; ".join(line for line in self._ask("checkpoint", "show").splitlines() if "snapshot" in line)

    def _ask(self, *verb: str) -> str:
        asked = [*COMMAND, *verb, *(["--json"] if verb == ("status",) else []), f"{self._name}.yaml"]
        return subprocess.run(asked, cwd=self._project, check=True, capture_output=True, text=True).stdout


def report(what: str, rows: int, run: Run) -> bool:
    """Print a run; whether its memory was bounded."""
    print(
        f"{what}: {rows:,} rows in {run.wall:.1f} s ({run.cpu:.1f} s of processor time), {rows / run.wall:,.0f} rows/s, "
        f"peak {run.memory:.0f} MB",
        flush=True,
    )
    return run.memory < MEMORY_MB


def killed(project: Path, database: Database, rows: int, kills: int, seconds: float) -> bool:
    """Runs that are killed, and one that is not: whether the file has each row once."""
    pipeline, before, holds = Pipeline(project, database, "killed", "{ file: { path: out.jsonl } }"), 0, True
    for n in range(kills + 1):
        last = n == kills
        run = pipeline.run(None if last else seconds)
        after = pipeline.delivered()
        holds = report(f"run {n + 1}, {'left alone' if last else 'killed'}", after - before, run) and holds
        print(f"  {pipeline.places()}", flush=True)
        before = after
    seen = bytearray(rows + 1)
    with (project / "out.jsonl").open("rb") as file:
        for line in file:
            seen[int(_ID.search(line)[1])] += 1  # type: ignore[index]  # each row has one
    missing, doubled = seen.count(0) - 1, rows + 1 - seen.count(0) - seen.count(1)
    print(f"in the file: {missing} missing, {doubled} more than once")
    return holds and not missing and not doubled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    with (
        PostgresServer(18, durable=False, settings={"max_wal_size": "8GB"}) as server,
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch,
    ):
        database, project = server.create_database("bench"), Path(scratch)
        database.execute(TABLE)
        database.execute(ROWS.format(first=1, last=options.rows))
        database.execute("VACUUM ANALYZE orders")
        exported = Pipeline(project, database, "exported", "drop").run()
        holds = report("exported", options.rows, exported)
        database.execute("SELECT pg_create_logical_replication_slot('beside', 'pgoutput')")
        holds = report("beside the stream", options.rows, Pipeline(project, database, "beside", "drop").run()) and holds
        seconds = exported.wall * 1.5 / (options.kills + 1)
        holds = killed(project, database, options.rows, options.kills, seconds) and holds
    print("holds" if holds else "MISSED")


if __name__ == "__main__":
    main()
