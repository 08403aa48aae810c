"""The pieces of the hot path, each over one batch of 500 order lines: divide by 500 for an event.

make bench-suite        or: python -m pytest bench --benchmark-enable
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from penstock.builtins import load, room
from penstock.clock import SystemClock
from penstock.config.model import EventFields
from penstock.engine.prepare import Preparer
from penstock.engine.tally import Tally
from penstock.event import UNSET, Event
from penstock.faults import Faults
from penstock.ledger import Claimant, Commit, Counts, Key
from penstock.spi import Batch, Context, Resume
from penstock.state.open import open_store
from penstock.state.pipeline_records import Note, Version

BATCH = 500
HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "pipelines" / "data" / "online_retail_40k.jsonl.gz"
PROJECTION = (
    "{invoice: (.InvoiceNo | tostring), sku: (.StockCode | tostring), quantity: .Quantity, price: .UnitPrice, "
    "total: (.Quantity * .UnitPrice), country: .Country}"
)


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    with gzip.open(DATA) as data:
        return [next(data).rstrip(b"\n") for _ in range(BATCH)]


@pytest.fixture
def fresh(lines: list[bytes]) -> Callable[[], tuple[tuple[list[Event]], dict[str, Any]]]:
    """A new batch for each round: nothing of it is decoded."""

    def setup() -> tuple[tuple[list[Event]], dict[str, Any]]:
        events = [
            Event(f"0-{n}", "file:orders", "orders.record", raw=line, position=n.to_bytes(12, "big"), origin=n)
            for n, line in enumerate(lines)
        ]
        return (events,), {}

    return setup


@pytest.fixture
def decoded(fresh: Callable[[], Any]) -> Callable[[], Any]:
    """A new batch for each round, decoded, as the steps get it."""

    def setup() -> Any:
        (events,), keywords = fresh()
        for event in events:
            assert event.data
        return (events,), keywords

    return setup


@pytest.fixture
def context() -> Context:
    bench = HERE / "pipelines"
    return Context("bench", "step", bench, bench, room("expressions")(), SystemClock(), random.Random(1), Faults())


def _rounds(benchmark: BenchmarkFixture, setup: Callable[[], Any], call: Callable[..., Any]) -> Any:
    return benchmark.pedantic(call, setup=setup, rounds=100)


def test_prepare_decodes_a_batch(benchmark: BenchmarkFixture, fresh: Callable[[], Any], context: Context) -> None:
    preparer = Preparer.compile(EventFields(), context.expressions)
    ready = _rounds(benchmark, fresh, lambda events: preparer.prepare(events, Tally(), {}))
    assert len(ready) == BATCH


def test_prepare_fills_attributes_from_plain_paths(
    benchmark: BenchmarkFixture, fresh: Callable[[], Any], context: Context
) -> None:
    fields = EventFields(subject=".StockCode", time=".InvoiceDate", type="order.line")
    preparer = Preparer.compile(fields, context.expressions)
    ready = _rounds(benchmark, fresh, lambda events: preparer.prepare(events, Tally(), {}))
    assert ready[0].type == "order.line"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("validate", {"schema": "bench.order_line@1"}),
        ("jq", {"program": PROJECTION}),
        ("python", {"call": "bench_steps:project"}),
        ("filter", {"condition": ".Quantity > 0"}),
    ],
)
def test_a_step(
    benchmark: BenchmarkFixture, decoded: Callable[[], Any], context: Context, kind: str, options: dict[str, Any]
) -> None:
    cls = load(f"transforms.{kind}:{kind.capitalize()}")
    step = cls(cls.Config.model_validate_json(json.dumps(options)), context)
    results = _rounds(benchmark, decoded, step.apply)
    assert len(results) == BATCH


def test_encoding_what_a_step_made(benchmark: BenchmarkFixture, decoded: Callable[[], Any]) -> None:
    def setup() -> Any:
        (events,), keywords = decoded()
        return ([event.replace(decoded=event.data) for event in events],), keywords

    texts = _rounds(benchmark, setup, lambda events: [event.json() for event in events])
    assert len(texts) == BATCH


def test_the_file_source_reads_the_order_data(benchmark: BenchmarkFixture, tmp_path: Path, context: Context) -> None:
    (tmp_path / "orders.jsonl").write_bytes(gzip.decompress(DATA.read_bytes()))
    cls = load("connectors.sources.file:FileSource")

    async def read() -> int:
        source = cls(cls.Config(paths=(str(tmp_path / "orders.jsonl"),)), context)
        await source.open(Resume(1, {}, once=True))
        count = 0
        async for batch in source.batches():
            assert isinstance(batch, Batch)
            count += len(batch.events)
        await source.close()
        return count

    assert benchmark.pedantic(lambda: asyncio.run(read()), rounds=5) == 40_000


@pytest.mark.parametrize("ordered", [True, False], ids=["keys in order", "keys at random"])
def test_the_state_store_commits_a_group_with_keys(benchmark: BenchmarkFixture, tmp_path: Path, ordered: bool) -> None:
    rng = random.Random(7)
    with asyncio.Runner() as runner:
        store = open_store(tmp_path, "bench", SystemClock(), Faults())
        runner.run(store.open())
        epoch = runner.run(store.issue_epoch(Version("v", "{}", {}, {}, 0.0)))
        runner.run(store.claim(Claimant(epoch, "bench/state", "bench", "space", 86400.0)))
        groups = iter(range(1, 1_000_000))

        def setup() -> Any:
            group = next(groups)
            first = group * BATCH
            numbers = range(first, first + BATCH) if ordered else [rng.getrandbits(120) for _ in range(BATCH)]
            keys = [Key(number.to_bytes(16, "big"), b"12345678") for number in numbers]
            note = Note(group=group, ledgers={"state": "i"})
            return (Commit(epoch, group - 1, group, {}, Counts(), keys, float(group)), [], note), {}

        benchmark.pedantic(lambda *group: runner.run(store.commit_group(*group)), setup=setup, rounds=50)
        assert runner.run(store.committed())[1] >= 50
        runner.run(store.close())


def test_an_event_is_made(benchmark: BenchmarkFixture, lines: list[bytes]) -> None:
    made = benchmark(lambda: [Event("0-1", "file:orders", "orders.record", raw=line) for line in lines])
    assert made[0].decoded is UNSET
