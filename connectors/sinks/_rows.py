"""How events become lines: one encoder for each format of the `file` and `stdout` sinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from connectors._csv import format_row
from penstock.cloudevents import to_structured
from penstock.errors import BatchError, ComponentError, Permanent
from penstock.event import Event, decode, encode

FormatName = Literal["jsonl", "cloudevents", "csv"]
Encoder = Callable[[Event], bytes]
"""One event as one line, without its line end. Raises `Permanent`."""


def data_line(event: Event) -> bytes:
    """The data, as JSON text on one line."""
    text = event.json()
    return encode(decode(text)) if b"\n" in text else text


def envelope_line(event: Event) -> bytes:
    """The structured CloudEvent, on one line."""
    text = to_structured(event)
    if b"\n" not in text:
        return text
    return to_structured(event.replace(raw=encode(decode(event.json()))))


def line_encoder(format: FormatName) -> Encoder:
    return envelope_line if format == "cloudevents" else data_line


def lines_of(events: Sequence[Event], encoder: Encoder) -> list[bytes]:
    """One line an event, without line ends.

    :raises BatchError: naming every event that has no line; none behind the first of these counts as attempted.
    """
    if encoder is data_line:
        try:
            lines = [event.json() for event in events]
            if b"\n" not in b"".join(lines):
                return lines
        except Permanent:
            pass  # found again below, one by one
    return _one_by_one(events, encoder)


def _one_by_one(events: Sequence[Event], encoder: Encoder) -> list[bytes]:
    lines: list[bytes] = []
    failed: dict[int, ComponentError] = {}
    for index, event in enumerate(events):
        try:
            lines.append(encoder(event))
        except Permanent as error:
            failed[index] = error
    if failed:
        first = min(failed)
        raise Unencodable(lines[:first], failed, [n for n in range(first, len(events)) if n not in failed])
    return lines


class Unencodable(BatchError):
    """Some events have no line. `lines` are those before the first of them: they are still to be written."""

    def __init__(self, lines: list[bytes], failed: dict[int, ComponentError], not_attempted: Sequence[int]) -> None:
        super().__init__(failed, not_attempted=not_attempted)
        self.lines = lines


class CsvRows:
    """Encodes rows for the columns of one file; the first event names them where the file has none yet.

    :ivar header_due: the columns stand nowhere yet; whoever writes the first row writes `header` before it.
    """

    def __init__(self, columns: Sequence[str] | None) -> None:
        self._columns = columns
        self.header_due = columns is None

    @property
    def header(self) -> bytes:
        return format_row(self._columns or ()).encode() + b"\n"

    def __call__(self, event: Event) -> bytes:
        data = event.data
        if not isinstance(data, dict):
            raise Permanent("sink.csv_no_object", "a CSV row is made of an object, and the data is none")
        columns = list(map(str, data)) if self._columns is None else self._columns
        if not columns or len(data) != len(columns) or not all(column in data for column in columns):
            raise Permanent(
                "sink.csv_columns",
                "the data has other fields than the file has columns",
                why=f"columns: {', '.join(columns)}; fields: {', '.join(map(str, data))}",
                help="give every event the same fields, for example with a jq step",
            )
        row = format_row([data[column] for column in columns]).encode()
        self._columns = columns
        return row
