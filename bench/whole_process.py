"""Whole processes side by side: the reference loop and `pipe run --once`, in turn, on the same million order lines.

Processor time, events a second, peak memory of the largest process, and the ratio to the reference loop run beside it; records
are counted at the sink. One-core cases are pinned to one core. Medians of `--runs` rounds. A case holds where its ratio does, its
memory stays below 100 MB, and a hundred thousand lines take the same to 5 MB. No journal is kept but in the case `journal`, which
compares the same pipeline with one and without, in turn.

    python bench/whole_process.py [--lines 1000000] [--runs 3] [--json FILE] [--only CASE]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "pipelines" / "data" / "online_retail_40k.jsonl.gz"
SMALL = 100_000
MEMORY_MB, GROWTH_MB = 100, 5
PIPE = [sys.executable, "-m", "penstock.cli.main"]


@dataclass(frozen=True, slots=True)
class Case:
    """One pipeline; `bound` is the ratio to the loop (or, for workers, to the same pipeline without) that must hold."""

    name: str
    pipeline: str
    bound: float
    workers: int = 0


CASES = (
    Case("file to file", "copy.yaml", 2.0),
    Case("validate, dedup, python", "python.yaml", 4.5),
    Case("validate, dedup, jq", "jq.yaml", 12.0),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One finished process: seconds, events at the sink, MB."""

    cpu: float
    wall: float
    events: int
    memory: float


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
        place = Path(scratch)
        large, small = _lines(place / "large.jsonl", options.lines), _lines(place / "small.jsonl", min(SMALL, options.lines))
        rounds = [_round(place, large, options.only) for _ in range(options.runs)]
        results = [_result(case, rounds, place, small, options.lines) for case in CASES if _wanted(case.name, options.only)]
        if _wanted("workers", options.only):
            results.append(_workers(place, large, options.runs))
        if _wanted("journal", options.only):
            results.append(_journal(place, large, small, options.runs))
        if _wanted("start", options.only):
            results.extend(_starts(place))
    _print(results, rounds)
    if options.json:
        options.json.write_text(json.dumps({"lines": options.lines, "runs": options.runs, "results": results}, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="part of a case's name, `workers`, `journal` or `start`")
    return parser.parse_args()


def _wanted(name: str, only: str) -> bool:
    return only in name


def _lines(target: Path, count: int) -> Path:
    """The order data, repeated until there are enough lines."""
    lines = gzip.decompress(DATA.read_bytes()).splitlines(keepends=True)
    with target.open("wb") as out:
        for start in range(0, count, len(lines)):
            out.writelines(lines[: count - start])
    return target


def _round(place: Path, source: Path, only: str) -> dict[str, Run]:
    """The loop, then each case, on the same core."""
    out = place / "out.jsonl"
    loop = [sys.executable, str(HERE / "reference_loop.py"), str(source), str(out)]
    runs = {"loop": _process(loop, out, place, {}, cores=1)}
    for case in CASES:
        if _wanted(case.name, only):
            runs[case.name] = _pipe(case.pipeline, source, place, cores=1)
    return runs


def _pipe(pipeline: str, source: Path, place: Path, *, cores: int, workers: int = 0, journal: bool = False) -> Run:
    """`pipe run --once` in a project of its own, whose state and output are new."""
    project = place / "project"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(HERE / "pipelines", project)
    out = project / "out.jsonl"
    environment = {"BENCH_INPUT": str(source), "BENCH_OUTPUT": str(out), "BENCH_WORKERS": str(workers)}
    if not journal:
        environment["PENSTOCK_JOURNAL"] = "off"
    return _process([*PIPE, "run", "--once", "--json", pipeline], out, project, environment, cores=cores)


def _process(command: list[str], out: Path, cwd: Path, environment: dict[str, str], *, cores: int) -> Run:
    started = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
    )
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    events = 0
    if out.exists():
        with out.open("rb") as written:
            events = sum(block.count(b"\n") for block in iter(lambda: written.read(1 << 20), b""))
    return Run(usage.ru_utime + usage.ru_stime, wall, events, usage.ru_maxrss * 1024 / 1e6)


def _result(case: Case, rounds: list[dict[str, Run]], place: Path, small: Path, lines: int) -> dict[str, object]:
    runs = [each[case.name] for each in rounds]
    few = _pipe(case.pipeline, small, place, cores=1)
    ratio = statistics.median(each[case.name].cpu / each["loop"].cpu for each in rounds)
    memory = max(run.memory for run in runs)
    return {
        "case": case.name,
        "microseconds": statistics.median(run.cpu for run in runs) / lines * 1e6,
        "events_per_second": lines / statistics.median(run.wall for run in runs),
        "ratio": ratio,
        "bound": case.bound,
        "memory_mb": memory,
        "memory_mb_small": few.memory,
        "events_at_sink": runs[0].events,
        "runs": [asdict(run) for run in runs],
        "holds": ratio <= case.bound and memory < MEMORY_MB and abs(memory - few.memory) <= GROWTH_MB,
    }


