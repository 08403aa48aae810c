"""A million dead letters: what `pipe dlq ls`, `groups` and `stats` take, as whole commands, and how much memory; then the replay.

    python bench/dead_letters.py [--letters 1000000] [--dsn postgresql://… | --server] [--rounds 5] [--replay] [--sink file]

The letters go into a store of their own: 30 days, nine causes, five types, one in ten settled. In SQLite each is written as an
import writes it; in PostgreSQL one statement makes twenty thousand. What else a person asks often is timed below the three. The
replay is that of all letters without a live run (`replay_beside.py` has the other): how many a second, what each uses of a core,
and the resident set as `/proc` has it, from the first tenth of the time to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from penstock.clock import SystemClock
from penstock.config.secret import Secret
from penstock.faults import Faults
from penstock.state import letter_tables
from penstock.state.dialect import Connection
from penstock.state.open import open_store
from penstock.state.records import DeadLetter, Status
from penstock.testing.servers import PostgresServer

PIPELINE = """\
pipeline: bench
source: { generate: { count: 0 } }
"""
SINKS = {"drop": "sink: drop\n", "file": "sink: { file: { path: out.jsonl } }\n"}
DAYS = 30
END = 1_790_000_000.0
"""Seconds since 1970 of the youngest letter."""
BATCH = 20_000
LIMIT = 0.3
"""Seconds that each of the first three may take."""
COMMANDS = (
    ("ls", "bench"),
    ("groups", "bench"),
    ("stats", "bench"),
    ("ls", "bench", "--code", "sink.refused"),
    ("ls", "bench", "--type", "order.rare", "--limit", "1000"),
    ("groups", "bench", "--status", "any"),
    ("groups", "bench", "--since", "2026-09-20"),
    ("stats", "bench", "--status", "any"),
    ("show", "00000000000000ff"),
)


def letters(count: int) -> Iterator[DeadLetter]:
    """The same ones each time."""
    for n in range(count):
        cause = n * 7919 % 100
        rank = 0 if cause < 60 else 1 if cause < 85 else 2 + cause % 7
        kind = "order.rare" if n % 50_000 == 7 else f"order.{n % 4}"
        status: Status = "resolved" if n % 10 == 3 else "open"
        at = END - DAYS * 86_400 * (1 - n / count)
        data = b'{"specversion":"1.0","id":"%d","source":"bench","type":"%s"' % (n, kind.encode())
        record = data + b',"data":{"order":%d,"total":"%d.50","customer":"customer-%d"}}' % (n, n % 900, n % 5000)
        yield DeadLetter(
            id=f"{n:016x}", pipeline="bench", version="v1", step=f"step-{rank % 3}", partition="p", source="bench",
            code=("validate.failed", "sink.refused", "jq.error")[rank % 3], message=f"the order {n} has no price",
            fingerprint=f"1{rank:016x}", position=n.to_bytes(8, "big"), event_id=str(n), type=kind, time=None, record=record,
            event=data + b"}", original=record, original_length=len(record), original_digest="0" * 32, reread=False,
            owed=("state",), key=n.to_bytes(16, "big"), brought_by=n.to_bytes(8, "big"), data_digest=b"0" * 8, first_at=at,
            last_at=at, status=status,
        )  # fmt: skip


async def fill(directory: Path, dsn: str | None, count: int) -> float:
    """Make the store; seconds that took."""
    store = open_store(directory / ".penstock", "bench", SystemClock(), Faults(), Secret(dsn) if dsn else None)
    await store.open()
    begun, made = time.perf_counter(), letters(count)
    try:
        for first in range(0, count, BATCH):
            if dsn:
                values = {"first": first, "last": min(first + BATCH, count) - 1, "count": count}
                await _write(store, partial(_generate, values=values))
            else:
                await _write(store, partial(letter_tables.take_in, letters=list(islice(made, BATCH))))
    finally:
        await store.close()
    return time.perf_counter() - begun


async def _write(store: Any, work: Callable[[Connection], None]) -> None:
    await store._database.write(work)  # no verb writes so many at once


def _generate(db: Connection, values: dict[str, int]) -> None:
    """The same letters, made by the server."""
    rank = "(CASE WHEN c < 60 THEN 0 WHEN c < 85 THEN 1 ELSE 2 + c % 7 END)"
    head = """'{"specversion":"1.0","id":"' || n || '","source":"bench","type":"' || t || '"'"""
    data = """',"data":{"order":' || n || ',"total":"' || n % 900 || '.50","customer":"customer-' || n % 5000 || '"}}'"""
    at = f"CAST({END} - {DAYS * 86400} * (1 - CAST(n AS REAL) / :count) AS DOUBLE PRECISION)"
    db.execute(
        f"""WITH g AS (SELECT n, n * 7919 % 100 AS c, CASE WHEN n % 50000 = 7 THEN 'order.rare' ELSE 'order.' || n % 4 END AS t
                       FROM generate_series(CAST(:first AS BIGINT), CAST(:last AS BIGINT)) AS n),
            k AS (INSERT INTO letters (id, version, step, code, message, violations, fingerprint, "partition", position,
                    source, event_id, type, event, original_length, original_digest, reread, owed, delivered, key,
                    brought_by, data_digest, attempts, repeats, first_at, last_at, status)
                SELECT lpad(to_hex(n), 16, '0'), 'v1', 'step-' || {rank} % 3,
                    (ARRAY['validate.failed', 'sink.refused', 'jq.error'])[{rank} % 3 + 1],
                    'the order ' || n || ' has no price', '[]', '1' || lpad(to_hex({rank}), 16, '0'), 'p', int8send(n),
                    'bench', n, t, convert_to({head} || '}}', 'UTF8'), 150, '0', 0, '["state"]', '[]',
                    int8send(0) || int8send(n), int8send(n), int8send(0), 1, 0, {at}, {at},
                    CASE WHEN n % 10 = 3 THEN 'resolved' ELSE 'open' END FROM g RETURNING seq, event_id)
            INSERT INTO bodies (letter, record, original)
                SELECT k.seq, convert_to({head} || {data}, 'UTF8'), convert_to({head} || {data}, 'UTF8')
                FROM k JOIN g ON g.n = CAST(k.event_id AS BIGINT)""",
        values,
    )


def timed(directory: Path, command: tuple[str, ...], rounds: int) -> tuple[float, float, int]:
    """Median of the whole command, and of what it used of a core, in seconds; the most memory in KiB."""
    took, used, memory = [], [], 0
    for _ in range(rounds):
        begun = time.perf_counter()
        with _begun(directory, command) as child:
            usage = _ended(child, command)
        took.append(time.perf_counter() - begun)
        used.append(usage.ru_utime + usage.ru_stime)
        memory = max(memory, usage.ru_maxrss)
    return statistics.median(took), statistics.median(used), memory


def _begun(directory: Path, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    argv = [sys.executable, "-m", "penstock.cli.main", "dlq", *command]
    return subprocess.Popen(argv, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _ended(child: subprocess.Popen[bytes], command: tuple[str, ...]) -> resource.struct_rusage:
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"pipe dlq {' '.join(command)} ended with {child.returncode}")
    return usage


def replayed(directory: Path, count: int) -> None:
    """All that are open, by the command itself; how fast, and how much memory over the time."""
    command, begun, resident = ("replay", "bench", "--all"), time.perf_counter(), []
    with _begun(directory, command) as child:
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            resident.append(_resident(child.pid))
            time.sleep(0.2)
        usage = _ended(child, command)
    took, used = time.perf_counter() - begun, usage.ru_utime + usage.ru_stime
    print(f"{count:,} letters replayed in {took:.1f} s: {count / took:,.0f}/s, {used / count * 1e6:.0f} µs of a core each")
    tenths = [resident[len(resident) * n // 10] for n in range(1, 10)] + resident[-2:-1]
    print(f"resident: {', '.join(f'{mib:.1f}' for mib in tenths)} MiB; at most {usage.ru_maxrss / 1024:.1f}")


def _resident(pid: int) -> float:
    """MiB; 0 where the process has just ended."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields.get("VmRSS", "0 kB").split()[0]) / 1024


