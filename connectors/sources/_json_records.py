"""`json`: a file is one array, whose elements are the records, or one document, which is the record.

Elements are cut, not parsed: whether one is valid JSON is found out when somebody looks at its data, and costs only that one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum

from connectors.sources._records import BOM, Collector, Cut, Limits, Naming, Record, RecordFormat
from penstock.errors import EnvironmentFault

_SPACE = b" \t\r\n"
_WORD = re.compile(rb"[^ \t\r\n]")
_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\\]')


class _At(Enum):
    START = "before the first byte that counts"
    ELEMENT = "inside an array, at or in an element"
    BETWEEN = "inside an array, behind an element"
    DOCUMENT = "in a document"
    END = "behind the array or document"


class JsonFormat(RecordFormat):
    """Cuts array elements at their commas.

    :param offset: of the first byte fed.
    :param array: whether the file is an array; only asked where `offset` is not 0.
    """

    def __init__(self, naming: Naming, limits: Limits, offset: int = 0, *, array: bool = False) -> None:
        super().__init__(naming, limits)
        self._offset = offset
        self._at = _At.START if offset == 0 else (_At.BETWEEN if array else _At.END)
        self._record = Collector(limits.max_record)
        self._start = offset
        self._depth = 0
        self._inside = False
        self._escaped = False
        self._first = True

    def feed(self, block: bytes) -> Iterator[Cut]:
        yield from self.cuts(self._scan(block))
        self._offset += len(block)

    def finish(self) -> Iterator[Cut]:
        if self._at is _At.DOCUMENT:
            yield from self.cuts(self._close(self._offset))
            self._at = _At.END
        elif self._at in (_At.ELEMENT, _At.BETWEEN):
            raise EnvironmentFault(
                "source.truncated_json",
                f"the array in {self.naming.source} is never closed",
                where=f"{self.naming.source}, offset {self._offset}",
                help="was the file still being written? run again when it is whole",
            )

    def _scan(self, block: bytes) -> Iterator[Record]:
        at = len(BOM) if self._offset == 0 and block.startswith(BOM) else 0
        while at < len(block):
            if self._at is _At.ELEMENT:
                end = self._element(block, at)
                if end is None:
                    return
                yield from self._end_element(block[end : end + 1], self._offset + end)
                at = end + 1
            elif self._at is _At.DOCUMENT:
                self._record.add(block[at:])
                return
            else:
                word = _WORD.search(block, at)
                if word is None:
                    return
                at = self._between(word[0], word.start())

    def _between(self, word: bytes, at: int) -> int:
        """What the next byte that counts means, outside of records; where to go on."""
        if self._at is _At.START and word != b"[":
            self._at, self._start = _At.DOCUMENT, self._offset + at
            return at
        if self._at is _At.START or (self._at is _At.BETWEEN and word == b","):
            self._first = self._at is _At.START
            self._at = _At.ELEMENT
            return at + 1
        if self._at is _At.BETWEEN and word == b"]":
            self._at = _At.END
            return at + 1
        raise EnvironmentFault(
            "source.malformed_json",
            f"{self.naming.source} is not one JSON array or document",
            where=f"{self.naming.source}, offset {self._offset + at}",
            why=f"{word.decode('latin-1')!r} stands where nothing can follow",
            help="for one document a line use `format: jsonl`",
        )

    def _element(self, block: bytes, at: int) -> int | None:
        """Where the element ends: the index of its comma or bracket. None: it goes on, and all of the block was taken."""
        if not self._record.length:
            word = _WORD.search(block, at)
            if word is None:
                return None
            at = word.start()
            self._start = self._offset + at
        begin = at
        end = self._find_end(block, at)
        self._record.add(block[begin:end])
        return end

    def _find_end(self, block: bytes, at: int) -> int | None:
        while True:
            if self._inside:
                at += self._escaped
                self._escaped = False
                mark = _INSIDE.search(block, at)
                if mark is None:
                    return None
                at = mark.end()
                if mark[0] == b'"':
                    self._inside = False
                elif at < len(block):
                    at += 1
                else:
                    self._escaped = True
                    return None
                continue
            mark = _OUTSIDE.search(block, at)
            if mark is None:
                return None
            sign, at = mark[0], mark.end()
            if sign == b'"':
                self._inside = True
            elif sign in b"[{":
                self._depth += 1
            elif self._depth == 0 and sign in b",]":
                return mark.start()
            elif sign in b"]}":
                self._depth = max(0, self._depth - 1)

    def _end_element(self, sign: bytes, end: int) -> Iterator[Record]:
        closing = sign == b"]"
        if self._record.length or not (closing and self._first):
            self._start = self._start if self._record.length else end
            yield from self._close(end)
        self._first = False
        self._at = _At.END if closing else _At.ELEMENT

    def _close(self, end: int) -> Iterator[Record]:
        record = self._record.take()
        yield self._start, end, record.rstrip(_SPACE) if isinstance(record, bytes) else record
