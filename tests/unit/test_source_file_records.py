"""How bytes become records: line ends, records that are too long, CSV and JSON."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import zstandard

from connectors.sources._file_reader import make_format
from connectors.sources._records import Limits, LineFormat, Naming
from connectors.sources._streams import open_stream
from penstock.errors import EnvironmentFault, Oversized
from penstock.event import Event

NAMING = Naming(3, "file:a.x", "a.record")


def read(kind: str, *blocks: bytes, limits: Limits | None = None) -> tuple[list[Event], dict[int, Any]]:
    events: list[Event] = []
    rejects: dict[int, Any] = {}
    format = make_format(kind, NAMING, limits or Limits())
    for cuts in (*map(format.feed, blocks), format.finish()):
        for cut in cuts:
            rejects.update({len(events) + index: error for index, error in cut.rejects.items()})
            events += cut.events
    return events, rejects


def test_a_line_becomes_an_event_with_its_offsets_and_undecoded_bytes() -> None:
    events, rejects = read("jsonl", b'{"a":1}\n{"a"', b":2}\n")
    assert [(e.id, e.source, e.type, e.raw, e.position) for e in events] == [
        ("3-0", "file:a.x", "a.record", b'{"a":1}', bytes([0, 0, 0, 3]) + (8).to_bytes(8, "big")),
        ("3-8", "file:a.x", "a.record", b'{"a":2}', bytes([0, 0, 0, 3]) + (16).to_bytes(8, "big")),
    ]
    assert rejects == {}


def test_windows_line_ends_and_a_byte_order_mark_are_not_part_of_a_record() -> None:
    events, _ = read("jsonl", b"\xef\xbb\xbf1\r", b"\n2\r\n3\r")
    assert [(e.id, e.raw) for e in events] == [("3-0", b"1"), ("3-6", b"2"), ("3-9", b"3")]


def test_an_empty_line_is_a_record_but_not_what_is_behind_the_last_line_end() -> None:
    events, _ = read("jsonl", b"1\n\n2\n")
    assert [e.raw for e in events] == [b"1", b"", b"2"]


def test_invalid_json_is_left_for_whoever_decodes_it() -> None:
    events, rejects = read("jsonl", b"{nope\n")
    assert events[0].raw == b"{nope"
    assert rejects == {}


@pytest.mark.parametrize("width", [1, 7, 5000, 100_000])
def test_a_record_that_is_too_long_keeps_its_head_length_and_digest_whatever_the_blocks(width: int) -> None:
    long = b"x" * 60_000 + b"\r"
    data = b"1\n" + long + b"\n2\n"
    blocks = [data[at : at + width] for at in range(0, len(data), width)]
    events, rejects = read("jsonl", *blocks, limits=Limits(max_record=10_000))
    assert [(e.id, e.raw) for e in events] == [("3-0", b"1"), ("3-2", None), ("3-60004", b"2")]
    assert events[1].original == long[:4096]
    error = rejects[1]
    assert isinstance(error, Oversized)
    assert (error.code, error.length) == ("source.record_too_long", 60_000)
    assert error.digest == blake2b(long[:-1], digest_size=16).hexdigest()


def test_a_record_of_exactly_the_limit_is_taken() -> None:
    events, rejects = read("jsonl", b"x" * 10 + b"\r\n" + b"y" * 11 + b"\n", limits=Limits(max_record=10))
    assert events[0].raw == b"x" * 10
    assert set(rejects) == {1}


def test_memory_stays_flat_while_a_long_line_is_skipped() -> None:
    format = LineFormat(NAMING, Limits(max_record=1000))
    for _ in range(200):
        assert list(format.feed(b"x" * 50_000)) == []
    held = format._held
    assert held.length == 10_000_000
    assert held._pieces == []
    (cut,) = format.feed(b"\n")
    error = cut.rejects[0]
    assert isinstance(error, Oversized)
    assert (error.length, cut.end) == (10_000_000, 10_000_001)


def test_cuts_keep_to_count_and_bytes_but_never_split_a_record() -> None:
    format = LineFormat(NAMING, Limits(count=3, bytes=20))
    cuts = list(format.feed(b"1\n2\n3\n4\n" + b"x" * 30 + b"\n5\n6\n"))
    assert [[e.raw for e in cut.events] for cut in cuts] == [[b"1", b"2", b"3"], [b"4"], [b"x" * 30], [b"5"], [b"6"]]
    assert [cut.end for cut in cuts] == [6, 8, 39, 41, 43]


def test_a_line_end_that_comes_after_its_record_was_read_only_ends_that_line() -> None:
    format = LineFormat(NAMING, Limits(), 7, continued=True)
    (cut,) = format.feed(b"\r\n2\n")
    assert [(e.id, e.raw) for e in cut.events] == [("3-9", b"2")]


def test_the_rest_of_a_line_whose_beginning_was_a_record_is_refused() -> None:
    format = LineFormat(NAMING, Limits(), 7, continued=True)
    (cut,) = format.feed(b"rest\n2\n")
    assert [(e.id, e.raw) for e in cut.events] == [("3-7", None), ("3-12", b"2")]
    assert {index: error.code for index, error in cut.rejects.items()} == {0: "source.continued_line"}


def test_text_is_the_line_and_what_is_not_utf8_is_refused() -> None:
    events, rejects = read("text", "é\n".encode() + b"\xff\n\n")
    assert [e.decoded for e in events if e.decoded.__class__ is str] == ["é", ""]
    assert {index: error.code for index, error in rejects.items()} == {1: "decode.invalid_utf8"}
    assert events[1].original == b"\xff"


def test_csv_rows_are_objects_of_strings_with_their_bytes_kept() -> None:
    events, rejects = read("csv", b'\xef\xbb\xbfa,"b\n2"\n1,"x, ""y""\nz', b'"\r\n,5" pipe\n')
    assert [e.decoded for e in events] == [{"a": "1", "b\n2": 'x, "y"\nz'}, {"a": "", "b\n2": '5" pipe'}]
    assert [e.original for e in events] == [b'1,"x, ""y""\nz"', b',5" pipe']
    assert rejects == {}


def test_csv_rows_that_do_not_fit_are_refused_one_by_one() -> None:
    events, rejects = read("csv", b'a,b\n1\n1,2\n1,2,3\n\n"x"y,2\n3,4\n\xff,1\n5,"open\n')
    assert [e.decoded for i, e in enumerate(events) if i not in rejects] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert {index: error.code for index, error in rejects.items()} == {
        0: "source.csv_fields",
        2: "source.csv_fields",
        3: "decode.empty",
        4: "source.csv_quoting",
        6: "decode.invalid_utf8",
        7: "source.csv_quoting",
    }


def test_a_csv_file_whose_columns_have_one_name_twice_stops() -> None:
    with pytest.raises(EnvironmentFault, match="does not name columns") as caught:
        read("csv", b"a,a\n1,2\n")
    assert caught.value.code == "source.csv_header"


@pytest.mark.parametrize("width", [1, 2, 3, 1000])
def test_json_array_elements_are_records(width: int) -> None:
    data = b' [ {"a": "]\\"},["} , [1,\n[2]],3 ,"x", nope]\n'
    events, _ = read("json", *(data[at : at + width] for at in range(0, len(data), width)))
    assert [e.raw for e in events] == [b'{"a": "]\\"},["}', b"[1,\n[2]]", b"3", b'"x"', b"nope"]
    assert [int(e.id.split("-")[1]) for e in events] == [data.index(e.raw) for e in events if e.raw]


def test_empty_arrays_have_no_records_and_empty_elements_are_records() -> None:
    assert read("json", b" [ ] ")[0] == []
    assert read("json", b"")[0] == []
    events, _ = read("json", b"[1,,2,]")
    assert [e.raw for e in events] == [b"1", b"", b"2", b""]
    assert len({e.position for e in events}) == 4


def test_a_json_document_is_one_record() -> None:
    events, _ = read("json", b'\n{"a":\n', b"1}\n")
    assert [(e.id, e.raw) for e in events] == [("3-1", b'{"a":\n1}')]


def test_a_json_element_that_is_too_long_is_refused_and_its_neighbours_are_not() -> None:
    events, rejects = read("json", b'[1,"' + b"x" * 50, b"x" * 50 + b'",2]', limits=Limits(max_record=20))
    assert [e.raw for e in events] == [b"1", None, b"2"]
    assert (rejects[1].code, rejects[1].length) == ("source.record_too_long", 102)


@pytest.mark.parametrize(("data", "code"), [(b"[1,2", "source.truncated_json"), (b"[1,2] 3", "source.malformed_json")])
def test_what_comes_before_the_break_of_a_json_file_is_read(data: bytes, code: str) -> None:
    format = make_format("json", NAMING, Limits())
    cuts = chain(format.feed(data), format.finish())
    raws: list[bytes | None] = []
    with pytest.raises(EnvironmentFault) as caught:
        raws.extend(event.raw for cut in cuts for event in cut.events)
    assert caught.value.code == code
    assert raws == ([b"1"] if code == "source.truncated_json" else [b"1", b"2"])


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_a_small_compressed_file_cannot_fill_the_memory(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(compress(bytes(64 << 20)))
    stream = open_stream(path, suffix)
    held = total = 0
    while block := stream.read(1 << 20):
        assert len(block) <= 1 << 20
        total += len(block)
        held = max(held, len(stream._ready))
    stream.check_end()
    stream.close()
    assert total == stream.offset == 64 << 20
    assert held <= 9 << 20
