"""The `file` source: lines, CSV rows or JSON documents of files that globs name, once or followed as they grow.

A partition is a path as first seen; its position is (generation, offset behind the last record), its generations are the files
that stood at that path one after the other. How a file is recognised stands in `_marks`; when a generation ends, in `_file_open`;
what is open and what was read, in `_file_partitions`. Here is the order in which files have their turn.

One thread does everything that touches the disk, one call at a time, so that closing waits for a read under way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from connectors.sources._file_discovery import Discovery
from connectors.sources._file_open import Opener
from connectors.sources._file_partitions import Partitions
from connectors.sources._file_range import PastFiles
from connectors.sources._file_reader import Reader
from connectors.sources._marks import Known, from_position, order_text, restarted
from connectors.sources._records import Limits
from penstock.config.base import ComponentConfig, ProjectPath, Size
from penstock.errors import EnvironmentFault, Fatal
from penstock.event import Event
from penstock.spi import Batch, Context, Finding, Position, Resume, Token

POLL = 0.25
"""Seconds between two looks at followed files that had nothing new."""

ROTATION_WAIT = 2.0
"""Seconds without a new byte after which a renamed file counts as finished: a writer may hold it open for a while."""

_TURN = 16
"""Blocks read of one followed file before the others have their turn."""

T = TypeVar("T")
RecordFormatName = Literal["jsonl", "csv", "json", "text"]


def _to_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Patterns = Annotated[
    tuple[ProjectPath, ...],
    BeforeValidator(_to_tuple),
    Field(min_length=1),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
            ],
            "examples": ["data/*.jsonl"],
        }
    ),
]


class FileConfig(ComponentConfig):
    """Fields of the `file` source."""

    shorthand: ClassVar[str | None] = "paths"

    paths: Patterns = Field(
        description="Paths or globs (`*`, `?`, `[a-z]`, `**`), relative to the project; files are read in the order of their "
        "names. `.gz` and `.zst` are decompressed. What cannot be read, or has a name that is not UTF-8, ends the run with "
        "`source.unreadable` after everything else was read."
    )
    format: RecordFormatName = Field(
        "jsonl",
        description="`jsonl`: a JSON document a line. `csv`: the first row names the columns, values are strings. "
        "`json`: the file is one array, whose elements are the records, or one document. `text`: the data is the line, a string.",
    )
    follow: bool = Field(
        False,
        description="Go on reading as files grow, are rotated, and new ones appear. A last line without a line end waits for it; "
        "without `follow` it is a record.",
    )
    max_record: Size = Field(
        1 << 20,
        ge=1,
        description="Longest record, in bytes. A longer one becomes a dead letter that keeps its first 4 KiB, its length and its "
        "digest, and is replayed by reading it again.",
        examples=["1MiB"],
    )

    @model_validator(mode="after")
    def _json_ends(self) -> FileConfig:
        if self.follow and self.format == "json":
            raise ValueError("a `json` file is read when it is whole and cannot be followed; use `format: jsonl`")
        return self


class FileSource:
    """Reads files: lines, CSV rows or JSON documents, plain or compressed, once or followed."""

    name: ClassVar[str] = "file"
    Config: ClassVar[type[FileConfig]] = FileConfig
    has_positions = True

    def __init__(self, config: FileConfig, context: Context) -> None:
        self.config = config
        self.context = context
        self.batch_count = 500
        self.batch_bytes = 1 << 20
        self._once = True
        self._partitions = self._made({})
        self._thread: ThreadPoolExecutor | None = None
        self._past: PastFiles | None = None

    @staticmethod
    def position_text(order: bytes) -> str:
        """See `Legible`."""
        return order_text(order)

    def restart(self, partition: str, position: Position) -> Position:
        """See `Restartable`."""
        return restarted(partition, position)

    @property
    def identity(self) -> str:
        return "file:" + ",".join(self.config.paths)

    async def examine(self, checkpoint: Mapping[str, Position]) -> list[Finding]:
        """See `Examined`."""
        return await asyncio.to_thread(self._examine)

    def _examine(self) -> list[Finding]:
        project = self.context.project
        names = Discovery(project, self.config.paths).scan((), strict=not self.config.follow)
        closed = [name for name in names if not os.access(project / name, os.R_OK)]
        readable = len(names) - len(closed)
        found = [Finding("ok", "source.files", f"{readable:,} file{'s' if readable != 1 else ''} can be read")]
        return found + [
            Finding("error", "source.files", f"{name} may not be read", help=f"chmod u+r {project / name}, or run as its owner")
            for name in closed
        ]

    async def open(self, resume: Resume) -> None:
        """Finds the files; reads nothing of them yet.

        :raises EnvironmentFault: `source.no_files`, where a pattern matches nothing and files are not followed;
            `source.unknown_checkpoint`.
        """
        self._once = resume.once or not self.config.follow
        self._partitions = self._made(_known(resume.positions))
        self._thread = ThreadPoolExecutor(1, "penstock-file-source")
        await self._run(self._partitions.survey)

    def _made(self, known: dict[str, Known]) -> Partitions:
        return Partitions(*self._tools(), known, follow=self.config.follow, once=self._once)

    def _tools(self) -> tuple[Opener, Discovery]:
        limits = Limits(self.batch_count, self.batch_bytes, self.config.max_record)
        opener = Opener(self.context.project, self.config.format, limits)
        return opener, Discovery(self.context.project, self.config.paths)

    async def batches(self) -> AsyncIterator[Batch]:
        """Batches file by file; followed, in turn.

        :raises EnvironmentFault: after all else was read: `source.unreadable`, `source.vanished`, `source.truncated_gzip` (or
            `_zstd`, `_json`).
        :raises Fatal: `source.rewritten`.
        """
        async for batch in self._read_once() if self._once else self._follow():
            yield batch

    async def read_range(self, span: tuple[datetime, datetime] | None, known: Mapping[str, Position]) -> AsyncIterator[Batch]:
        """See `RangeSource`: all that the files hold, for lines have no time of their own. Rotated files have the generation that
        the checkpoint says.

        :raises EnvironmentFault: as `batches`, after all else was read; `source.unknown_checkpoint`.
        :raises Fatal: `source.rewritten`.
        """
        self._past = past = PastFiles(*self._tools(), _known(known), follow=self.config.follow)
        self._thread = ThreadPoolExecutor(1, "penstock-file-source")
        batches = past.batches()
        try:
            while (batch := await self._run(partial(next, batches, None))) is not None:
                yield batch
        finally:
            await self._run(batches.close)
            await self.close()

    async def ack(self, tokens: Sequence[Token]) -> None:
        """Nothing to do: files do not forget, and the ledger holds the position."""

    async def release(self, tokens: Sequence[Token], delay: float) -> None:
        """Nothing to do: the next run reads on from the ledger's position."""

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self._partitions.close)
        finally:
            thread.shutdown(wait=False)

    def progress(self) -> tuple[int, int] | None:
        """Bytes read and bytes there are, compressed where the files are."""
        return self._partitions.progress() if self._past is None else self._past.progress()

    async def reread(self, partition: str, position: bytes) -> Event:
        """The record that ends at `position`, read with today's `max_record`. Reads the file from its start.

        :raises Permanent: `source.gone`, or why the record cannot become an event even now.
        """
        return await self._run(partial(self._partitions.reread, partition, position))

    async def _read_once(self) -> AsyncIterator[Batch]:
        partitions = self._partitions
        for name in await self._run(partitions.names):
            reader = await self._run(partial(partitions.begin, name))
            for batch in partitions.vanished():
                yield batch
            while reader is not None:
                async for batch in self._drain(reader):
                    yield batch
                reader = await self._run(partial(partitions.after, reader))
        partitions.raise_faults()

    async def _drain(self, reader: Reader) -> AsyncIterator[Batch]:
        """One file up to its present end. What is wrong with it is kept for the end of everything."""
        try:
            while block := await self._run(partial(self._partitions.read, reader)):
                for batch in reader.batches(block):
                    yield batch
            if await self._run(partial(self._partitions.is_over, reader)):
                for batch in chain(reader.finish(), reader.settled()):
                    yield batch
        except EnvironmentFault as error:
            self._partitions.note(reader, error)

    async def _follow(self) -> AsyncIterator[Batch]:
        partitions = self._partitions
        while True:
            await self._run(partitions.begin_new)
            busy = False
            for batch in partitions.vanished():
                yield batch
            for reader in list(partitions.active.values()):
                async for batch in self._turn(reader):
                    busy = True
                    yield batch
            if not busy:
                partitions.raise_faults()
                await self.context.clock.sleep(POLL)

    async def _turn(self, reader: Reader) -> AsyncIterator[Batch]:
        """What one followed file has now, up to its turn's end; where it was rotated and is finished, also its last line."""
        partitions = self._partitions
        try:
            for _ in range(_TURN):
                block = await self._run(partial(partitions.read, reader))
                if not block:
                    break
                for batch in reader.batches(block):
                    yield batch
            else:
                return
            now = self.context.clock.monotonic()
            if await self._run(partial(partitions.is_quiet, reader, now, ROTATION_WAIT)):
                over, following = await self._run(partial(partitions.succeed, reader))
                if over:
                    for batch in chain(reader.finish(), reader.settled()):
                        yield batch
                    await self._run(partial(partitions.retire, reader, following))
        except EnvironmentFault as error:
            await self._run(partial(partitions.give_up, reader, error))

    async def _run(self, call: Callable[[], T]) -> T:
        if self._thread is None:
            raise Fatal("source.closed", "the file source is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _known(positions: Mapping[str, Position]) -> dict[str, Known]:
    return {name: from_position(name, position) for name, position in positions.items()}
