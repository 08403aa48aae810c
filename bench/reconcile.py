"""A million events reconciled: `pipe verify` over file → two jq steps → sqlite and file, the whole process.

A run delivers and journals them first. Then the command is timed by the clock on the wall and by the processor time that it took,
for the machine may be shared; its memory is looked at all the while. With --gap a row and a line are taken away by hand: exactly
these must be named. Bound: 200 MB.

    python bench/reconcile.py [--events 1000000] [--gap] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PIPE = [sys.executable, "-m", "penstock.cli.main"]
MEMORY_MB = 200.0
PIPELINE = """\
pipeline: big
source:
  file: { paths: [in.jsonl] }
  event: { type: order, time: .at }
transforms:
  - { name: priced, jq: '{id: .n, who: .who, price: .price}' }
  - { name: total, jq: '. + {total: (.price * 2)}' }
sinks:
  - { name: table, sqlite: { path: out/big.db, table: t, key: [id], create: true } }
  - { name: lines, file: { path: out/big.jsonl } }
"""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        project = Path(directory)
        (project / "big.yaml").write_text(PIPELINE)
        _write(project / "in.jsonl", options.events)
        subprocess.run([*PIPE, "run", "--once", "--json", "big.yaml"], cwd=project, check=True, stdout=subprocess.DEVNULL)
        if options.gap:
            _plant(project, options.events)
        result = _measure(project)
    expected = 2 if options.gap else 0
    if (result.pop("gaps"), result["events"]) != (expected, options.events):
        raise SystemExit(f"it found something else than it should: {result}")
    pace = f"{result['events']:,} events in {result['seconds']:.1f} s, {result['processor_seconds']:.1f} s of a processor"
    print(f"{pace}, {result['memory_mb']:.0f} MB: {'holds' if result['memory_mb'] < MEMORY_MB else 'DOES NOT HOLD'}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    sys.exit(0 if result["memory_mb"] < MEMORY_MB else 1)


def _write(target: Path, count: int) -> None:
    with target.open("w") as file:
        for n in range(count):
            day, rest = divmod(n, 86400)
            at = f"2026-03-{1 + day % 28:02}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}Z"
            file.write(f'{{"n": {n}, "who": "w{n % 7}", "price": {n % 100}.5, "at": "{at}"}}\n')


def _plant(project: Path, count: int) -> None:
    with sqlite3.connect(project / "out/big.db") as database:
        database.execute("DELETE FROM t WHERE id = ?", (count // 3,))
    path = project / "out/big.jsonl"
    with (
        path.open("rb") as lines,
        (project / "cut.jsonl").open("wb") as kept,
    ):  # memory of this process would count as the command's
        kept.writelines(line for number, line in enumerate(lines) if number != count // 2)
    (project / "cut.jsonl").replace(path)


def _measure(project: Path) -> dict[str, Any]:
    """Of the command."""
    started = time.perf_counter()
    command = [*PIPE, "verify", "big.yaml", "--from", "2026-01-01", "--to", "2027-01-01", "--json"]
    with (project / "report.json").open("wb") as out:
        child = subprocess.Popen(command, cwd=project, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 4):
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    report = json.loads((project / "report.json").read_bytes())
    return {
        "events": report["journal"]["events"],
        "gaps": report["gaps"],
        "seconds": time.perf_counter() - started,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "memory_mb": usage.ru_maxrss * 1024 / 1e6,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--gap", action="store_true", help="plant two gaps")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
