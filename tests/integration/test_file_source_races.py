"""Files renamed, replaced or removed in the very moment in which the source looks at them; names and files it cannot read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.sources._file_discovery import Discovery
from connectors.sources._file_open import Opener
from connectors.sources.file import POLL, ROTATION_WAIT, FileConfig, FileSource
from penstock.errors import EnvironmentFault, Oversized
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


async def read_until_fault(reading: FileSource, *, once: bool = True) -> tuple[list[Batch], EnvironmentFault]:
    batches: list[Batch] = []
    await reading.open(Resume(1, {}, once=once))
    try:
        async for batch in reading.batches():
            batches.append(batch)
    except EnvironmentFault as error:
        return batches, error
    finally:
        await reading.close()
    raise AssertionError("no fault came")


async def anext_with(clock: FakeClock, batches: AsyncIterator[Batch]) -> Batch:
    """The next batch of a followed source, the clock moved on whenever it sleeps."""
    waiting = asyncio.ensure_future(anext(batches))
    end = clock.monotonic() + 5 * ROTATION_WAIT
    while not waiting.done():
        if clock.sleeping:
            assert clock.monotonic() < end, "nothing came"
            await clock.advance(POLL)
        await asyncio.sleep(0)
    return await waiting


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`meanwhile(kind, method, act, before=…)`: once, `act` happens right before or right behind a call of the method."""

    def arrange(kind: type, method: str, act: Callable[[], object], *, before: bool = False) -> None:
        original = getattr(kind, method)
        acts = [act]

        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            if before and acts:
                acts.pop()()
            result = original(self, *arguments, **named)
            if acts:
                acts.pop()()
            return result

        monkeypatch.setattr(kind, method, call)

    return arrange


async def test_a_file_that_goes_between_listing_and_opening_ends_no_run(tmp_path: Path, meanwhile: Callable[..., None]) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(1))
    (tmp_path / "b.jsonl").write_bytes(lines(2))
    meanwhile(Discovery, "scan", (tmp_path / "b.jsonl").unlink)
    assert ids(await read_all(source(tmp_path))) == [("file:a.jsonl", "0-0", 1)]


async def test_a_file_that_is_renamed_between_being_found_and_opened_is_read_on(
    tmp_path: Path, meanwhile: Callable[..., None]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(1, 2))
    held = positions(await read_all(source(tmp_path)))
    with path.open("ab") as file:
        file.write(lines(3))
    meanwhile(Opener, "_check_regular", lambda: path.rename(tmp_path / "a.jsonl.1"))
    assert ids(await read_all(source(tmp_path), held)) == [("file:a.jsonl", "0-16", 3)]


async def test_a_renamed_file_that_takes_the_place_of_a_new_one_is_not_read_again(
    tmp_path: Path, meanwhile: Callable[..., None]
) -> None:
    path, other = tmp_path / "a.jsonl", tmp_path / "a.jsonl.1"
    path.write_bytes(lines(1, 2))
    held = positions(await read_all(source(tmp_path, paths="a.jsonl")))
    other.write_bytes(lines(7))
    reading = source(tmp_path, paths="a.jsonl.*")
    meanwhile(Discovery, "look", lambda: path.replace(other))
    assert ids(await read_all(reading, held)) == []


async def test_a_path_where_other_files_keep_coming_is_reported_and_none_of_them_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(1))
    look = Discovery.look

    def busy(self: Discovery, name: str) -> Any:
        seen = look(self, name)
        (tmp_path / "next").write_bytes(lines(2))
        (tmp_path / "next").replace(path)
        return seen

    monkeypatch.setattr(Discovery, "look", busy)
    batches, fault = await read_until_fault(source(tmp_path))
    assert (batches, fault.code, fault.message) == (
        [],
        "source.unreadable",
        "cannot read a.jsonl: it cannot be told from a renamed file",
    )


