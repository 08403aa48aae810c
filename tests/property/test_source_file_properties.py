"""Whatever the bytes, the blocks and the batch limits: records and their offsets are those of the plain definition."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors._csv import format_row, parse_row
from connectors.sources._file_reader import make_format
from connectors.sources._records import Limits, Naming
from connectors.sources.file import FileConfig, FileSource
from penstock.event import Event
from penstock.testing.contracts import events_of, make_context, read_all

NAMING = Naming(0, "file:x", "x.record")
line = st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"").removeprefix(b"\xef"))
widths = st.integers(1, 40)
field = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


def cut(kind: str, data: bytes, width: int, limits: Limits) -> tuple[list[Event], set[int]]:
    format = make_format(kind, NAMING, limits)
    events: list[Event] = []
    rejects: set[int] = set()
    sources = [format.feed(data[at : at + width]) for at in range(0, len(data), width)]
    for cuts in (*sources, format.finish()):
        for one in cuts:
            assert len(one.events) <= limits.count
            assert len(one.events) == 1 or one.size <= limits.bytes
            assert one.events[-1].position[4:] == one.end.to_bytes(8, "big")
            rejects |= {len(events) + index for index in one.rejects}
            events += one.events
    return events, rejects


@given(st.lists(line, max_size=12), st.booleans(), widths, st.integers(1, 5), st.integers(1, 30), st.integers(1, 14))
def test_lines_are_those_of_split(lines: list[bytes], ended: bool, width: int, count: int, size: int, longest: int) -> None:
    data = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    events, rejects = cut("jsonl", data, width, Limits(count, size, longest))
    assert [event.original if index in rejects else event.raw for index, event in enumerate(events)] == expected
    assert rejects == {index for index, text in enumerate(expected) if len(text) > longest}
    offset = 0
    for event, text in zip(events, expected, strict=True):
        assert event.id == f"0-{offset}"
        offset += len(text) + 1


@given(st.lists(st.lists(field, min_size=2, max_size=2), max_size=6), widths, st.booleans())
def test_csv_rows_are_those_of_the_standard_library(rows: list[list[str]], width: int, unix: bool) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n" if unix else "\r\n").writerows([["a", "b"], *rows])
    events, rejects = cut("csv", out.getvalue().encode(), width, Limits())
    assert rejects == set()
    assert [[event.data["a"], event.data["b"]] for event in events] == rows


@given(st.lists(field, min_size=2, max_size=5))
def test_a_row_that_is_written_reads_back_the_same_here_and_in_the_standard_library(values: list[str]) -> None:
    text = format_row(values)
    assert parse_row(text.encode()) == values
    assert next(csv.reader(io.StringIO(text, newline=""), strict=True)) == values


json_value = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(field, inner, max_size=3),
)


@given(st.lists(json_value, max_size=6), widths, st.sampled_from([None, 1]), st.booleans())
def test_json_array_elements_are_those_of_a_parser(
    values: list[object], width: int, indent: int | None, ascii_only: bool
) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
    events, rejects = cut("json", data, width, Limits(3, 50))
    assert rejects == set()
    assert [json.loads(event.raw or b"") for event in events] == values
    for event in events:
        start = int(event.id.removeprefix("0-"))
        assert data[start : start + len(event.raw or b"")] == event.raw


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), max_size=8), max_size=5), st.sampled_from(["", ".gz", ".zst"]), st.data())
def test_appending_between_runs_loses_and_doubles_nothing(parts: list[list[int]], suffix: str, data: st.DataObject) -> None:
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"a.jsonl{suffix}"
        path.write_bytes(b"")
        seen: list[tuple[str, int]] = []
        held = {}
        for part in parts:
            with path.open("ab") as file:
                file.write(compress(b"".join(b"%d\n" % n for n in part)))
            source = FileSource(FileConfig(paths="a.*"), make_context(Path(name)))
            source.batch_count = 3
            batches = asyncio.run(read_all(source, held))
            if batches:
                batches = batches[: data.draw(st.integers(1, len(batches)))]
                held = {batches[-1].partition: batches[-1].end}
            seen += [(event.id, event.data) for event in events_of(batches)]
        batches = asyncio.run(read_all(FileSource(FileConfig(paths="a.*"), make_context(Path(name))), held))
        seen += [(event.id, event.data) for event in events_of(batches)]
        assert [n for _, n in seen] == [n for part in parts for n in part]
        assert len({id for id, _ in seen}) == len(seen)
