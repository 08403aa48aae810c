"""Changes waiting in a slot, to a sink that drops them, beside `pg_recvlogical` writing the same ones to /dev/null.

600,000 order rows of six columns: 500,000 in one transaction, 100,000 alone, in batches of one client. Each round reads them from
slots that were made before: by `pg_recvlogical` in whole transactions (protocol version 1), and by a pipeline in whole ones
(`streaming: off`) and in streamed ones (`on`, version 2), which it keeps until their commit. The server is PostgreSQL 18. The
bound is a ratio of 0.6 in rows a second; give the machine to it alone.

    python bench/cdc.py [--rows 600000] [--runs 3] [--profile FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from penstock.engine.embed import load, run
from penstock.engine.garbage import collect_less
from penstock.testing.servers import Database, PostgresServer

BOUND = 0.6
TABLE = """
CREATE TABLE orders (id bigint PRIMARY KEY, customer text, total numeric(12,2), placed_at timestamptz, quantity int, status text);
CREATE PUBLICATION bench FOR TABLE orders;
"""
ROWS = """
INSERT INTO orders SELECT n, 'customer ' || n % 5000, n * 1.25, '2026-01-01'::timestamptz + n * interval '1 s', n % 7, 'shipped'
FROM generate_series({first}, {last}) AS n
"""
SINGLE = "DO $$ BEGIN FOR n IN {first}..{last} LOOP {row}; COMMIT; END LOOP; END $$"
PIPELINE = """
pipeline: bench
source:
  postgres_cdc:
    dsn: {dsn}
    tables: [public.orders]
    publication: {{ name: bench, create: never }}
    slot: {{ name: {slot}, create: never }}
    snapshot: {{ mode: never }}
    streaming: {streaming}
sink: drop
journal: off
"""


def fill(database: Database, rows: int) -> None:
    """Five sixths of the rows in one transaction, the others each in its own."""
    large = rows * 5 // 6
    database.execute(ROWS.format(first=1, last=large))
    row = (
        "INSERT INTO orders VALUES (n, 'customer ' || n % 5000, n * 1.25, "
        "'2026-01-01'::timestamptz + n * interval '1 s', n % 7, 'shipped')"
    )
    database.execute(SINGLE.format(first=large + 1, last=rows, row=row))


def by_pg_recvlogical(database: Database, slot: str, end: str) -> float:
    """Seconds until everything up to `end` was written."""
    command = [database.server.program("pg_recvlogical"), "-d", database.dsn, "-S", slot, "--start", "-f", "/dev/null"]
    options = ["-o", "proto_version=1", "-o", "publication_names=bench", "-E", end, "--no-loop"]
    began = time.perf_counter()
    subprocess.run([*command, *options], check=True, capture_output=True)
    return time.perf_counter() - began


def by_penstock(database: Database, slot: str, streaming: str, rows: int, profile: str | None) -> float:
    """Seconds of a whole run, from its start to its end."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "bench.yaml"
        file.write_text(PIPELINE.format(dsn=database.dsn, slot=slot, streaming=streaming))
        pipeline = load(file, overrides=[f"state=sqlite:{directory}/state"])
        began = time.perf_counter()
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        summary = asyncio.run(run(pipeline, once=True))
        if profile:
            profiler.disable()
            profiler.dump_stats(profile)
        assert summary.counts.delivered == rows, summary
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--profile", help="where cProfile's figures of the last run go, which is slower for it")
    options = parser.parse_args()
    collect_less()  # as `pipe run` does
    with PostgresServer(18, durable=False) as server:
        database = server.create_database("bench")
        database.execute(TABLE)
        slots = [(f"raw_{n}", {"off": f"whole_{n}", "on": f"streamed_{n}"}) for n in range(options.runs)]
        for raw, ours in slots:
            for slot in (raw, *ours.values()):
                database.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        fill(database, options.rows)
        ((end,),) = database.execute("SELECT pg_current_wal_flush_lsn()::text")
        ratios: dict[str, list[float]] = {"off": [], "on": []}
        for raw, ours in slots:
            theirs = by_pg_recvlogical(database, raw, end)
            print(f"pg_recvlogical {options.rows / theirs:,.0f} rows/s")
            for streaming, slot in ours.items():
                mine = by_penstock(database, slot, streaming, options.rows, options.profile)
                ratios[streaming].append(theirs / mine)
                print(f"  penstock, streaming {streaming}: {options.rows / mine:,.0f}, {theirs / mine:.2f}")
    for streaming, found in ratios.items():
        ratio = statistics.median(found)
        print(f"streaming {streaming}: median ratio {ratio:.2f}, bound {BOUND}: {'holds' if ratio >= BOUND else 'missed'}")


if __name__ == "__main__":
    main()
