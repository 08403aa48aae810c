"""A large replay beside live work: how fast it goes, how long live events are on their way meanwhile, and what memory it takes.

A run follows a file into a SQLite table. Lines of the kind `poison` fail in a step until a file called `mended` is there:
these are the dead letters. A writer goes on appending lines at a steady rate, each with the time at which it was written; a
reader polls the table, and takes the time at which it first sees a row. First without a replay, then while all letters are
replayed. Memory is the run's resident set, as `/proc` has it, from the beginning of the replay to its end.

With `--step` the mended step takes so many seconds for each letter, in the run's own process, as one that computes does: live
events wait for it, too.

    python bench/replay_beside.py [--letters 200000] [--rate 200] [--seconds 15] [--limit 5000/s] [--step 0.01]
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

PIPELINE = """\
pipeline: bench
source: { file: { paths: [in.jsonl], follow: true } }
transforms:
  - name: mend
    python: { call: "mending:mend" }
sink: { sqlite: { path: out.db, table: events } }
"""
MENDING = """\
import time
from pathlib import Path
from penstock import Permanent

def mend(data):
    if data["kind"] == "poison" and not Path("mended").exists():
        raise Permanent("mend.poison", "not mended yet")
    if data["kind"] == "poison":
        time.sleep({step})
    return data
"""
BOOT = "import sys; from penstock.cli.main import main; sys.argv[0] = 'pipe'; sys.exit(main())"


class Bench:
    """One project."""

    def __init__(self, root: Path, rate: int, step: float) -> None:
        self.root, self.rate, self.written = root, rate, 0
        (root / "pipelines").mkdir()
        (root / "pipelines/bench.yaml").write_text(PIPELINE)
        (root / "mending.py").write_text(MENDING.replace("{step}", str(step)))
        with closing(sqlite3.connect(root / "out.db")) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE events (place INTEGER PRIMARY KEY, kind TEXT, n INTEGER, sent REAL)")
            database.commit()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), *sys.path]))}
        command = [sys.executable, "-c", BOOT, *arguments]
        with (self.root / "log").open("a") as log:
            return subprocess.Popen(command, cwd=self.root, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)

    def pipe(self, *arguments: str) -> Any:
        out, _ = self.start(*arguments, "--json").communicate()
        return json.loads(out)

    def poison(self, count: int) -> None:
        """All dead letters, by a run that drains the file."""
        with (self.root / "in.jsonl").open("a") as file:
            file.writelines(f'{{"kind":"poison","n":{n},"sent":0}}\n' for n in range(count))
        began = time.perf_counter()
        self.start("run", "bench", "--once").communicate()
        print(f"{count:,} dead letters made in {time.perf_counter() - began:.1f} s")

    def latencies(
        self, seconds: float, until: subprocess.Popen[str] | None = None, also: Callable[[], None] = lambda: None
    ) -> list[float]:
        """Of live events written at the rate, for so long, or until a process has ended. `also` is called again and again."""
        began, first, seen, found = time.perf_counter(), self.written, self.written, []
        with (self.root / "in.jsonl").open("a") as file, closing(sqlite3.connect(self.root / "out.db")) as database:
            while (now := time.perf_counter() - began) < seconds or (until is not None and until.poll() is None):
                if until is not None and until.poll() is not None:
                    break
                for _ in range(int(now * self.rate) - (self.written - first)):
                    file.write(f'{{"kind":"live","n":{self.written},"sent":{time.time()}}}\n')
                    self.written += 1
                file.flush()
                rows = database.execute(
                    "SELECT n, sent FROM events WHERE kind = 'live' AND place > ? AND n >= ?", (self._behind(database), seen)
                ).fetchall()
                at = time.time()
                found += [at - sent for _, sent in rows]
                seen = max([seen, *(n + 1 for n, _ in rows)])
                also()
                time.sleep(0.002)
        return found

    def _behind(self, database: sqlite3.Connection) -> int:
        """Nothing new is further back than so many rows."""
        return int(database.execute("SELECT max(place) FROM events").fetchone()[0] or 0) - 20_000


def memory(pid: int) -> float:
    """MiB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def told(name: str, found: Sequence[float]) -> None:
    cuts = statistics.quantiles(found, n=100)
    median, high, most = (1e3 * seconds for seconds in (cuts[49], cuts[98], max(found)))
    print(f"{name}: {len(found):,} live events, p50 {median:.1f} ms, p99 {high:.1f} ms, max {most:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--letters", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=200, help="live events a second")
    parser.add_argument("--seconds", type=float, default=15.0, help="without a replay")
    parser.add_argument("--limit", default="", help="--rate of the replay")
    parser.add_argument("--step", type=float, default=0.0, help="seconds that the step takes for a letter")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), given.rate, given.step)
        bench.poison(given.letters)
        run = bench.start("run", "bench")
        try:
            while not bench.latencies(2.0):
                if run.poll() is not None:
                    raise SystemExit((bench.root / "log").read_text()[-2000:])
            told("alone", bench.latencies(given.seconds))
            resident = [memory(run.pid)]
            (bench.root / "mended").touch()
            began = time.perf_counter()
            limit = ["--rate", given.limit] if given.limit else []
            replay = bench.start("dlq", "replay", "bench", "--all", *limit, "--json")
            beside = bench.latencies(0, replay, lambda: resident.append(memory(run.pid)))
            took = time.perf_counter() - began
            out, _ = replay.communicate()
            told("beside a replay", beside)
            delivered = json.loads(out)["delivered"]
            print(f"replay: {delivered:,} delivered in {took:.1f} s, {delivered / took:,.0f}/s")
            tenths = ", ".join(f"{resident[(len(resident) - 1) * n // 10]:.1f}" for n in range(11))
            print(f"memory of the run, from just before the replay to its end: {tenths} MiB")
        finally:
            run.terminate()
            run.wait()


if __name__ == "__main__":
    main()
