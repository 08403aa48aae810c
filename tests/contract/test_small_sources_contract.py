"""The stdin and generate sources under the source contract."""

from __future__ import annotations

import os
from pathlib import Path

from connectors.sources.generate import GenerateConfig, GenerateSource
from connectors.sources.stdin import StdinConfig, StdinSource
from penstock.spi import Context
from penstock.testing.contracts import SourceContract


class TestGenerate(SourceContract):
    async def prepare(self, directory: Path, count: int) -> None:
        self.count = count

    def build(self, context: Context) -> GenerateSource:
        source = GenerateSource(GenerateConfig(count=self.count, seed=1, start="2026-01-01T00:00:00Z"), context)
        source.batch_count = 4
        return source


class TestStdin(SourceContract):
    async def prepare(self, directory: Path, count: int) -> None:
        (directory / "stdin").write_bytes(b"".join(b'{"n":%d}\n' % n for n in range(count)))

    def build(self, context: Context) -> StdinSource:
        descriptor = os.open(context.project / "stdin", os.O_RDONLY)
        source = StdinSource(StdinConfig(), context, descriptor=descriptor)
        source.batch_count = 4
        return source
