"""The `file` sink: appends lines to a file, exactly once on a local file system.

The file has its final name at birth. Everything since the last commit is behind the committed length, which the ledger holds, and
recovery cuts it off. Order of calls and what a failure means: `penstock.spi.Sink` and `Revertible`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import ClassVar, TypeVar

from pydantic import Field, field_validator

from connectors.sinks import _file_inspection
from connectors.sinks._appender import Appender, disk_error
from connectors.sinks._columns import read_columns
from connectors.sinks._file_state import MAX_UNFLUSHED, FileState, decode_state, shorter, tail_too_large
from connectors.sinks._rows import CsvRows, Encoder, FormatName, Unencodable, line_encoder, lines_of
from penstock.config.base import ComponentConfig, ProjectPath
from penstock.errors import BatchError, ComponentError, Fatal, Permanent, Unavailable
from penstock.event import Event
from penstock.places import look_at_file, look_at_room
from penstock.spi import Context, Finding, Inspection, Position

T = TypeVar("T")


class FileSinkConfig(ComponentConfig):
    """Fields of the `file` sink."""

    shorthand: ClassVar[str | None] = "path"

    path: ProjectPath = Field(
        description="The file, relative to the project; created with its directories, appended to where it exists. "
        "`.gz` and `.zst` are compressed.",
        examples=["out/orders.jsonl"],
    )
    format: FormatName = Field(
        "jsonl",
        description="`jsonl`: the data, a JSON document a line. `cloudevents`: the whole event in structured mode, one a line. "
        "`csv`: the first event names the columns, and an event with other fields becomes a dead letter.",
    )

    @field_validator("path")
    @classmethod
    def _one_file(cls, path: str) -> str:
        # Invariant 12: nothing of an event becomes a part of the path
        if "{{" in path or path.endswith("/"):
            raise ValueError("must name one file: templates and directories are not supported")
        return path


class FileSink:
    """Appends events to a file, as JSON lines, CloudEvents or CSV, plain or compressed.

    :ivar max_unflushed_bytes: past it `write` takes no more until the next `flush`.
    """

    name: ClassVar[str] = "file"
    Config: ClassVar[type[FileSinkConfig]] = FileSinkConfig

    def __init__(self, config: FileSinkConfig, context: Context) -> None:
        self.config = config
        self.context = context
        self.max_unflushed_bytes = MAX_UNFLUSHED
        self._file = Appender(context.project / config.path)
        self._encoder: Encoder = line_encoder(config.format)
        self._thread: ThreadPoolExecutor | None = None
        self._found = 0
        self._flushed = 0
        self._pending = 0
        self._failed = False
        self._open_done = False
        self._lead = b""
        self._rows: CsvRows | None = None

    async def examine(self, checkpoint: Mapping[str, Position]) -> list[Finding]:
        """See `Examined`."""
        path = self.context.project / self.config.path
        return [look_at_file(path, "sink.place", "the file"), look_at_room(path, "sink.room")]

    def inspection(self) -> AbstractAsyncContextManager[Inspection]:
        """See `Verifying`: each line is looked for as often as it was delivered."""
        return _file_inspection.inspection(self._file.path, self.config.path, self.config.format)

    async def open(self, recovered: bytes | None) -> None:
        """Take the file and cut off what was never committed. Without `recovered`, call `flush` next and commit what it returns
        before the first write: it holds the length found here, which recovery needs.

        :raises EnvironmentFault: `sink.file_held`, `sink.file_symlink`, `sink.file_shorter`, `sink.file_tail_too_large`,
            `sink.unknown_state`, `sink.file`.
        """
        self._thread = ThreadPoolExecutor(1, "penstock-file-sink")
        try:
            await self._run(partial(self._open, recovered))
        except BaseException:
            await self.close()
            raise

    async def write(self, events: Sequence[Event]) -> None:
        """Append. Not durable before `flush`.

        :raises BatchError: events that have no line, or are longer than `max_unflushed_bytes`, fail; those for which there is
            no room before the next `flush` are `not_attempted`.
        :raises Unavailable: the disk is full or failing. Call `rollback`, then write again everything since the last `flush`.
        """
        try:
            lines, refused = lines_of(events, self._encoder), None
        except Unencodable as error:
            lines, refused = error.lines, error
        room = self._fitting(lines)
        if room:
            await self._run(partial(self._append, lines[:room]))
        if room < len(lines):
            raise self._no_room(lines, room, len(events))
        if refused is not None:
            raise refused

    async def flush(self) -> bytes | None:
        """End the compressed frame and make everything durable; the state to be committed with it.

        :raises Unavailable: as for `write`; an fsync that failed is never tried again on the same data.
        """
        return await self._run(self._flush)

    async def rollback(self, recovered: bytes | None = None) -> None:
        """Cut the file back to the `flush` that returned `recovered`, or to the last one that succeeded.

        :raises Unavailable: not possible for now; call again.
        """
        await self._run(partial(self._rollback, recovered))

    async def conclude(self) -> bytes | None:
        """See `Concluding`: from now on nothing in the file is this run's but what was committed."""
        return await self._run(lambda: self._state(ended=True))

    async def close(self) -> None:
        """Gives the file up. What was not flushed is cut off, where the disk lets it."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
        finally:
            thread.shutdown(wait=False)

    def _open(self, recovered: bytes | None) -> None:
        path = self._file.path
        state = decode_state(recovered, path) if recovered else None
        if state is not None and state.name != self.config.path:
            state = self._renamed(state)
        if state is not None and state.committed and not path.exists():
            raise shorter(path, 0, state.committed)
        self._file.open()
        length = self._file.length
        if state is None or (state.ended and length >= state.committed):  # what others wrote since stays
            self._found = length
            self._cut(length)
            return
        if length > state.committed and not state.is_tail(length):
            raise tail_too_large(path, length - state.committed)
        self._found = state.found
        self._cut(state.committed)

    def _renamed(self, state: FileState) -> FileState | None:
        """The sink has another path now: the state goes with a file that was moved; else the old file is cut back, and the
        new one begins where it stands."""
        path, old = self._file.path, self.context.project / state.name
        if path.exists() and not path.is_symlink():
            status = path.stat()
            if (status.st_dev, status.st_ino) == (state.device, state.inode):
                return state
        if old.is_file() and not old.is_symlink() and state.is_tail(old.stat().st_size):
            former = Appender(old)
            former.open()
            try:
                former.cut(state.committed)
            finally:
                former.close()
        return None

    def _cut(self, length: int) -> None:
        with self._failing():
            self._file.cut(length)
            self._lead = b"" if self._file.ends_line() else b"\n"
        if self.config.format == "csv":
            self._encoder = self._rows = CsvRows(read_columns(self._file.path) if length else None)
        self._flushed, self._pending, self._failed, self._open_done = length, 0, False, True

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Whatever goes wrong in here leaves a file that has to be cut back."""
        try:
            yield
        except OSError as error:
            self._failed = True
            raise disk_error(self._file.path, error) from error
        except ComponentError:
            self._failed = True
            raise

    def _fitting(self, lines: list[bytes]) -> int:
        """How many lines may still be appended before the next flush."""
        room = self.max_unflushed_bytes - self._pending  # Invariant 8
        if sum(map(len, lines)) + len(lines) <= room:
            return len(lines)
        for count, line in enumerate(lines):
            room -= len(line) + 1
            if room < 0:
                return count
        return len(lines)

    def _no_room(self, lines: list[bytes], room: int, events: int) -> BatchError:
        failed: dict[int, ComponentError] = {}
        if len(lines[room]) + 1 > self.max_unflushed_bytes:
            failed[room] = Permanent(
                "sink.output_too_long",
                f"the output is longer than a file takes at once ({self.max_unflushed_bytes} bytes)",
                help="split it, or keep large contents elsewhere and send a reference",
            )
        return BatchError(failed, not_attempted=range(room + len(failed), events))

    def _append(self, lines: list[bytes]) -> None:
        self._check_whole()
        header = self._rows.header if self._rows is not None and self._rows.header_due else b""
        data = b"\n".join([self._lead + header + lines[0], *lines[1:]]) + b"\n"
        with self._failing():
            self._pending += len(data)
            if self.context.faults.armed:
                half = len(data) // 2
                self._file.append(data[:half])
                self.context.faults.hit("inside_sink_write")
                data = data[half:]
            self._file.append(data)
        self._lead = b""
        if self._rows is not None:
            self._rows.header_due = False

    def _flush(self) -> bytes:
        self._check_whole()
        if self._pending:
            with self._failing():
                self._file.seal()
            self._flushed, self._pending = self._file.length, 0
        return self._state(ended=False)

    def _state(self, *, ended: bool) -> bytes:
        return FileState(self.config.path, self._flushed, self._found, *self._file.inode(), ended=ended).encode()

    def _rollback(self, recovered: bytes | None) -> None:
        state = decode_state(recovered, self._file.path) if recovered else None
        self._cut(self._flushed if state is None else state.committed)

    def _close(self) -> None:
        try:
            if self._open_done:
                self._file.trim(self._flushed)
        except OSError:
            pass  # the next `open` cuts the same bytes off, or says why it cannot
        finally:
            self._open_done = False
            self._file.close()

    def _check_whole(self) -> None:
        if self._failed:
            raise Unavailable("sink.disk", f"{self._file.path} has to be cut back first", why="an earlier write failed")

    async def _run(self, call: Callable[[], T]) -> T:
        if self._thread is None:
            raise Fatal("sink.closed", "the file sink is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
