"""A million past events through five steps: `pipe backfill`, whole processes, dry run and shadow, on all cores that there are.

A run journals the order lines first. Then each mode is timed by the clock on the wall, events are counted in its report, and the
memory of the command and its workers together is looked at all the while. Bound: a dry run of a million events within 45 s on two
cores, below 200 MB for each process.

With --source native the events are read from the file itself, and each is looked up in the journal first. Bound: 90 s of
processor time for a dry run of a million, its copy included, and as much memory.

    python bench/past_events.py [--lines 1000000] [--source journal|native] [--json FILE]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "pipelines" / "data" / "online_retail_40k.jsonl.gz"
PIPE = [sys.executable, "-m", "penstock.cli.main"]
SECONDS, MEMORY_MB = 45.0, 200.0
NATIVE_PROCESSOR_SECONDS = 90.0
RANGE = ["--from", "2000-01-01", "--to", "2100-01-01"]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        project = Path(directory) / "project"
        shutil.copytree(HERE / "pipelines", project)
        _write(project / "in.jsonl", options.lines)
        if options.source == "native":
            _give_times(project / "backfill.yaml")
        environment = {**os.environ, "BENCH_INPUT": str(project / "in.jsonl")}
        _finish([*PIPE, "run", "--once", "--json", "backfill.yaml"], project, environment)
        results = [_result(mode, options.source, project, environment, options.lines) for mode in ("dry_run", "shadow")]
    for result in results:
        pace = f"{result['events']:,} events in {result['seconds']:.1f} s ({result['processor_seconds']:.1f} s of processors)"
        verdict = "holds" if result["holds"] else "DOES NOT HOLD"
        print(f"{result['mode']:>8}: {pace}, {result['memory_mb']:.0f} MB the largest process: {verdict}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    sys.exit(0 if all(result["holds"] for result in results) else 1)


def _result(mode: str, source: str, project: Path, environment: dict[str, str], lines: int) -> dict[str, Any]:
    before = _processor_seconds()
    command = [*PIPE, "backfill", "backfill.yaml", *RANGE, "--mode", mode, "--source", source, "--json"]
    report, seconds, memory = _finish(command, project, environment)
    processor_seconds = _processor_seconds() - before
    spent, bound = (processor_seconds, NATIVE_PROCESSOR_SECONDS) if source == "native" else (seconds, SECONDS)
    if report["read"] != lines or report.get("verdict", "clean") != "clean":
        raise SystemExit(f"{mode} looked at {report['read']} of {lines} events: {report.get('verdict')}")
    return {
        "mode": mode,
        "source": source,
        "events": report["read"],
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "events_per_second": report["read"] / seconds,
        "memory_mb": memory,
        "holds": spent <= bound * lines / 1_000_000 and memory < MEMORY_MB,
    }


def _processor_seconds() -> float:
    """Of all processes that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _give_times(pipeline: Path) -> None:
    """Events happened when their order did: by that they are chosen."""
    text = pipeline.read_text()
    source = 'source: { file: "${BENCH_INPUT}"'
    assert source in text
    pipeline.write_text(text.replace(source, f"{source}, event: {{ time: .InvoiceDate }}"))


def _write(target: Path, count: int) -> None:
    """The order data, repeated until there are enough lines."""
    lines = gzip.decompress(DATA.read_bytes()).splitlines(keepends=True)
    with target.open("wb") as out:
        for start in range(0, count, len(lines)):
            out.writelines(lines[: count - start])


def _finish(command: list[str], project: Path, environment: dict[str, str]) -> tuple[dict[str, Any], float, float]:
    """What it printed; seconds; megabytes of the largest of its processes."""
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE)
    assert child.stdout is not None
    text, largest = b"", 0.0
    os.set_blocking(child.stdout.fileno(), False)
    while child.poll() is None:
        largest = max([largest, *map(_resident, _family(child.pid))])
        text += child.stdout.read() or b""
        time.sleep(0.1)
    seconds = time.perf_counter() - started
    text += child.stdout.read() or b""
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return json.loads(text), seconds, largest


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in _family(int(child)))]


def _resident(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0")
    return int(found.split()[1]) * 1024 / 1e6


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--source", choices=("journal", "native"), default="journal")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
