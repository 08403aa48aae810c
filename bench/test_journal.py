"""The journal: a commit of 500 events written, one event found by its id, a range read.

make bench-suite        or: python -m pytest bench/test_journal.py --benchmark-enable

`PENSTOCK_BENCH_EVENTS=10000000` makes the journal in which one event is found as large as docs/journal.md says; the default is
200,000. Lines are encoded as a run does it, one commit of 2,000 events after the other.
"""

from __future__ import annotations

import gzip
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from penstock.engine.group import Group
from penstock.engine.journalling import Journalling
from penstock.engine.work import Work
from penstock.event import Event
from penstock.faults import Faults
from penstock.journal.encoding import Lines
from penstock.journal.journal import Journal
from penstock.journal.reader import JournalReader
from penstock.journal.segments import Segments
from penstock.spi import Batch

BATCH = 500
COMMIT = 2000
EVENTS = int(os.environ.get("PENSTOCK_BENCH_EVENTS", "200000"))
BEGAN = 1_760_000_000.0
HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "pipelines" / "data" / "online_retail_40k.jsonl.gz"
FIND_MS = 500
MEMORY_MB = 60


@pytest.fixture(scope="module")
def texts() -> list[bytes]:
    with gzip.open(DATA) as data:
        return [line.rstrip(b"\n") for line in data]


@pytest.fixture(scope="module")
def make_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[bytes]) -> Callable[[int, int], Lines]:
    """The lines of a commit, from event number `first` on, as a run makes them."""
    journal = Journal(tmp_path_factory.mktemp("unused"), Faults())
    journalling = Journalling(journal, "bench", "0123456789abcdef", "digest")

    def make(first: int, count: int) -> Lines:
        events = [
            Event(
                f"0-{n}",
                "file:orders",
                "orders.record",
                raw=texts[n % len(texts)],
                position=n.to_bytes(12, "big"),
                origin=n - first,
            )
            for n in range(first, first + count)
        ]
        work = Work(Batch("orders.jsonl", events, None, None, 0), 0.0, BEGAN + first // COMMIT)
        work.events, work.outputs, work.sink_ledgers = events, events, ["state"]
        return journalling._lines(Group.of([work]))

    return make


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, make_lines: Callable[[int, int], Lines]) -> Iterator[Path]:
    """A journal of `EVENTS`, one second a commit."""
    directory = tmp_path_factory.mktemp("large")
    segments = Segments(directory, Faults())
    segments.open(None)
    for first in range(0, EVENTS, COMMIT):
        segments.append(make_lines(first, min(COMMIT, EVENTS - first)))
        segments.commit()
    segments.close()
    yield directory
    for path in directory.iterdir():
        path.unlink()


def test_the_lines_of_a_batch_are_made(benchmark: BenchmarkFixture, make_lines: Callable[[int, int], Lines]) -> None:
    numbers = iter(range(0, 10_000_000, BATCH))
    lines = benchmark.pedantic(lambda: make_lines(next(numbers), BATCH), rounds=100)
    assert len(lines.texts) == BATCH


def test_a_batch_is_appended_and_committed(
    benchmark: BenchmarkFixture, tmp_path: Path, make_lines: Callable[[int, int], Lines]
) -> None:
    segments = Segments(tmp_path, Faults())
    segments.open(None)
    numbers = iter(range(0, 10_000_000, BATCH))

    def setup() -> Any:
        return (make_lines(next(numbers), BATCH),), {}

    def append(lines: Lines) -> None:
        segments.append(lines)
        segments.commit()

    benchmark.pedantic(append, setup=setup, rounds=100)
    assert JournalReader(tmp_path).extent().lines >= 100 * BATCH


def test_one_event_is_found_by_its_id(benchmark: BenchmarkFixture, large: Path) -> None:
    """The bound holds for ten million events, and so for fewer."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wanted = EVENTS * 2 // 3
    [record] = benchmark.pedantic(lambda: list(JournalReader(large).find(f"0-{wanted}")), rounds=5)
    assert int(record.line.position, 16) == wanted
    assert list(JournalReader(large).find("not-there")) == []
    if benchmark.stats is not None:
        assert benchmark.stats["median"] * 1000 < FIND_MS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEMORY_MB


def test_a_range_of_a_minute_is_read(benchmark: BenchmarkFixture, large: Path) -> None:
    start = BEGAN + EVENTS // COMMIT // 2

    def read() -> int:
        return sum(1 for _ in JournalReader(large).range(start, start + 60))

    expected = min(60, EVENTS // COMMIT - EVENTS // COMMIT // 2) * COMMIT
    assert benchmark.pedantic(read, rounds=3) == expected
