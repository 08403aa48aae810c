"""Whether lines that were delivered are in the file: what counts as the same line, and what becomes of files that are broken."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from connectors.sinks.file import FileSink, FileSinkConfig
from penstock.errors import EnvironmentFault
from penstock.event import Event
from penstock.testing.contracts import make_context, make_events
from penstock.testing.inspection_contract import inspect

NOT_THERE = "its line is not in out.jsonl"


def sink_of(directory: Path, path: str = "out.jsonl", format: Any = "jsonl") -> FileSink:
    return FileSink(FileSinkConfig(path=path, format=format), make_context(directory))


async def absent(sink: FileSink, *events: Event) -> list[tuple[int, str]]:
    count, absences = await inspect(sink, range(len(events)), events)
    assert count == len(absences)
    return [(absence.token, absence.why) for absence in absences]


def raw(*texts: bytes) -> list[Event]:
    return [Event(str(n), "s", "t", raw=text) for n, text in enumerate(texts)]


async def test_a_line_that_was_delivered_several_times_has_to_be_there_as_often(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_bytes(b'{"n":1}\n{"n":2}\n{"n":1}\n')
    events = raw(b'{"n":1}', b'{"n":1}', b'{"n":1}', b'{"n":2}')
    assert await absent(sink_of(tmp_path), *events) == [(2, NOT_THERE)]


async def test_the_same_document_in_other_words_is_the_same_line(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_bytes(b'{ "n" : 1.50, "s": "\\u00e9" }\n{"n":[1,2]}\n')
    assert await absent(sink_of(tmp_path), *raw(b'{"n":1.5,"s":"\xc3\xa9"}', b'{"n":\n[1, 2]}')) == []


async def test_a_document_that_says_something_else_is_another_line(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_bytes(b'{"n":1.0}\n{"n":"2"}\n{"n":100000000000000000001}\n')
    events = raw(b'{"n":1}', b'{"n":2}', b'{"n":100000000000000000002}')
    assert await absent(sink_of(tmp_path), *events) == [(0, NOT_THERE), (1, NOT_THERE), (2, NOT_THERE)]


async def test_a_line_that_was_cut_in_the_middle_is_absent_and_its_neighbours_are_not(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_bytes(b'{"n":0}\n{"n"\n{"n":2}')
    assert await absent(sink_of(tmp_path), *make_events(3)) == [(1, NOT_THERE)]


async def test_without_the_file_every_line_is_absent(tmp_path: Path) -> None:
    assert await absent(sink_of(tmp_path), *make_events(2)) == [(0, "there is no out.jsonl"), (1, "there is no out.jsonl")]
    assert await absent(sink_of(tmp_path, "out.csv", "csv"), *make_events(1)) == [(0, "there is no out.csv")]
    assert list(tmp_path.iterdir()) == []


async def test_a_tail_that_a_run_has_not_committed_yet_does_not_matter(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"n":0}\n') + gzip.compress(b'{"n":1}\n')
    (tmp_path / "out.jsonl.gz").write_bytes(whole + gzip.compress(b'{"n":2}\n')[:-9])
    assert await absent(sink_of(tmp_path, "out.jsonl.gz"), *make_events(2)) == []


@pytest.mark.parametrize("name", ["out.jsonl.gz", "out.jsonl.zst"])
async def test_a_compressed_file_that_is_damaged_is_an_error_and_no_absence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no compressed bytes at all")
    with pytest.raises(EnvironmentFault, match="cannot read") as caught:
        await absent(sink_of(tmp_path, name), *make_events(2))
    assert caught.value.code == "sink.file"


async def test_a_path_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(EnvironmentFault, match="no regular file"):
        await absent(sink_of(tmp_path), *make_events(1))


async def test_rows_of_csv_with_line_ends_and_quotes_are_found_and_missed(tmp_path: Path) -> None:
    sink = sink_of(tmp_path, "out.csv", "csv")
    texts = ["plain", 'two\nlines, "quoted"', "", "three\n\nlines"]
    events = [Event(str(n), "s", "t", decoded={"n": n, "text": text}) for n, text in enumerate(texts)]
    await sink.open(None)
    await sink.write(events)
    await sink.flush()
    await sink.close()
    assert await absent(sink, *events) == []
    path = tmp_path / "out.csv"
    path.write_text(path.read_text().replace("three\n\nlines", "three\nlines"))
    assert await absent(sink, *events) == [(3, "its line is not in out.csv")]


async def test_an_event_that_has_no_line_today_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("a,b\n1,2\n")
    events = [Event("0", "s", "t", decoded={"a": 1, "b": 2}), Event("1", "s", "t", decoded={"c": 3})]
    why = "the sink would refuse it today (sink.csv_columns), so that nobody can say what to look for"
    assert await absent(sink_of(tmp_path, "out.csv", "csv"), *events) == [(1, why)]


async def test_a_line_longer_than_any_that_is_written_is_passed_over(tmp_path: Path) -> None:
    with (tmp_path / "out.jsonl").open("wb") as file:
        file.truncate(70 << 20)
        file.seek(0, 2)
        file.write(b'\n{"n":0}\n')
    assert await absent(sink_of(tmp_path), *make_events(2)) == [(1, NOT_THERE)]


async def test_a_run_that_holds_the_file_is_not_in_the_way(tmp_path: Path) -> None:
    run = sink_of(tmp_path)
    await run.open(None)
    await run.write(make_events(3))
    await run.flush()
    await run.write(make_events(3, 3))
    assert await absent(sink_of(tmp_path), *make_events(3)) == []
    await run.close()
