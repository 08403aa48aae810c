"""The file source on real files: resuming, compression, damage, rotation, truncation, following."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from pydantic import ValidationError

from connectors.sources import _streams
from connectors.sources.file import POLL, ROTATION_WAIT, FileConfig, FileSource
from penstock.errors import ConfigurationError, EnvironmentFault, Fatal, Oversized, Permanent
from penstock.spi import Batch, Position, Resume
from penstock.testing.clock import FakeClock
from penstock.testing.contracts import events_of, make_context, read_all


def lines(*numbers: int) -> bytes:
    return b"".join(b'{"n":%d}\n' % n for n in numbers)


def source(directory: Path, **fields: Any) -> FileSource:
    return FileSource(FileConfig(**{"paths": "*.jsonl*", **fields}), make_context(directory, component="source"))


def positions(batches: list[Batch]) -> dict[str, Position]:
    return {batch.partition: batch.end for batch in batches if batch.end is not None}


def ids(batches: list[Batch]) -> list[tuple[str, str, Any]]:
    return [(event.source, event.id, event.data["n"]) for event in events_of(batches)]


async def read_until_fault(reading: FileSource, held: dict[str, Position] | None = None) -> tuple[list[Batch], EnvironmentFault]:
    batches: list[Batch] = []
    await reading.open(Resume(1, held or {}, once=True))
    try:
        async for batch in reading.batches():
            batches.append(batch)
    except EnvironmentFault as error:
        return batches, error
    finally:
        await reading.close()
    raise AssertionError("no fault came")


async def test_appended_lines_and_new_files_are_all_that_a_second_run_reads(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(1, 2))
    held = positions(await read_all(source(tmp_path)))
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(lines(3))
    (tmp_path / "b.jsonl").write_bytes(lines(4))
    assert ids(await read_all(source(tmp_path), held)) == [("file:a.jsonl", "0-16", 3), ("file:b.jsonl", "0-0", 4)]


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstandard.compress)])
async def test_a_further_member_is_all_that_is_decompressed_again(
    tmp_path: Path, suffix: str, compress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(compress(lines(*range(2000))) + compress(lines(*range(2000, 4000))))
    first = await read_all(source(tmp_path))
    held = positions(first)
    second_member = len(compress(lines(*range(2000))))
    starts: list[int] = []
    seek = os.lseek
    monkeypatch.setattr(_streams.os, "lseek", lambda file, at, how: (starts.append(at), seek(file, at, how))[1])
    with path.open("ab") as file:
        file.write(compress(lines(4000)))
    again = await read_all(source(tmp_path), held)
    assert [e.data for e in events_of(again)] == [{"n": 4000}]
    assert events_of(again)[0].id == f"0-{len(lines(*range(4000)))}"
    assert second_member in starts


@pytest.mark.parametrize("cut", [1, 9, 200])
async def test_a_gzip_file_cut_short_gives_what_came_before_and_then_names_itself(tmp_path: Path, cut: int) -> None:
    whole = gzip.compress(lines(*range(500)), 0)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-cut])
    (tmp_path / "b.jsonl").write_bytes(lines(7))
    batches, fault = await read_until_fault(source(tmp_path))
    assert fault.code == "source.truncated_gzip"
    assert "a.jsonl.gz is cut short" in fault.message
    assert str(len(whole) - cut) in fault.message
    numbers = [n for _, _, n in ids(batches)]
    assert numbers[-1] == 7
    assert numbers[:-1] == list(range(len(numbers) - 1))
    assert len(numbers) > 450
    (tmp_path / "a.jsonl.gz").write_bytes(whole)
    rest = await read_all(source(tmp_path), positions(batches))
    assert [n for _, _, n in ids(rest)] == list(range(len(numbers) - 1, 500))


@pytest.mark.parametrize(("suffix", "code"), [("gz", "source.truncated_gzip"), ("zst", "source.truncated_zstd")])
async def test_a_corrupt_block_gives_what_came_before(tmp_path: Path, suffix: str, code: str) -> None:
    compress = gzip.compress if suffix == "gz" else zstandard.compress
    good = compress(lines(*range(1000)))
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(good + b"garbage that is no member")
    batches, fault = await read_until_fault(source(tmp_path))
    assert fault.code == code
    assert f"a.jsonl.{suffix} is damaged" in fault.message
    assert [n for _, _, n in ids(batches)] == list(range(1000))


async def test_a_gzip_member_damaged_in_the_middle_loses_nothing_before_the_damage(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(lines(*range(20_000)), 1))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(bytes(data))
    batches, fault = await read_until_fault(source(tmp_path))
    raws = [event.raw for event in events_of(batches)]
    assert fault.code == "source.truncated_gzip"
    assert len(raws) > 9000
    assert raws[:9000] == lines(*range(9000)).splitlines()


async def test_an_unterminated_last_line_is_a_record_and_its_line_end_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"n":1}\n{"n":2}')
    first = await read_all(source(tmp_path))
    assert [n for _, _, n in ids(first)] == [1, 2]
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'\n{"n":3}\n')
    assert ids(await read_all(source(tmp_path), positions(first))) == [("file:a.jsonl", "0-16", 3)]


async def test_a_directory_and_a_dangling_link_among_the_globs_are_named_after_the_others_were_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.jsonl").write_bytes(lines(1))
    batches, fault = await read_until_fault(source(tmp_path))
    assert fault.code == "source.unreadable"
    assert "a.jsonl" in fault.message
    assert "directory" in fault.message
    assert "b.jsonl" in str(fault.why)
    assert [n for _, _, n in ids(batches)] == [1]


async def test_a_pattern_that_matches_nothing_stops_unless_files_are_followed(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        await read_all(source(tmp_path))
    assert caught.value.code == "source.no_files"
    assert await read_all(source(tmp_path, follow=True)) == []


@pytest.mark.parametrize("change", ["truncated", "emptied", "head", "before the checkpoint"])
async def test_a_file_truncated_or_rewritten_in_place_stops_the_run(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*range(2000)))
    held = positions(await read_all(source(tmp_path)))
    data = path.read_bytes()
    changed = {
        "truncated": data[:9000],
        "emptied": b"",
        "head": b"X" + data[1:] + lines(5),
        "before the checkpoint": data[:-3] + b"X}\n" + lines(5),
    }[change]
    with path.open("r+b") as file:
        file.truncate()
        file.write(changed)
        file.truncate()
    with pytest.raises(Fatal) as caught:
        await read_all(source(tmp_path), held)
    assert caught.value.code == "source.rewritten"
    assert "a.jsonl" in caught.value.message
    assert "checkpoint reset" in str(caught.value.help)


async def test_a_restored_copy_is_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(1, 2))
    held = positions(await read_all(source(tmp_path)))
    (tmp_path / "copy").write_bytes(lines(1, 2, 3))
    (tmp_path / "copy").replace(path)
    assert ids(await read_all(source(tmp_path), held)) == [("file:a.jsonl", "0-16", 3)]


async def test_another_file_in_its_place_is_the_next_generation(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(1, 2))
    held = positions(await read_all(source(tmp_path)))
    (tmp_path / "new").write_bytes(lines(100, *range(200, 220)))
    (tmp_path / "new").replace(path)
    batches = await read_all(source(tmp_path), held)
    assert ids(batches)[0] == ("file:a.jsonl", "1-0", 100)
    assert len(ids(batches)) == 21
    assert positions(batches)["a.jsonl"].order > held["a.jsonl"].order


async def test_a_file_rotated_between_runs_is_finished_under_its_own_name_and_read_only_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(1, 2))
    held = positions(await read_all(source(tmp_path)))
    with path.open("ab") as file:
        file.write(lines(3))
    path.rename(tmp_path / "a.jsonl.1")
    path.write_bytes(lines(1, 4))
    second = await read_all(source(tmp_path), held)
    assert ids(second) == [("file:a.jsonl", "0-16", 3), ("file:a.jsonl", "1-0", 1), ("file:a.jsonl", "1-8", 4)]
    third = await read_all(source(tmp_path), positions(second))
    assert ids(third) == []
    (tmp_path / "a.jsonl.1").rename(tmp_path / "a.jsonl.2")
    path.rename(tmp_path / "a.jsonl.1")
    path.write_bytes(lines(5))
    fourth = await read_all(source(tmp_path), positions(second))
    assert ids(fourth) == [("file:a.jsonl", "2-0", 5)]


async def test_a_record_that_was_too_long_is_read_again_with_todays_limit(tmp_path: Path) -> None:
    long = b'{"n":"' + b"x" * 5000 + b'"}'
    (tmp_path / "a.jsonl").write_bytes(lines(1) + long + b"\n" + lines(2))
    batches = await read_all(source(tmp_path, max_record=1000))
    (batch,) = batches
    assert isinstance(batch.rejects[1], Oversized)
    guilty = batch.events[1]
    again = source(tmp_path, max_record=10_000)
    await again.open(Resume(2, positions(batches)))
    event = await again.reread("a.jsonl", guilty.position)
    assert (event.id, event.source, event.raw) == (guilty.id, guilty.source, long)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(Permanent) as caught:
        await again.reread("a.jsonl", guilty.position)
    assert caught.value.code == "source.gone"
    await again.close()
    tight = source(tmp_path, max_record=1000)
    (tmp_path / "a.jsonl").write_bytes(lines(1) + long + b"\n" + lines(2))
    await tight.open(Resume(3, positions(batches)))
    with pytest.raises(Oversized):
        await tight.reread("a.jsonl", guilty.position)
    await tight.close()


async def test_a_checkpoint_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(1))
    held = positions(await read_all(source(tmp_path)))
    newer = {"a.jsonl": Position(held["a.jsonl"].order, b"\x02" + held["a.jsonl"].detail[1:])}
    with pytest.raises(EnvironmentFault) as caught:
        await read_all(source(tmp_path), newer)
    assert caught.value.code == "source.unknown_checkpoint"


async def test_progress_counts_stored_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(*range(100))))
    (tmp_path / "b.jsonl").write_bytes(lines(1))
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    reading = source(tmp_path)
    await reading.open(Resume(1, {}))
    assert reading.progress() == (0, total)
    async for _ in reading.batches():
        pass
    assert reading.progress() == (total, total)
    await reading.close()


def test_json_cannot_be_followed() -> None:
    with pytest.raises((ValidationError, ConfigurationError), match="cannot be followed"):
        FileConfig(paths="*.json", format="json", follow=True)


class Following:
    """A followed source, and a clock that a test moves."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.source = FileSource(FileConfig(paths="a*", follow=True), make_context(directory, clock=self.clock))
        self.batches: AsyncIterator[Batch] = self.source.batches()

    async def __aenter__(self) -> Following:
        await self.source.open(Resume(1, {}))
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.source.close()

    async def next(self) -> list[tuple[str, Any]]:
        """The next batch, with the clock moved on whenever the source sleeps."""
        waiting = asyncio.ensure_future(anext(self.batches))
        try:
            async with asyncio.timeout(10):
                while not waiting.done():
                    if self.clock.sleeping:
                        await self.clock.advance(POLL)
                    await asyncio.sleep(0)
                return [(event.id, event.data["n"]) for event in (await waiting).events]
        finally:
            waiting.cancel()

    async def quiet(self, seconds: float) -> None:
        """Nothing comes for so long."""
        waiting = asyncio.ensure_future(anext(self.batches))
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            if self.clock.sleeping:
                await self.clock.advance(POLL)
            await asyncio.sleep(0)
            assert not waiting.done()
        self.batches = Resumed(waiting, self.batches)


