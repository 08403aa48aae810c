"""Whether lines that were delivered are in the file: each at least as often as it was. Reads; the lock of a run does not matter.

JSON is compared as what it says: the same document in other words (blanks, escapes, `1.50` for `1.5`) is the same line, for what
is recomputed or was recorded may be written differently. A row of a CSV file is compared as it is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path

from connectors._csv import QUOTED, START, scan
from connectors.sinks._absences import Unclear, because, first_of
from connectors.sinks._columns import read_columns
from connectors.sinks._digests import Wanted
from connectors.sinks._file_state import MAX_UNFLUSHED
from connectors.sinks._rows import CsvRows, Encoder, FormatName, line_encoder
from connectors.sources._streams import Damaged, open_stream
from penstock.errors import EnvironmentFault, Permanent
from penstock.event import Event, decode, encode
from penstock.inspection import Absence

_BLOCK = 1 << 20
_TOO_LONG = b"\0"
"""In the place of the beginning of a line that is longer than any that the sink writes: nothing expected begins so."""


@asynccontextmanager
async def inspection(path: Path, shown: str, format: FormatName) -> AsyncIterator[FileInspection]:
    """See `Verifying`.

    :param shown: the path as it is configured.
    :raises EnvironmentFault: `sink.file`; of a CSV file also `source.csv_header`.
    """
    columns = await asyncio.to_thread(_columns, path) if format == "csv" else None
    yield FileInspection(path, shown, format, columns)


def _columns(path: Path) -> list[str] | None:
    try:
        return read_columns(path) if _is_there(path) else None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error


class FileInspection:
    """See `Inspection`.

    :param columns: of a CSV file that has some.
    """

    removes = False

    def __init__(self, path: Path, shown: str, format: FormatName, columns: Sequence[str] | None = None) -> None:
        self._path = path
        self._shown = shown
        self._is_csv = format == "csv"
        self._encoder: Encoder = CsvRows(columns) if self._is_csv else line_encoder(format)
        self._wanted = Wanted()
        self._unclear = Unclear()
        self._looked = False

    async def expect(self, tokens: Sequence[int], events: Sequence[Event]) -> None:
        """See `Inspection`."""
        digests: list[int] = []
        clear: list[int] = []
        for token, event in zip(tokens, events, strict=True):
            try:
                line = self._encoder(event)
            except Permanent as error:
                self._unclear.add(error, token)
                continue
            digests.append(hash(line if self._is_csv else _plain(line)))
            clear.append(token)
        self._wanted.add(digests, clear)

    async def absent(self) -> int:
        """See `Inspection`. Reads the file until everything is found.

        :raises EnvironmentFault: `sink.file`: it is there and cannot be read.
        """
        if not self._looked:
            self._looked = True
            self._wanted.seal()
            await self._look()
        return self._wanted.left + len(self._unclear)

    async def later(self, events: Sequence[Event]) -> None:
        """Takes no line away."""

    async def absences(self, most: int) -> tuple[int, list[Absence]]:
        """See `Inspection`."""
        count = await self.absent()
        why = f"its line is not in {self._shown}" if self._path.exists() else f"there is no {self._shown}"
        return count, first_of(most, chain(because(self._wanted.missing(), why), self._unclear.found()))

    async def _look(self) -> None:
        blocks = self._blocks()
        while self._wanted.left and await asyncio.to_thread(next, blocks, False):
            pass
        blocks.close()

    def _blocks(self) -> Generator[bool, None, None]:
        """Look through the file; gives way after each block. Blocking."""
        try:
            if not _is_there(self._path):
                return
            stream = open_stream(self._path, self._path.suffix)
        except OSError as error:
            raise _unreadable(self._path, error.strerror or str(error)) from error
        lines = _Rows() if self._is_csv else _Lines()
        try:
            while block := stream.read(_BLOCK):
                self._see(lines.feed(block))
                yield True
            self._see(lines.finish())
        except Damaged as error:
            raise _unreadable(self._path, str(error)) from error
        except OSError as error:
            raise _unreadable(self._path, error.strerror or str(error)) from error
        finally:
            stream.close()

    def _see(self, lines: Sequence[bytes]) -> None:
        see = self._wanted.see
        for line in lines:
            if not see(hash(line)) and not self._is_csv:
                plain = _plain(line)
                if plain != line:
                    see(hash(plain))


class _Lines:
    """Blocks to lines."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held = 0

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that end in it."""
        first, *others = block.split(b"\n")
        self._pieces.append(first)
        self._held += len(first)
        if self._held > MAX_UNFLUSHED:  # Invariant 8
            self._pieces, self._held = [_TOO_LONG], 0
        if not others:
            return []
        line, rest = b"".join(self._pieces), others.pop()
        self._pieces, self._held = [rest], len(rest)
        return [line, *others]

    def finish(self) -> list[bytes]:
        """The last line, whether or not it is ended: somebody may have edited the file."""
        return [b"".join(self._pieces)]


class _Rows(_Lines):
    """Blocks to rows of CSV, which may hold line ends in quotes."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: list[bytes] = []
        self._size = 0

    def feed(self, block: bytes) -> list[bytes]:
        return self._rows(super().feed(block))

    def finish(self) -> list[bytes]:
        rows = self._rows(super().finish())
        return [*rows, *self._begun]

    def _rows(self, lines: list[bytes]) -> list[bytes]:
        rows: list[bytes] = []
        for line in lines:
            self._size += len(line)
            state = scan(line, QUOTED if self._begun else START)
            if state == QUOTED and self._size <= MAX_UNFLUSHED:  # Invariant 8
                self._begun.append(line)
                continue
            rows.append(b"\n".join([*self._begun, line]) if self._begun else line)
            self._begun, self._size = [], 0
        return rows


def _plain(line: bytes) -> bytes:
    """The document as it is written here; what is none as it is."""
    try:
        return encode(decode(line))
    except Permanent:
        return line


def _is_there(path: Path) -> bool:
    """:raises EnvironmentFault: `sink.file`: something else is."""
    if path.exists() and not path.is_file():
        raise EnvironmentFault("sink.file", f"{path} is no regular file")
    return path.exists()


def _unreadable(path: Path, why: str) -> EnvironmentFault:
    return EnvironmentFault("sink.file", f"cannot read {path}", why=why)
