"""The source itself, read again by event time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.clock import rfc3339
from penstock.engine.assemble import Surroundings
from penstock.engine.native import Chunk, NativeRange, native_range, no_native, reads_ranges
from penstock.faults import Faults
from penstock.testing.clock import FakeClock

BEGAN = 1_772_323_200.0
PIPELINE = """\
pipeline: p
source: {{{source}}}
sink: {{drop: {{}}}}
"""

pytestmark = pytest.mark.usefixtures("here")


def native(project: Path, source: str = "file: in/*.jsonl, event: {type: order, time: .at}") -> NativeRange:
    project.joinpath("p.yaml").write_text(PIPELINE.format(source=source))
    found = native_range(penstock.load(project / "p.yaml"), Surroundings(FakeClock(), random.Random(1), Faults()))
    assert found is not None
    return found


def write(project: Path, name: str, *lines: str) -> None:
    (project / "in").mkdir(exist_ok=True)
    (project / "in" / name).write_text("".join(f"{line}\n" for line in lines))


def record(n: int) -> str:
    """Number n, which happened n minutes after `BEGAN`."""
    return f'{{"n": {n}, "at": "{rfc3339(BEGAN + 60 * n)}"}}'


async def read(range_: NativeRange, start: float = 0, end: float = 10_000, **known: Any) -> list[Chunk]:
    return [chunk async for chunk in range_.read(BEGAN + 60 * start, BEGAN + 60 * end, known)]


def numbers(chunks: list[Chunk]) -> list[int]:
    return [event.data["n"] for chunk in chunks for event in chunk.filled]


async def test_events_are_chosen_by_the_time_that_event_gives_them(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", record(5), record(1))
    write(tmp_path, "a.jsonl", record(9), record(3), record(4))
    chunks = await read(native(tmp_path), 3, 9)
    assert [(chunk.partition, chunk.read, [event.id for event in chunk.received]) for chunk in chunks] == [
        ("in/a.jsonl", 3, ["0-43", "0-86"]),
        ("in/b.jsonl", 2, ["0-0"]),
    ]
    assert numbers(chunks) == [3, 4, 5]
    first = chunks[0]
    assert (first.received[0].type, first.received[0].time) == ("a.record", None)
    assert (first.filled[0].type, first.filled[0].time, first.unplaced) == ("order", "2026-03-01T00:03:00.000Z", [])


async def test_what_has_no_time_or_is_no_event_is_given_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", record(1), '{"n": 2}', '{"n": 3', '{"n": 4, "at": [1]}', '"' + 2000 * "x" + '"', record(6))
    chunks = await read(native(tmp_path, "file: {paths: in/*.jsonl, max_record: 1KiB}, event: {time: .at?}"))
    unplaced = [each for chunk in chunks for each in chunk.unplaced]
    said = {(each.received.id, each.step, each.error.code if each.error else None, each.filled is None) for each in unplaced}
    assert numbers(chunks) == [1, 6]
    assert said == {
        ("0-43", "", None, False),
        ("0-52", "decode", "decode.invalid_json", True),
        ("0-60", "event", "event.invalid_attribute", True),
        ("0-80", "source", "source.record_too_long", True),
    }


async def test_nothing_has_a_time_where_event_says_none(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", record(1))
    (chunk,) = await read(native(tmp_path, "file: in/*.jsonl"))
    assert (chunk.received, [each.filled is not None for each in chunk.unplaced]) == ([], [True])


async def test_how_far_it_is_can_be_told(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", *map(record, range(100)))
    reading, size = native(tmp_path), (tmp_path / "in/a.jsonl").stat().st_size
    await read(reading)
    assert reading.progress() == (size, size)


@pytest.mark.parametrize("kind", ["stdin", "generate", "postgres_cdc"])
def test_sources_that_keep_nothing_have_no_range(tmp_path: Path, kind: str) -> None:
    assert not reads_ranges(kind)
    assert reads_ranges("file")
    assert "file and postgres keep" in (no_native(kind).why or "")


def test_a_pipeline_of_such_a_source_has_none(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PIPELINE.format(source="stdin: {}"))
    assert native_range(penstock.load(tmp_path / "p.yaml"), Surroundings(FakeClock(), random.Random(1), Faults())) is None
