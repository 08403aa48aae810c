"""The `stdout` sink: one line an event, for people and pipes. What a reader has not read when the run dies is sent again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Literal

from pydantic import Field

from connectors.sinks._rows import Unencodable, line_encoder, lines_of
from penstock.config.base import ComponentConfig
from penstock.errors import EnvironmentFault, Fatal
from penstock.event import Event
from penstock.spi import Context


class StdoutConfig(ComponentConfig):
    """Fields of the `stdout` sink."""

    shorthand: ClassVar[str | None] = "format"

    format: Literal["jsonl", "cloudevents"] = Field(
        "jsonl", description="`jsonl`: the data. `cloudevents`: the whole event in structured mode. One line each."
    )


class StdoutSink:
    """Writes a line an event to standard output.

    :param descriptor: where to write; for tests.
    """

    name: ClassVar[str] = "stdout"
    Config: ClassVar[type[StdoutConfig]] = StdoutConfig

    def __init__(self, config: StdoutConfig, context: Context, *, descriptor: int = 1) -> None:
        self._encoder = line_encoder(config.format)
        self._descriptor = descriptor
        self._thread: ThreadPoolExecutor | None = None

    async def open(self, recovered: bytes | None) -> None:
        self._thread = ThreadPoolExecutor(1, "penstock-stdout-sink")

    async def write(self, events: Sequence[Event]) -> None:
        """Blocks nothing but this pipeline while the reader is slow.

        :raises BatchError: some events have no JSON form.
        :raises Fatal: `sink.stdout_closed`, where the reader has gone.
        """
        try:
            await self._send(lines_of(events, self._encoder))
        except Unencodable as error:
            await self._send(error.lines)
            raise

    async def flush(self) -> bytes | None:
        """Nothing is kept back: every write has gone to the system when it returns."""
        return None

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)

    async def _send(self, lines: list[bytes]) -> None:
        if self._thread is None:
            raise Fatal("sink.closed", "the stdout sink is not open")
        if lines:
            data = b"\n".join(lines) + b"\n"
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError as error:
            raise Fatal("sink.stdout_closed", "whoever read standard output has gone") from error
        except OSError as error:
            raise EnvironmentFault("sink.stdout", f"cannot write to standard output: {error.strerror}") from error
