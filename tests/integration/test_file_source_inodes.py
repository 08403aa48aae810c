"""File systems give the inode of a removed file to the next one: that makes it neither the old file nor a renamed one."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from connectors.sources import _marks
from connectors.sources._marks import from_position
from connectors.sources.file import FileConfig, FileSource
from penstock.errors import Fatal
from penstock.spi import Batch, Position
from penstock.testing.contracts import events_of, make_context, read_all


def lines(*numbers: int) -> bytes:
    return b"".join(b'{"n":%d}\n' % n for n in numbers)


def source(directory: Path, **fields: Any) -> FileSource:
    return FileSource(FileConfig(**{"paths": "*.jsonl*", **fields}), make_context(directory, component="source"))


def positions(batches: list[Batch]) -> dict[str, Position]:
    return {batch.partition: batch.end for batch in batches if batch.end is not None}


def ids(batches: list[Batch]) -> list[tuple[str, str, Any]]:
    return [(event.source, event.id, event.data["n"]) for event in events_of(batches)]


def remove_and_create(old: Path, new: Path, content: bytes) -> None:
    """The new file has the inode of the old one, or the test says why it can show nothing."""
    inode = old.stat().st_ino
    old.unlink()
    new.write_bytes(content)
    if new.stat().st_ino != inode:
        pytest.skip("this file system gave the new file an inode of its own")


async def test_a_file_created_anew_is_the_next_generation(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*range(2000)))
    held = positions(await read_all(source(tmp_path)))
    remove_and_create(path, path, lines(7000, *range(2000, 2020)))
    batches = await read_all(source(tmp_path), held)
    assert ids(batches)[0] == ("file:a.jsonl", "1-0", 7000)
    assert len(ids(batches)) == 21
    assert await read_all(source(tmp_path), positions(batches)) == []


async def test_a_short_file_of_another_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(*range(2000)))
    held = positions(await read_all(source(tmp_path)))
    remove_and_create(tmp_path / "a.jsonl", tmp_path / "b.jsonl", lines(1))
    assert ids(await read_all(source(tmp_path), held)) == [("file:b.jsonl", "0-0", 1)]


async def test_a_file_of_another_name_that_begins_alike_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(*range(2000)))
    held = positions(await read_all(source(tmp_path)))
    remove_and_create(tmp_path / "a.jsonl", tmp_path / "b.jsonl", lines(*range(1000), 5))
    assert [n for _, _, n in ids(await read_all(source(tmp_path), held))] == [*range(1000), 5]


async def test_where_the_file_system_does_not_say_a_changed_file_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*range(2000)))
    held = positions(await read_all(source(tmp_path)))

    def silent(file: int, request: int, argument: bytes) -> bytes:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    monkeypatch.setattr(fcntl, "ioctl", silent)
    remove_and_create(path, path, lines(7000))
    with pytest.raises(Fatal) as caught:
        await read_all(source(tmp_path), held)
    assert (caught.value.code, "give the new content a new name" in str(caught.value.help)) == ("source.rewritten", True)


async def test_a_checkpoint_of_before_incarnations_were_kept_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*range(20)))
    (held,) = positions(await read_all(source(tmp_path))).values()
    mark = _marks._decoder.decode(held.detail[1:])
    fields = [getattr(mark, name) for name in mark.__struct_fields__][:-2]
    old = Position(held.order, held.detail[:1] + _marks._encoder.encode(fields))
    known = from_position("a.jsonl", old).mark
    assert known is not None
    assert (known.incarnation, known.tail) == (0, mark.tail)
    with path.open("ab") as file:
        file.write(lines(20))
    assert [n for _, _, n in ids(await read_all(source(tmp_path), {"a.jsonl": old}))] == [20]