def _filled(directory: Path, dsn: str | None, count: int) -> tuple[float, int]:
    return asyncio.run(fill(directory, dsn, count)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--letters", type=int, default=1_000_000)
    parser.add_argument("--dsn", help="a PostgreSQL database instead of SQLite")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", action="store_true", help="a PostgreSQL of its own, the one that the tests use")
    parser.add_argument("--keep", type=Path, help="make the store here, or use the one that is here")
    parser.add_argument("--replay", action="store_true", help="in the end replay all of them: of a kept store none is open then")
    parser.add_argument("--sink", choices=SINKS, default="drop", help="for the replay")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.server:
            options.dsn = stack.enter_context(PostgresServer()).create_database("letters").dsn
        if not (directory / "pipelines").exists():
            _make(directory, options.dsn, options.letters)
        state = f"state: {options.dsn}\n" if options.dsn else ""
        (directory / "pipelines/bench.yaml").write_text(PIPELINE + SINKS[options.sink] + state)
        late = _looked(directory, options.rounds)
        if options.replay:
            replayed(directory, sum(one.status == "open" for one in letters(options.letters)))
    raise SystemExit(late)


def _make(directory: Path, dsn: str | None, count: int) -> None:
    (directory / "pipelines").mkdir(parents=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # the memory of this process counts for its children
        seconds, own = pool.submit(_filled, directory, dsn, count).result()
    print(f"{count:,} letters written in {seconds:.1f} s, with {own / 1024:.0f} MiB at most")


def _looked(directory: Path, rounds: int) -> bool:
    """Whether one of the first three is late."""
    late = False
    for number, command in enumerate(COMMANDS if rounds else ()):
        median, cpu, memory = timed(directory, command, rounds)
        told = f"{median * 1000:6.0f} ms, {cpu * 1000:.0f} ms of a core, {memory / 1024:.1f} MiB"
        print(f"{told}  pipe dlq {' '.join(command)}", flush=True)
        late |= number < 3 and median > LIMIT
    return late


if __name__ == "__main__":
    main()