def _workers(place: Path, source: Path, count: int) -> dict[str, object]:
    """Two workers against none, on two cores, by the clock on the wall."""
    speedups = []
    for _ in range(count):
        none = _pipe("jq.yaml", source, place, cores=2)
        two = _pipe("jq.yaml", source, place, cores=2, workers=2)
        if none.events != two.events:
            raise SystemExit(f"two workers delivered {two.events} events, none {none.events}")
        speedups.append(none.wall / two.wall)
    speedup = statistics.median(speedups)
    return {"case": "workers: 2 against 0, jq", "ratio": speedup, "bound": 1.5, "holds": speedup >= 1.5, "runs": speedups}


def _journal(place: Path, source: Path, small: Path, count: int) -> dict[str, object]:
    """With a journal against without one, on one core: processor time, threads included, and the clock on the wall."""
    cpu, wall, runs = [], [], []
    for _ in range(count):
        without = _pipe("journal.yaml", source, place, cores=1)
        kept = _pipe("journal.yaml", source, place, cores=1, journal=True)
        if kept.events != without.events:
            raise SystemExit(f"with a journal {kept.events} events were delivered, without {without.events}")
        cpu.append(kept.cpu / without.cpu)
        wall.append(kept.wall / without.wall)
        runs += [without, kept]
    journal = place / "project/.penstock/journal/bench-journal"
    size = sum(path.stat().st_size for path in journal.iterdir())
    few = _pipe("journal.yaml", small, place, cores=1, journal=True)
    ratio, memory = statistics.median(cpu), max(run.memory for run in runs)
    return {
        "case": "journal on against off, jq",
        "ratio": ratio,
        "wall_ratio": statistics.median(wall),
        "bound": 1.15,
        "bytes_per_event": size / runs[-1].events,
        "memory_mb": memory,
        "memory_mb_small": few.memory,
        "holds": ratio <= 1.15 and memory < MEMORY_MB and abs(memory - few.memory) <= GROWTH_MB,
        "runs": [asdict(run) for run in runs],
    }


def _starts(place: Path) -> list[dict[str, object]]:
    """Fresh processes with bytecode compiled: the command's help, and lint of the example."""
    results = []
    cases = (
        ("start: pipe --help", ["--help"], 150),
        ("start: pipe lint", ["lint", str(HERE.parent / "pipelines/orders.yaml")], 600),
    )
    for name, arguments, bound in cases:
        walls = [_process([*PIPE, *arguments], place / "none", HERE.parent, {}, cores=2).wall for _ in range(6)][1:]
        milliseconds = statistics.median(walls) * 1000
        results.append({"case": name, "milliseconds": milliseconds, "bound": bound, "holds": milliseconds < bound})
    return results


def _print(results: list[dict[str, object]], rounds: list[dict[str, Run]]) -> None:
    loop = statistics.median(each["loop"].cpu for each in rounds)
    events = rounds[0]["loop"].events
    print(f"reference loop: {loop:.2f} s of processor time, {events} events at the sink; Python {sys.version.split()[0]}")
    print(f"{'case':28} {'µs/event':>9} {'events/s':>9} {'ratio':>7} {'bound':>7} {'MB':>5} {'MB at 100k':>10}  holds")
    for result in results:
        print(_row(result))


def _row(result: dict[str, object]) -> str:
    holds = "yes" if result["holds"] else "NO"
    if "milliseconds" in result:
        return f"{result['case']:28} {result['milliseconds']:>6.0f} ms {'':>9} {'':>7} {result['bound']:>4} ms {'':>16}  {holds}"
    if "wall_ratio" in result:
        memory = f"{result['memory_mb']:>5.0f} {result['memory_mb_small']:>10.0f}"
        ratios = f"{result['wall_ratio']:>9.2f} on the wall {result['ratio']:>6.2f} {result['bound']:>7}"
        return f"{result['case']:28} {ratios} {memory}  {holds}; {result['bytes_per_event']:.0f} bytes an event"
    if "microseconds" not in result:
        return f"{result['case']:28} {'':>9} {'':>9} {result['ratio']:>7.2f} {result['bound']:>7} {'':>16}  {holds}"
    return (
        f"{result['case']:28} {result['microseconds']:>9.2f} {result['events_per_second']:>9.0f} {result['ratio']:>7.2f}"
        f" {result['bound']:>7} {result['memory_mb']:>5.0f} {result['memory_mb_small']:>10.0f}  {holds}"
    )


if __name__ == "__main__":
    main()