class Resumed:
    """Gives first what was being waited for."""

    def __init__(self, first: asyncio.Future[Batch], rest: AsyncIterator[Batch]) -> None:
        self.first: asyncio.Future[Batch] | None = first
        self.rest = rest

    async def __anext__(self) -> Batch:
        first, self.first = self.first, None
        return await (first if first is not None else anext(self.rest))


async def test_a_followed_file_waits_for_line_ends_and_gives_lines_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b'{"n":1}\n{"n":')
    async with Following(tmp_path) as following:
        assert await following.next() == [("0-0", 1)]
        await following.quiet(3 * POLL)
        with path.open("ab") as file:
            file.write(b"2}\n")
        assert await following.next() == [("0-8", 2)]
        (tmp_path / "a2.log").write_bytes(lines(3))
        assert await following.next() == [("0-0", 3)]


async def test_a_followed_file_survives_rotation_with_a_late_line_in_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(lines(1))
    async with Following(tmp_path) as following:
        assert await following.next() == [("0-0", 1)]
        path.rename(tmp_path / "a.log.1")
        path.write_bytes(lines(3))
        await following.quiet(ROTATION_WAIT / 2)
        with (tmp_path / "a.log.1").open("ab") as file:
            file.write(lines(2))
        assert await following.next() == [("0-8", 2)]
        assert await following.next() == [("1-0", 3)]
        await following.quiet(2 * ROTATION_WAIT)


async def test_a_followed_file_that_is_truncated_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(lines(1, 2))
    async with Following(tmp_path) as following:
        await following.next()
        os.truncate(path, 0)
        with pytest.raises(Fatal) as caught:
            await following.next()
        assert caught.value.code == "source.rewritten"


async def test_a_followed_file_rewritten_and_longer_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(lines(1, 2))
    async with Following(tmp_path) as following:
        await following.next()
        with path.open("r+b") as file:
            file.write(lines(7, 8, 9, 10))
        with pytest.raises(Fatal) as caught:
            await following.next()
        assert caught.value.code == "source.rewritten"
