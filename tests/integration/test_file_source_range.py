"""The past of the file source: whole files from their beginning, under the ids that a run gave."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from connectors.sources.file import FileConfig, FileSource
from penstock.errors import EnvironmentFault, Fatal
from penstock.spi import Batch, Position
from penstock.testing.contracts import events_of, make_context, read_all


def numbered(*numbers: int) -> bytes:
    return b"".join(b'{"n":%d,"text":"some text that makes a line of it"}\n' % n for n in numbers)


def source(directory: Path, **fields: Any) -> FileSource:
    return FileSource(FileConfig(**{"paths": "*.jsonl*", **fields}), make_context(directory, component="source"))


def held(batches: list[Batch]) -> dict[str, Position]:
    return {batch.partition: batch.end for batch in batches if batch.end is not None}


def told(batches: list[Batch]) -> list[tuple[str, str, int]]:
    return [(event.source, event.id, event.data["n"]) for event in events_of(batches)]


async def past(directory: Path, known: Mapping[str, Position] | None = None, **fields: Any) -> list[Batch]:
    return [batch async for batch in source(directory, **fields).read_range(None, known or {})]


async def run(directory: Path, known: Mapping[str, Position] | None = None, **fields: Any) -> list[Batch]:
    return await read_all(source(directory, **fields), known)


async def test_what_was_read_and_what_was_not_come_alike(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(numbered(1, 2))
    checkpoint = held(first := await run(tmp_path))
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(numbered(3))
    (tmp_path / "b.jsonl").write_bytes(numbered(4))
    rest = await run(tmp_path, checkpoint)
    again = await past(tmp_path, checkpoint)
    assert told(again) == told(first) + told(rest)
    assert [e.position for e in events_of(again)] == [e.position for e in events_of(first) + events_of(rest)]


@pytest.mark.parametrize("follow", [False, True])
async def test_a_rotated_file_keeps_its_generation_and_what_follows_it_has_the_next(tmp_path: Path, follow: bool) -> None:
    paths = {"paths": "app.jsonl", "follow": follow}
    (tmp_path / "app.jsonl").write_bytes(numbered(1, 2))
    first = await run(tmp_path, **paths)
    (tmp_path / "app.jsonl").rename(tmp_path / "app.jsonl.1")
    (tmp_path / "app.jsonl").write_bytes(numbered(3))
    second = await run(tmp_path, held(first), **paths)
    (tmp_path / "app.jsonl.1").rename(tmp_path / "app.jsonl.2")
    (tmp_path / "app.jsonl").rename(tmp_path / "app.jsonl.1")
    (tmp_path / "app.jsonl").write_bytes(numbered(4, 5))
    third = await run(tmp_path, held(second), **paths)
    everything = told(first + second + third)
    assert [each[1] for each in everything] == ["0-0", "0-51", "1-0", "2-0", "2-51"]
    for checkpoint in (held(second), held(third)):
        assert told(await past(tmp_path, checkpoint, **paths)) == everything
    (tmp_path / "app.jsonl.2").unlink()
    assert told(await past(tmp_path, held(third), **paths)) == everything[2:]
    if follow:  # else a pattern that matches nothing is refused, as by a run
        (tmp_path / "app.jsonl").unlink()
        assert told(await past(tmp_path, held(third), **paths)) == everything[2:3]


async def test_a_renamed_file_that_the_pattern_matches_too_comes_once(tmp_path: Path) -> None:
    (tmp_path / "app.jsonl").write_bytes(numbered(1, 2))
    first = await run(tmp_path)
    (tmp_path / "app.jsonl").rename(tmp_path / "app.jsonl.1")
    (tmp_path / "app.jsonl").write_bytes(numbered(3))
    second = await run(tmp_path, held(first))
    assert told(await past(tmp_path, held(first) | held(second))) == told(first + second)


async def test_the_last_line_of_a_followed_file_waits_for_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(numbered(1) + b'{"n":2}')
    assert [n for _, _, n in told(await past(tmp_path, follow=True))] == [1]
    assert [n for _, _, n in told(await past(tmp_path))] == [1, 2]


async def test_compressed_files_and_csv_come_from_their_beginning(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(numbered(1, 2)))
    checkpoint = held(first := await run(tmp_path))
    assert told(await past(tmp_path, checkpoint)) == told(first)
    (tmp_path / "b.csv").write_text("n,x\n1,a\n2,b\n")
    rows = await run(tmp_path, paths="*.csv", format="csv")
    again = await past(tmp_path, held(rows), paths="*.csv", format="csv")
    assert [(e.id, e.data) for e in events_of(again)] == [(e.id, e.data) for e in events_of(rows)]


async def test_after_a_reset_ids_are_those_that_the_next_run_gives(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(numbered(1, 2))
    (partition, position), *_ = held(await run(tmp_path)).items()
    beginning = {partition: source(tmp_path).restart(partition, position)}
    assert told(await past(tmp_path, beginning)) == told(await run(tmp_path, beginning))
    (tmp_path / "a.jsonl").write_bytes(numbered(7))
    assert told(await past(tmp_path, beginning)) == told(await run(tmp_path, beginning)) == [("file:a.jsonl", "1-0", 7)]


async def test_a_file_that_was_rewritten_has_no_ids(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(numbered(1, 2))
    checkpoint = held(await run(tmp_path))
    (tmp_path / "a.jsonl").write_bytes(numbered(3))
    with pytest.raises(Fatal) as caught:
        await past(tmp_path, checkpoint)
    assert caught.value.code == "source.rewritten"


async def test_what_cannot_be_read_is_said_after_everything_else_was_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(numbered(1, 2))[:-12])
    (tmp_path / "b.jsonl").write_bytes(numbered(3))
    found: list[Batch] = []

    async def collect() -> None:
        async for batch in source(tmp_path).read_range(None, {}):
            found.append(batch)

    with pytest.raises(EnvironmentFault) as caught:
        await collect()
    assert (caught.value.code, [n for _, _, n in told(found)][-1]) == ("source.truncated_gzip", 3)
    with pytest.raises(EnvironmentFault) as caught:
        await past(tmp_path, paths="none*.jsonl")
    assert caught.value.code == "source.no_files"
