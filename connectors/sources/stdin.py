"""The `stdin` source: records of standard input. It cannot be read again, so what a run that died had not committed is lost."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from connectors.sources._file_reader import make_format
from connectors.sources._records import Cut, Format, Limits, Naming
from penstock.config.base import ComponentConfig, Size
from penstock.errors import EnvironmentFault
from penstock.spi import Batch, Context, Resume, Token

_BLOCK = 256 << 10
_PARTITION = "stdin"


class StdinConfig(ComponentConfig):
    """Fields of the `stdin` source."""

    shorthand: ClassVar[str | None] = "format"

    format: Literal["jsonl", "csv", "json", "text"] = Field(
        "jsonl",
        description="`jsonl`: a JSON document a line. `csv`: the first row names the columns, values are strings. "
        "`json`: one array, whose elements are the records, or one document. `text`: the data is the line, a string.",
    )
    max_record: Size = Field(
        1 << 20,
        ge=1,
        description="Longest record, in bytes. A longer one becomes a dead letter that keeps 4 KiB of it; it cannot be replayed.",
        examples=["1MiB"],
    )


class StdinSource:
    """Reads standard input: lines, CSV rows or JSON documents.

    Ids are EPOCH-LINE, LINE counting the records of this run from 1. There are no positions.

    :param descriptor: where to read; for tests.
    """

    name: ClassVar[str] = "stdin"
    Config: ClassVar[type[StdinConfig]] = StdinConfig
    identity = "stdin"
    has_positions = False

    def __init__(self, config: StdinConfig, context: Context, *, descriptor: int = 0) -> None:
        self.config = config
        self.batch_count = 500
        self.batch_bytes = 1 << 20
        self._descriptor = descriptor
        self._epoch = 0
        self._records = 0
        self._blocking = False

    async def open(self, resume: Resume) -> None:
        """:raises EnvironmentFault: `source.unreadable`, where there is no standard input."""
        self._epoch = resume.epoch
        try:
            mode = os.fstat(self._descriptor).st_mode
        except OSError as error:
            raise EnvironmentFault("source.unreadable", f"cannot read standard input: {error.strerror}") from error
        self._blocking = not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(self._descriptor))

    async def batches(self) -> AsyncIterator[Batch]:
        """Batches as they come in; ends with the input.

        :raises EnvironmentFault: `source.unreadable`; `source.truncated_json` and the like, after what came before.
        """
        limits = Limits(self.batch_count, self.batch_bytes, self.config.max_record)
        format: Format = make_format(self.config.format, Naming(0, "stdin", "stdin.record"), limits)
        while block := await self._read():
            for cut in format.feed(block):
                yield self._batch(cut)
        for cut in format.finish():
            yield self._batch(cut)

    async def ack(self, tokens: Sequence[Token]) -> None:
        """Nothing to do: a pipe forgets what was read."""

    async def release(self, tokens: Sequence[Token], delay: float) -> None:
        """Nothing to do: a pipe takes nothing back."""

    async def close(self) -> None:
        """Nothing to close: standard input belongs to the process."""

    def _batch(self, cut: Cut) -> Batch:
        for event in cut.events:
            self._records += 1
            event.id, event.position = f"{self._epoch}-{self._records}", b""
        return Batch(_PARTITION, cut.events, None, self._records, cut.size, cut.rejects)

    async def _read(self) -> bytes:
        try:
            if self._blocking:
                return await asyncio.to_thread(os.read, self._descriptor, _BLOCK)
            await self._readable()
            return os.read(self._descriptor, _BLOCK)
        except OSError as error:
            raise EnvironmentFault("source.unreadable", f"cannot read standard input: {error.strerror}") from error

    async def _readable(self) -> None:
        """Wait without a thread, because one that sits in `read` could not be stopped."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._descriptor)