async def test_a_followed_file_whose_successor_is_rotated_too_is_handed_over_later(
    tmp_path: Path, meanwhile: Callable[..., None]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(1))
    clock = FakeClock()
    reading = FileSource(FileConfig(paths="a.jsonl", follow=True), make_context(tmp_path, clock=clock))
    await reading.open(Resume(1, {}))
    batches = reading.batches()
    first = await anext(batches)
    path.rename(tmp_path / "a.jsonl.1")
    path.write_bytes(lines(2))

    meanwhile(Opener, "_check_regular", lambda: path.rename(tmp_path / "a.jsonl.2"), before=True)
    waiting = asyncio.ensure_future(anext_with(clock, batches))
    while path.exists() and not waiting.done():
        await asyncio.sleep(0)
    path.write_bytes(lines(3))
    second = await waiting
    await reading.close()
    assert (ids([first]), ids([second])) == ([("file:a.jsonl", "0-0", 1)], [("file:a.jsonl", "1-0", 3)])


async def test_a_record_whose_file_is_renamed_while_it_is_looked_for_is_read_again(
    tmp_path: Path, meanwhile: Callable[..., None]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n":"%s"}\n' % (b"x" * 5000))
    (batch,) = await read_all(source(tmp_path, max_record=1000))
    assert isinstance(batch.rejects[0], Oversized)
    again = source(tmp_path)
    await again.open(Resume(2, positions([batch])))
    meanwhile(Opener, "locate", lambda: path.rename(tmp_path / "a.jsonl.1"))
    event = await again.reread("a.jsonl", batch.events[0].position)
    await again.close()
    assert event.data == {"n": "x" * 5000}


async def test_a_name_that_is_not_utf_8_is_reported_after_everything_else_was_read(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/a\xff.jsonl"
    with os.fdopen(os.open(odd, os.O_CREAT | os.O_WRONLY), "wb") as file:
        file.write(lines(1))
    (tmp_path / "b.jsonl").write_bytes(lines(2))
    batches, fault = await read_until_fault(source(tmp_path))
    assert ids(batches) == [("file:b.jsonl", "0-0", 2)]
    assert fault.render() == (
        "error[source.unreadable]: cannot read a\\udcff.jsonl: its name is not UTF-8\n"
        "  --> partition a\\udcff.jsonl\n"
        "  help: rename it, or narrow `paths` so that it does not match"
    )


@pytest.mark.parametrize("follow", [False, True])
async def test_a_file_that_the_system_cannot_read_is_reported_after_everything_else_was_read(
    tmp_path: Path, follow: bool
) -> None:
    (tmp_path / "a.jsonl").symlink_to("/proc/self/mem")  # a regular file whose first page is none: EIO
    (tmp_path / "b.jsonl").write_bytes(lines(1))
    batches, fault = await read_until_fault(source(tmp_path, follow=follow), once=not follow)
    assert (ids(batches), fault.code, fault.message) == (
        [("file:b.jsonl", "0-0", 1)],
        "source.unreadable",
        "cannot read a.jsonl: Input/output error",
    )


@pytest.mark.parametrize("follow", [False, True])
async def test_a_directory_in_the_place_of_a_rotated_file_is_reported_after_everything_else_was_read(
    tmp_path: Path, follow: bool
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(1))
    (tmp_path / "b.jsonl").write_bytes(lines(2))
    clock = FakeClock()
    reading = FileSource(FileConfig(paths="*.jsonl", follow=True), make_context(tmp_path, clock=clock))
    await reading.open(Resume(1, {}, once=not follow))
    batches = reading.batches()
    read = [await anext(batches)]
    (tmp_path / "a.jsonl").rename(tmp_path / "a.jsonl.1")
    (tmp_path / "a.jsonl").mkdir()
    read.append(await anext(batches))
    with pytest.raises(EnvironmentFault) as caught:
        await anext_with(clock, batches)
    await reading.close()
    assert (ids(read), caught.value.message) == (
        [("file:a.jsonl", "0-0", 1), ("file:b.jsonl", "0-0", 2)],
        "cannot read a.jsonl: it is a directory",
    )
