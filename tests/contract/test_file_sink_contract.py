"""The file sink, in every format and compression, and the sinks that keep nothing, under the sink contract."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import zstandard

from connectors.sinks.drop import DropConfig, DropSink
from connectors.sinks.file import FileSink, FileSinkConfig
from connectors.sinks.stdout import StdoutConfig, StdoutSink
from penstock.event import Event
from penstock.spi import Context, Sink
from penstock.testing.contracts import SinkContract


def contents(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data) if data else b""
    if path.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return reader.readall()
    return data


class FileSinkContract(SinkContract):
    path = "out/deep/events.jsonl"
    format = "jsonl"

    def build(self, context: Context) -> FileSink:
        return FileSink(FileSinkConfig(path=self.path, format=self.format), context)

    async def delivered(self, sink: Sink, directory: Path) -> list[Any]:
        return [self.data(line) for line in contents(directory / self.path).splitlines()]

    def data(self, line: bytes) -> Any:
        return json.loads(line)

    def poison(self) -> Event | None:
        return Event("p", "test", "t", decoded={"n": float("nan")})


class TestJsonLines(FileSinkContract):
    pass


class TestGzip(FileSinkContract):
    path = "events.jsonl.gz"


class TestZstd(FileSinkContract):
    path = "events.jsonl.zst"


class TestCloudEvents(FileSinkContract):
    format = "cloudevents"

    def data(self, line: bytes) -> Any:
        envelope = json.loads(line)
        assert envelope["specversion"] == "1.0"
        return envelope["data"]


class TestCsv(FileSinkContract):
    path = "events.csv"
    format = "csv"

    async def delivered(self, sink: Sink, directory: Path) -> list[Any]:
        rows = csv.DictReader(contents(directory / self.path).decode().splitlines())
        return [{"n": int(row["n"])} for row in rows]

    def poison(self) -> Event | None:
        return Event("p", "test", "t", decoded={"n": 1, "other": 2})


class TestStdout(SinkContract):
    durable = False

    @pytest.fixture(autouse=True)
    def _target(self, tmp_path: Path) -> Any:
        self.descriptor = os.open(tmp_path / "stdout", os.O_RDWR | os.O_CREAT)
        yield
        os.close(self.descriptor)

    def build(self, context: Context) -> StdoutSink:
        return StdoutSink(StdoutConfig(), context, descriptor=self.descriptor)

    async def delivered(self, sink: Sink, directory: Path) -> list[Any]:
        return [json.loads(line) for line in (directory / "stdout").read_bytes().splitlines()]

    def poison(self) -> Event | None:
        return Event("p", "test", "t", decoded={"n": float("inf")})


class TestDrop(SinkContract):
    durable = False

    def build(self, context: Context) -> DropSink:
        return DropSink(DropConfig(), context)

    async def delivered(self, sink: Sink, directory: Path) -> list[Any]:
        assert isinstance(sink, DropSink)
        return [{"n": n} for n in range(sink.count)]
