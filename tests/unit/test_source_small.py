"""The stdin and generate sources: ids, times, rates, what `data` may make."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.sources.file import FileConfig
from connectors.sources.generate import GenerateConfig, GenerateSource
from connectors.sources.stdin import StdinConfig, StdinSource
from penstock.errors import ComponentError, Permanent, UsageError
from penstock.event import Event
from penstock.spi import FieldsProgram, Position, Program, Resume, View
from penstock.testing.clock import FakeClock
from penstock.testing.contracts import events_of, make_context, read_all


class Outputs:
    """Stands for a jq compiler: record n makes n copies of itself, and record 3 fails."""

    def program(self, text: str, view: View) -> Program:
        def run(events: Sequence[Event], /) -> list[list[Any] | ComponentError]:
            return [Permanent("jq.failed", text) if e.data["n"] == 3 else [dict(e.data)] * e.data["n"] for e in events]

        return run

    def fields(self, fields: Mapping[str, str], view: View) -> FieldsProgram:
        raise UsageError("testing.unused", "no fields here")


async def test_stdin_ids_count_records_within_the_epoch(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b'{"n":1}\n\n{"n":2}')
    os.close(writer)
    batches = await read_all(StdinSource(StdinConfig(), make_context(tmp_path), descriptor=reader), epoch=7)
    os.close(reader)
    assert [(e.source, e.id, e.type, e.raw) for e in events_of(batches)] == [
        ("stdin", "7-1", "stdin.record", b'{"n":1}'),
        ("stdin", "7-2", "stdin.record", b""),
        ("stdin", "7-3", "stdin.record", b'{"n":2}'),
    ]


async def test_stdin_that_waits_for_a_pipe_can_be_cancelled(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    source = StdinSource(StdinConfig(), make_context(tmp_path), descriptor=reader)
    await source.open(Resume(1, {}))
    batches = source.batches()
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    os.write(writer, b"1\n")
    assert [e.raw for e in (await waiting).events] == [b"1"]
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await source.close()
    os.close(reader)
    os.close(writer)


async def test_generated_events_count_from_zero_with_times_a_step_apart(tmp_path: Path) -> None:
    config = GenerateConfig(count=3, start="2026-01-01T01:00:00+01:00", step="1.5s")
    events = events_of(await read_all(GenerateSource(config, make_context(tmp_path, pipeline="shop"))))
    assert [(e.source, e.id, e.time, e.data) for e in events] == [
        ("generate:shop", "0", "2026-01-01T00:00:00Z", {"n": 0}),
        ("generate:shop", "1", "2026-01-01T00:00:01.500000Z", {"n": 1}),
        ("generate:shop", "2", "2026-01-01T00:00:03Z", {"n": 2}),
    ]


async def test_generation_goes_on_behind_the_checkpoint_with_the_same_random_numbers(tmp_path: Path) -> None:
    def source() -> GenerateSource:
        return GenerateSource(GenerateConfig(count=5, seed=1), make_context(tmp_path))

    whole = events_of(await read_all(source()))
    rest = events_of(await read_all(source(), {"generate": Position(whole[2].position)}))
    assert [e.data for e in rest] == [e.data for e in whole[3:]]
    assert len({e.data["random"] for e in whole}) == 5


async def test_a_position_in_words_is_the_number_of_its_event(tmp_path: Path) -> None:
    events = events_of(await read_all(GenerateSource(GenerateConfig(count=1235), make_context(tmp_path))))
    assert GenerateSource.position_text(events[-1].position) == "event 1,234"


def test_a_position_of_another_source_is_no_event(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        GenerateSource.position_text(b"\0" * 12)


async def test_data_must_make_exactly_one_value(tmp_path: Path) -> None:
    source = GenerateSource(GenerateConfig(count=4, data="."), make_context(tmp_path, expressions=Outputs()))
    (batch,) = await read_all(source)
    assert {n: error.code for n, error in batch.rejects.items()} == {
        0: "source.generate_outputs",
        2: "source.generate_outputs",
        3: "jq.failed",
    }
    assert batch.events[1].data == {"n": 1}


async def test_a_rate_is_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    source = GenerateSource(GenerateConfig(rate="100/s", count=100), make_context(tmp_path, clock=clock))
    reading = asyncio.ensure_future(read_all(source))
    begin = clock.monotonic()
    while not reading.done():
        if clock.sleeping:
            await clock.advance(0.1)
        await asyncio.sleep(0)
    assert [len(batch.events) for batch in await reading] == [10] * 10
    assert clock.monotonic() - begin == pytest.approx(1.0)


def test_a_start_without_offset_is_refused() -> None:
    with pytest.raises(ValidationError, match="offset from UTC"):
        GenerateConfig(start="2026-01-01T00:00:00")


@pytest.mark.parametrize("text", ['{"paths": "a", "max_record": "2MiB"}', '{"paths": ["a"], "max_record": 2097152}'])
def test_paths_may_be_one_pattern_or_a_list(text: str) -> None:
    config = FileConfig.model_validate_json(text)
    assert (config.paths, config.max_record) == (("a",), 2 << 20)
    with pytest.raises(ValidationError):
        FileConfig.model_validate_json('{"paths": []}')
