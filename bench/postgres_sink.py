"""The postgres sink beside psycopg's bare COPY of the same rows in the same batches, one transaction a batch, in the same run.

Rows of six columns (bigint, text, numeric, timestamptz, int, text) in batches of 1,000. The sink writes its ledger with each
batch, and with `--keys` a dedup key a row; the yardstick writes rows alone. Both begin with Python values, and take turns.
The server is PostgreSQL 18, without fsync. Bound: 0.5 of the yardstick's rows a second; with `order_by`, 0.7 of
the same without it in the same run, and 0.15 of deletions, each of which writes a tombstone.

    python bench/postgres_sink.py [--rows 100000] [--runs 3] [--batch 1000] [--keys] [--only MODE…]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from connectors.sinks.postgres import PostgresSink
from penstock.clock import SystemClock
from penstock.engine.garbage import collect_less
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Claimant, Commit, Counts, Key
from penstock.spi import Context, Position
from penstock.testing.servers import Database, PostgresServer
from transforms.expressions import compiler

BOUND = 0.5
NAMES = ("id", "customer", "total", "placed_at", "quantity", "status")
COLUMNS = "id bigint {key}, customer text, total numeric(12,2), placed_at timestamptz, quantity int, status text"
ORDERED_BOUNDS = {True: 0.7, False: 0.15}
"""Of upserts; of deletions, each of which writes a row, its tombstone."""

ORDER = {"order_by": "placed_at"}
MODES: Sequence[tuple[str, dict[str, Any], bool]] = (
    ("insert", {}, False),
    ("upsert, new rows", {"key": ["id"]}, False),
    ("upsert, rows that are there", {"key": ["id"]}, True),
    ("delete", {"key": ["id"], "delete": "true"}, True),
    ("upsert, new rows, order_by", {"key": ["id"], **ORDER}, False),
    ("upsert, rows that are there, order_by", {"key": ["id"], **ORDER}, True),
    ("upsert, new rows, order_by with tombstones", {"key": ["id"], "delete": "false", **ORDER}, False),
    ("upsert, rows that are there, order_by with tombstones", {"key": ["id"], "delete": "false", **ORDER}, True),
    ("delete, order_by with tombstones", {"key": ["id"], "delete": "true", **ORDER}, True),
)


def rows_of(count: int) -> list[tuple[Any, ...]]:
    return [(n, f"customer {n % 5000}", n * 1.25, "2026-01-01T00:00:00.123Z", n % 7, "shipped") for n in range(count)]


def batches(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def by_copy(database: Database, rows: Sequence[Any], size: int) -> float:
    """Seconds."""
    database.execute(f"DROP TABLE IF EXISTS raw; CREATE TABLE raw ({COLUMNS.format(key='PRIMARY KEY')})")
    with psycopg.connect(database.dsn, autocommit=True) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        for batch in batches(rows, size):
            with connection.transaction(), cursor.copy(f"COPY raw ({', '.join(NAMES)}) FROM STDIN".encode()) as copy:
                for row in batch:
                    copy.write_row(row)
        return time.perf_counter() - began


async def by_sink(
    database: Database, directory: Path, rows: Sequence[Any], size: int, config: dict[str, Any], again: bool, dedup: bool
) -> float:
    """Seconds.

    :param again: the rows are there.
    """
    database.execute(f"DROP TABLE IF EXISTS orders; CREATE TABLE orders ({COLUMNS.format(key='PRIMARY KEY')})")
    database.execute("DROP SCHEMA IF EXISTS penstock CASCADE")
    context = Context("bench", "sink", directory, directory, compiler(), SystemClock(), random.Random(1), Faults())
    sink = PostgresSink(PostgresSink.Config.model_validate({"dsn": database.dsn, "table": "orders", **config}), context)
    if again:
        with (
            psycopg.connect(database.dsn) as connection,
            connection.cursor() as cursor,
            cursor.copy(b"COPY orders FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)
    events = [
        Event(str(row[0]), "bench", "order", decoded=dict(zip(NAMES, row, strict=True)), position=row[0].to_bytes(8, "big"))
        for row in rows
    ]
    await sink.open(None)
    await sink.claim(Claimant(1, "bench/sink", "bench", "k", 3600.0))
    began = time.perf_counter()
    for group, batch in enumerate(batches(events, size), 1):
        keys = [Key(event.position * 2, event.position) for event in batch] if dedup else []
        await sink.write_and_commit(batch, Commit(1, group - 1, group, {"p": Position(batch[-1].position)}, Counts(group), keys))
    seconds = time.perf_counter() - began
    await sink.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--keys", action="store_true", help="a dedup key for each row, as with `dedup:`")
    parser.add_argument("--only", nargs="*", default=[], help="modes whose names begin so")
    options = parser.parse_args()
    modes = [mode for mode in MODES if not options.only or mode[0].startswith(tuple(options.only))]
    rows = rows_of(options.rows)
    rates: dict[str, list[float]] = {name: [] for name, _, _ in modes}
    ratios: dict[str, list[float]] = {name: [] for name, _, _ in modes}
    collect_less()  # as `pipe run` does
    with PostgresServer(18, durable=False) as server, tempfile.TemporaryDirectory() as directory:
        database = server.create_database("bench")
        for _ in range(options.runs):
            for name, config, again in modes:
                raw = by_copy(database, rows, options.batch)
                ours = asyncio.run(by_sink(database, Path(directory), rows, options.batch, config, again, options.keys))
                rates[name].append(len(rows) / ours)
                ratios[name].append(raw / ours)
                print(f"{name}: COPY {len(rows) / raw:,.0f} rows/s, sink {len(rows) / ours:,.0f}, {raw / ours:.2f}", flush=True)
    for name in rates:
        without = name.partition(", order_by")[0]
        if without == name:
            tell(name, statistics.median(ratios[name]), BOUND, "of COPY")
        elif without in rates:
            pairs = zip(rates[name], rates[without], strict=True)
            bound = ORDERED_BOUNDS[without.startswith("upsert")]
            tell(name, statistics.median(mine / theirs for mine, theirs in pairs), bound, "of without order_by")


def tell(name: str, ratio: float, bound: float, what: str) -> None:
    print(f"{name}: median {ratio:.2f} {what}, bound {bound}: {'holds' if ratio >= bound else 'missed'}")


if __name__ == "__main__":
    main()
