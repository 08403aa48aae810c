"""The `stdout` sink: one line an event, for people and pipes. What a reader has not read when the run dies is sent again."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import stat
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import ClassVar, Literal

from pydantic import Field

from connectors.sinks._rows import Unencodable, line_encoder, lines_of
from penstock.config.base import ComponentConfig
from penstock.errors import EnvironmentFault, Fatal
from penstock.event import Event
from penstock.spi import Context

_TURN = Lock()
"""A process has one standard output, whatever pipelines it runs: who holds this writes whole lines."""


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
        self._writer: _Writer | None = None

    async def open(self, recovered: bytes | None) -> None:
        """:raises EnvironmentFault: `sink.stdout`, where there is no standard output."""
        if self._descriptor == 1 and sys.__stdout__ is None:  # closed when Python began: another file may have its number now
            raise EnvironmentFault("sink.stdout", "cannot write to standard output: it is closed")
        try:
            self._writer = _Writer(self._descriptor)
        except OSError as error:
            raise _unwritable(error) from error

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
        """Does not wait for a reader: a write that was begun and cancelled is finished if its reader comes back."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    async def _send(self, lines: list[bytes]) -> None:
        if self._writer is None:
            raise Fatal("sink.closed", "the stdout sink is not open")
        if lines:
            await asyncio.wrap_future(self._writer.write(b"\n".join(lines) + b"\n"))


class _Writer:
    """Writes in a thread of its own, which the interpreter does not wait for at its end.

    Nobody can call off a write that waits for its reader, and standard output cannot be made non-blocking: it would be so for
    every process that shares it. So such a write is abandoned, but keeps its turn: what is written later in this process comes
    behind it. It goes to a copy of the descriptor, whose number no other file can get meanwhile.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = os.dup(descriptor)
        self._jobs: SimpleQueue[tuple[bytes, Future[None]] | None] = SimpleQueue()
        self._begun = False
        Thread(target=self._work, name="penstock-stdout-sink", daemon=True).start()

    def write(self, data: bytes) -> Future[None]:
        """Done when the system has taken all of it. Cancelled before its turn, it is not written at all."""
        written: Future[None] = Future()
        self._jobs.put((data, written))
        return written

    def close(self) -> None:
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            data, written = job
            with _TURN:
                if not written.set_running_or_notify_cancel():
                    continue
                try:
                    self._write(data)
                except Exception as error:  # supervision point of this thread: whoever waits is told
                    written.set_exception(error)
                else:
                    written.set_result(None)
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        try:
            if not self._begun and _is_in_a_line(self._descriptor):
                data = b"\n" + data
            self._begun = True
            _write_all(self._descriptor, data)
        except BrokenPipeError as error:
            raise Fatal("sink.stdout_closed", "whoever read standard output has gone") from error
        except OSError as error:
            raise _unwritable(error) from error


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody who shares it has made it non-blocking
            room = select.poll()
            room.register(descriptor, select.POLLOUT)
            room.poll()


def _is_in_a_line(descriptor: int) -> bool:
    """Whether the next byte would go on with a line that somebody began in a regular file, and died before its end.

    False where the file may be written and not read, for then nobody can tell.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return False
    appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    at = status.st_size if appends else os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        readable = os.open(f"/dev/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)  # a shell opens it for writing only
    except OSError:
        return False
    try:
        return at > 0 and os.pread(readable, 1, at - 1) not in (b"", b"\n")
    finally:
        os.close(readable)


def _unwritable(error: OSError) -> EnvironmentFault:
    return EnvironmentFault("sink.stdout", f"cannot write to standard output: {error.strerror}")
