"""The stdout sink: readers that go, stall and come back, files that end in the middle of a line, writers that share it."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from connectors.sinks.stdout import StdoutConfig, StdoutSink
from penstock.errors import EnvironmentFault, Fatal
from penstock.event import Event
from penstock.testing.contracts import make_context, make_events

LONG = 300_000
"""Characters of a line that no pipe takes at once."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@asynccontextmanager
async def opened(directory: Path, descriptor: int) -> AsyncIterator[StdoutSink]:
    sink = StdoutSink(StdoutConfig(), make_context(directory), descriptor=descriptor)
    await sink.open(None)
    try:
        yield sink
    finally:
        await sink.close()


def long_line(letter: str) -> Event:
    return Event(letter, "s", "t", decoded=letter * LONG)


def is_full(writer: int) -> bool:
    return not select.select([], [writer], [], 0)[1]


async def stalled(sink: StdoutSink, writer: int, *events: Event) -> asyncio.Task[None]:
    """A write that waits for a reader."""
    writing = asyncio.ensure_future(sink.write(events))
    async with asyncio.timeout(10):
        while not is_full(writer):
            await asyncio.sleep(0.005)
    return writing


async def cancel(writing: asyncio.Task[None]) -> None:
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


def read_lines(reader: int, count: int) -> list[str]:
    """:return: the first letter of each line, which holds no other, or the line itself."""
    data = b""
    while data.count(b"\n") < count:
        data += os.read(reader, 1 << 20)
    lines = [line.strip('"') for line in data.decode().splitlines()]
    return [line[0] if line == line[0] * LONG else line for line in lines]


async def test_a_reader_that_has_gone_ends_the_run_cleanly(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # once: the sink opens a descriptor of its own, which may get this number
    try:
        async with opened(tmp_path, writer) as sink:
            with pytest.raises(Fatal) as caught:
                await sink.write(make_events(1))
    finally:
        os.close(writer)
    assert caught.value.code == "sink.stdout_closed"


async def test_a_full_disk_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        async with opened(tmp_path, full.fileno()) as sink:
            with pytest.raises(EnvironmentFault) as caught:
                await sink.write(make_events(1))
    assert (caught.value.code, caught.value.message) == (
        "sink.stdout",
        "cannot write to standard output: No space left on device",
    )


async def test_a_standard_output_that_is_closed_is_never_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdout__", None)
    for sink in (
        StdoutSink(StdoutConfig(), make_context(tmp_path)),
        StdoutSink(StdoutConfig(), make_context(tmp_path), descriptor=1_000_000),
    ):
        with pytest.raises(EnvironmentFault) as caught:
            await sink.open(None)
        assert caught.value.code == "sink.stdout"


async def test_a_later_sink_writes_behind_what_an_earlier_one_was_cancelled_in(tmp_path: Path, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    async with opened(tmp_path, writer) as first:
        await cancel(await stalled(first, writer, long_line("a"), long_line("b")))
    async with opened(tmp_path, writer) as second:
        writing = asyncio.ensure_future(second.write([long_line("c")]))
        assert await asyncio.to_thread(read_lines, reader, 3) == ["a", "b", "c"]
        await writing


async def test_what_is_cancelled_before_its_turn_is_not_written(tmp_path: Path, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    async with opened(tmp_path, writer) as sink, opened(tmp_path, writer) as other:
        writing = await stalled(sink, writer, long_line("a"))
        waiting = [asyncio.ensure_future(one.write([long_line("b")])) for one in (sink, other)]
        await asyncio.sleep(0)
        for one in waiting:
            await cancel(one)
        last = asyncio.ensure_future(sink.write([long_line("c")]))
        assert await asyncio.to_thread(read_lines, reader, 2) == ["a", "c"]
        await asyncio.gather(writing, last)


async def test_sinks_of_one_process_write_whole_lines(tmp_path: Path, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    async with opened(tmp_path, writer) as one, opened(tmp_path, writer) as two:
        reading = asyncio.create_task(asyncio.to_thread(read_lines, reader, 20))
        for _ in range(10):
            await asyncio.gather(one.write([long_line("a")]), two.write([long_line("b")]))
        assert sorted(await reading) == ["a"] * 10 + ["b"] * 10


async def test_a_pipe_that_somebody_made_non_blocking_is_waited_for(tmp_path: Path, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    async with opened(tmp_path, writer) as sink:
        writing = await stalled(sink, writer, long_line("a"))
        assert await asyncio.to_thread(read_lines, reader, 1) == ["a"]
        await writing
    assert os.get_blocking(writer) is False


@pytest.mark.parametrize("mode", ["ab", "r+b"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"1\n", b"1\n"), (b'1\n{"n":', b'1\n{"n":\n')],
    ids=["empty", "whole lines", "half a line"],
)
async def test_a_file_that_ends_in_half_a_line_is_gone_on_with_in_a_new_one(
    tmp_path: Path, mode: str, before: bytes, after: bytes
) -> None:
    path = tmp_path / "out"
    path.write_bytes(before)
    with path.open(mode, buffering=0) as file:
        file.seek(0, os.SEEK_END)
        async with opened(tmp_path, file.fileno()) as sink:
            await sink.write([Event("1", "s", "t", decoded=2)])
            await sink.write([Event("2", "s", "t", decoded=3)])
    assert path.read_bytes() == after + b"2\n3\n"
