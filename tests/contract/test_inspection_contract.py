"""The sinks that can say what they lack, under the contract of inspections."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import zstandard

from connectors.sinks.file import FileSink, FileSinkConfig
from penstock.event import Event
from penstock.spi import Context
from penstock.testing.contracts import make_context
from penstock.testing.inspection_contract import VerifyingContract


class TestFileInspected(VerifyingContract):
    path = "out/events.jsonl"
    format = "jsonl"

    def build(self, context: Context) -> FileSink:
        return FileSink(FileSinkConfig(path=self.path, format=self.format), context)

    async def deliver(self, directory: Path, events: Sequence[Event]) -> None:
        sink = self.build(make_context(directory, component="sink"))
        await sink.open(None)
        for first in range(0, len(events), 7):
            await sink.write(events[first : first + 7])
            await sink.flush()
        await sink.close()

    async def lose(self, directory: Path, n: int) -> None:
        path = directory / self.path
        lines = self.read(path).splitlines(keepends=True)
        kept = [line for line in lines if not self.is_of(line, n)]
        assert len(kept) == len(lines) - 1
        self.write(path, b"".join(kept))

    def is_of(self, line: bytes, n: int) -> bool:
        return line == b'{"n":%d}\n' % n

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)


class TestGzipInspected(TestFileInspected):
    path = "events.jsonl.gz"

    def read(self, path: Path) -> bytes:
        return gzip.decompress(path.read_bytes())

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(gzip.compress(data))


class TestZstdInspected(TestFileInspected):
    path = "events.jsonl.zst"

    def read(self, path: Path) -> bytes:
        with zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True) as reader:
            return reader.readall()

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(zstandard.compress(data))


class TestCloudEventsInspected(TestFileInspected):
    format = "cloudevents"

    def is_of(self, line: bytes, n: int) -> bool:
        return line.endswith(b'"data":{"n":%d}}\n' % n)


class TestCsvInspected(TestFileInspected):
    path = "events.csv"
    format = "csv"

    def is_of(self, line: bytes, n: int) -> bool:
        return line == b"%d\n" % n
