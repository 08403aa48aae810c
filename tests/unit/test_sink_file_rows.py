"""What the file and stdout sinks write for an event, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from connectors.sinks._rows import CsvRows, Unencodable, data_line, envelope_line, lines_of
from connectors.sinks.file import FileSinkConfig
from penstock.errors import Permanent
from penstock.event import Event, decode


def event(data: Any = None, raw: bytes | None = None) -> Event:
    return Event("1", "s", "t", raw=raw, **({} if raw is not None else {"decoded": data}))


def test_raw_text_goes_out_as_it_came_in() -> None:
    assert lines_of([event(raw=b'{"a": 1.0}'), event(raw=b"12345678901234567890123")], data_line) == [
        b'{"a": 1.0}',
        b"12345678901234567890123",
    ]


@pytest.mark.parametrize("encoder", [data_line, envelope_line])
def test_raw_text_over_several_lines_becomes_one_line(encoder: Any) -> None:
    (line,) = lines_of([event(raw=b'{\n "a": 1180591620717411303424}')], encoder)
    assert b"\n" not in line
    data = decode(line) if encoder is data_line else decode(line)["data"]
    assert data == {"a": 2**70}


def test_bytes_are_no_json_and_only_a_whole_event_can_carry_them() -> None:
    image = Event("1", "s", "t", decoded=b"\x89PNG", datacontenttype="image/png")
    with pytest.raises(Unencodable) as caught:
        lines_of([image], data_line)
    assert (caught.value.failed[0].code, caught.value.failed[0].message) == (
        "encode.not_json",
        "the data is no JSON, but 4 bytes of image/png",
    )
    assert decode(*lines_of([image], envelope_line))["data_base64"] == "iVBORw=="


def test_every_event_without_a_line_is_named_and_only_those_before_the_first_count_as_taken() -> None:
    nan = float("nan")
    with pytest.raises(Unencodable) as caught:
        lines_of([event(0), event(nan), event(2), event(nan)], data_line)
    assert (caught.value.lines, set(caught.value.failed), caught.value.not_attempted) == ([b"0"], {1, 3}, [2])
    assert caught.value.failed[1].code == "encode.not_json"


def test_csv_tells_null_from_empty_and_quotes_what_must_be() -> None:
    rows = CsvRows(None)
    line = rows(event({"a": None, "b": "", "c": 'x,"y"', "d": [1, {"e": None}], "f": True, "g": 1.5}))
    assert rows.header == b"a,b,c,d,f,g\n"
    assert line == b',"","x,""y""","[1,{""e"":null}]",true,1.5'


@pytest.mark.parametrize(
    ("data", "code"),
    [({"a": 1}, "sink.csv_columns"), ({"a": 1, "b": 2, "c": 3}, "sink.csv_columns"), ([1], "sink.csv_no_object")],
)
def test_csv_refuses_other_fields_than_its_columns(data: Any, code: str) -> None:
    with pytest.raises(Permanent) as caught:
        CsvRows(["a", "b"])(event(data))
    assert caught.value.code == code


@pytest.mark.parametrize("path", ["out/{{ .type }}.jsonl", "out/", ""])
def test_a_path_that_names_no_single_file_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        FileSinkConfig(path=path)
