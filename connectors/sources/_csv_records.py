"""`csv`: the first row names the columns, every other row is a record: an object of strings."""

from __future__ import annotations

from collections.abc import Iterator

from connectors._csv import QUOTED, START, parse_row, scan
from connectors.sources._records import BOM, Collector, Cut, Limits, Naming, Record, RecordFormat, Skipped
from penstock.errors import EnvironmentFault, Permanent
from penstock.event import Event


class CsvFormat(RecordFormat):
    """Rows may hold line ends inside quotes. A row with more or fewer fields than there are columns is refused.

    :param header: the columns, where reading does not begin at the start of the file; None: the first row names them.
    :param continued: as for `LineFormat`.
    """

    def __init__(
        self, naming: Naming, limits: Limits, offset: int = 0, *, header: list[str] | None = None, continued: bool = False
    ) -> None:
        super().__init__(naming, limits, continued=continued)
        self.header = header
        self._start = offset
        self._state = START
        self._row = Collector(limits.max_record)

    def feed(self, block: bytes) -> Iterator[Cut]:
        yield from self.cuts(self._rows(block))

    def finish(self) -> Iterator[Cut]:
        if self._row.length:
            yield from self.cuts(self._close(0))

    def decode(self, start: int, end: int, record: bytes) -> Event:
        header = self.header or []
        if not record and len(header) > 1:
            raise Permanent("decode.empty", "the row is empty", help=f"{len(header)} fields were expected")
        values = parse_row(record)
        if len(values) != len(header):
            raise Permanent(
                "source.csv_fields",
                f"the row has {len(values)} fields, and there are {len(header)} columns",
                help="quote fields that hold commas",
            )
        return self.naming.event(start, end, decoded=dict(zip(header, values, strict=True)), original=record)

    def _rows(self, block: bytes) -> Iterator[Record]:
        pieces = block.split(b"\n")
        last = pieces.pop()
        for piece in pieces:
            self._row.add(piece)
            self._state = scan(piece, self._state)
            if self._state == QUOTED:
                self._row.add(b"\n")
            else:
                yield from self._close(1)
        self._row.add(last)
        self._state = scan(last, self._state)

    def _close(self, terminated: int) -> Iterator[Record]:
        """The row that is complete; none where it was the header, or only the end of a line read before."""
        row = self._row.take()
        start, span = self._start, row.span if isinstance(row, Skipped) else len(row)
        end = self._start = start + span + terminated
        self._state = START
        if isinstance(row, bytes) and row[-1:] == b"\r":
            row = row[:-1]
        if self.header is None:
            self.header = self._columns(row)
        elif not (self._continued and not row):
            yield start, end, row
        self._continued = False  # only now: `_event` is called for this row before the next one is asked for

    def _columns(self, row: bytes | Skipped) -> list[str]:
        why = None
        try:
            columns = [] if isinstance(row, Skipped) else parse_row(row.removeprefix(BOM))
        except Permanent as error:
            columns, why = [], error.message
        if not columns or len(set(columns)) < len(columns):
            raise EnvironmentFault(
                "source.csv_header",
                f"the first row of {self.naming.source} does not name columns",
                why=why or ("two columns have the same name" if columns else "it is longer than max_record"),
                help="the first row of a CSV file names its columns, each once",
            )
        return columns
