"""The `file` source: lines, CSV rows or JSON documents of files that globs name, once or followed as they grow.

A partition is a path as first seen; its position is (generation, offset behind the last record), its generations are the files
that stood at that path one after the other. How a file is recognised stands in `_marks`; when a generation ends, in `_file_open`.

One thread does everything that touches the disk, one call at a time, so that closing waits for a read under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from connectors.sources._file_discovery import Discovery
from connectors.sources._file_open import Opener, damaged
from connectors.sources._file_reader import Reader
from connectors.sources._marks import Known, from_position, order_text, restarted
from connectors.sources._records import Limits
from connectors.sources._reread import reread
from connectors.sources._streams import Damaged
from connectors.sources._vanished import Vanished
from penstock.config.base import ComponentConfig, ProjectPath, Size
from penstock.errors import EnvironmentFault, Fatal
from penstock.event import Event
from penstock.spi import Batch, Context, Position, Resume, Token

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
        "names. `.gz` and `.zst` are decompressed."
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
        self._known: dict[str, Known] = {}
        self._discovery = Discovery(context.project, config.paths)
        self._active: dict[str, Reader] = {}
        self._sizes: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._faults: dict[str, EnvironmentFault] = {}
        self._vanished = Vanished()
        self._once = True
        self._opener = Opener(context.project, config.format, Limits(max_record=config.max_record))
        self._thread: ThreadPoolExecutor | None = None

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

    async def open(self, resume: Resume) -> None:
        """Finds the files; reads nothing of them yet.

        :raises EnvironmentFault: `source.no_files`, where a pattern matches nothing and files are not followed;
            `source.unknown_checkpoint`.
        """
        limits = Limits(self.batch_count, self.batch_bytes, self.config.max_record)
        self._opener = Opener(self.context.project, self.config.format, limits)
        self._once = resume.once or not self.config.follow
        for name, position in resume.positions.items():
            self._know(name, from_position(name, position))
        self._thread = ThreadPoolExecutor(1, "penstock-file-source")
        self._sizes = await self._run(self._survey)

    async def batches(self) -> AsyncIterator[Batch]:
        """Batches file by file; followed, in turn.

        :raises EnvironmentFault: after all else was read: `source.unreadable`, `source.vanished`, `source.truncated_gzip` (or
            `_zstd`, `_json`).
        :raises Fatal: `source.rewritten`.
        """
        async for batch in self._read_once() if self._once else self._follow():
            yield batch

    async def ack(self, tokens: Sequence[Token]) -> None:
        """Nothing to do: files do not forget, and the ledger holds the position."""

    async def release(self, tokens: Sequence[Token], delay: float) -> None:
        """Nothing to do: the next run reads on from the ledger's position."""

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        readers, self._active = list(self._active.values()), {}
        try:
            for reader in readers:
                await asyncio.get_running_loop().run_in_executor(thread, reader.close)
        finally:
            thread.shutdown(wait=False)

    def progress(self) -> tuple[int, int] | None:
        """Bytes read and bytes there are, compressed where the files are."""
        reading = {name: reader.stream.consumed for name, reader in self._active.items()}
        return sum((self._done | reading).values()), sum(self._sizes.values())

    async def reread(self, partition: str, position: bytes) -> Event:
        """The record that ends at `position`, read with today's `max_record`. Reads the file from its start.

        :raises Permanent: `source.gone`, or why the record cannot become an event even now.
        """
        active = self._active.get(partition)
        known = active.known() if active else self._known.get(partition)
        return await self._run(partial(reread, self._opener, partition, position, known))

    async def _read_once(self) -> AsyncIterator[Batch]:
        for name in await self._run(self._names):
            reader = await self._run(partial(self._begin, name))
            for batch in self._vanished.batches():
                yield batch
            while reader is not None:
                async for batch in self._drain(reader):
                    yield batch
                reader = await self._run(partial(self._after, reader))
        self._raise_faults()

    async def _drain(self, reader: Reader) -> AsyncIterator[Batch]:
        """One file up to its present end. Its damage is kept for the end of everything."""
        try:
            while block := await self._run(reader.read):
                for batch in reader.batches(block):
                    yield batch
            if not self.config.follow or reader.moved():
                reader.stream.check_end()
                for batch in chain(reader.finish(), reader.settled()):
                    yield batch
        except Damaged as error:
            self._faults.setdefault(reader.partition, damaged(reader.partition, error))
        except EnvironmentFault as error:
            self._faults.setdefault(reader.partition, error)

    def _after(self, reader: Reader) -> Reader | None:
        """The next file of the partition, where this one had been renamed."""
        following = None
        if reader.partition not in self._faults and reader.moved():
            following = self._opener.hand_over(reader)
        self._retire(reader, following)
        return following

    async def _follow(self) -> AsyncIterator[Batch]:
        while True:
            await self._run(self._begin_new)
            busy = False
            for batch in self._vanished.batches():
                yield batch
            for reader in list(self._active.values()):
                async for batch in self._turn(reader):
                    busy = True
                    yield batch
            if not busy:
                self._raise_faults()
                await self.context.clock.sleep(POLL)

    async def _turn(self, reader: Reader) -> AsyncIterator[Batch]:
        """What one followed file has now, up to its turn's end; where it was rotated and is finished, also its last line."""
        try:
            for _ in range(_TURN):
                block = await self._run(reader.read)
                if not block:
                    break
                reader.quiet_since = None
                for batch in reader.batches(block):
                    yield batch
            else:
                return
        except Damaged as error:
            self._faults.setdefault(reader.partition, damaged(reader.partition, error))
            await self._run(partial(self._retire, reader, None))
            return
        except EnvironmentFault as error:
            self._faults.setdefault(reader.partition, error)
            await self._run(partial(self._retire, reader, None))
            return
        if await self._run(partial(self._is_finished, reader)):
            following = await self._run(partial(self._opener.hand_over, reader))
            gone = following is None and reader.deleted()
            if gone or following not in (None, reader):
                for batch in chain(reader.finish(), reader.settled()):
                    yield batch
                await self._run(partial(self._retire, reader, following))

    def _is_finished(self, reader: Reader) -> bool:
        """Whether the file was moved away and has been quiet for long enough."""
        now = self.context.clock.monotonic()
        if reader.quiet_since is None or not reader.moved():
            reader.quiet_since = now
        return now - reader.quiet_since >= ROTATION_WAIT

    def _begin_new(self) -> None:
        for name in self._names():
            if name not in self._active and name not in self._faults:
                self._begin(name)

    def _begin(self, name: str) -> Reader | None:
        if name not in self._known and self._discovery.is_renamed(name):
            return None
        known = self._known.get(name)
        try:
            reader = self._opener.begin(name, known, wait=not self._once)
        except EnvironmentFault as error:
            self._faults[name] = error
            return None
        self._vanished.look(name, known, reader, self._opener.home(name))
        if reader is not None:
            self._adopt(reader)
        return reader

    def _adopt(self, reader: Reader) -> None:
        self._active[reader.partition] = reader
        self._discovery.remember(reader)
        self._sizes[reader.partition] = reader.size

    def _retire(self, reader: Reader, following: Reader | None) -> None:
        if following is reader:
            self._discovery.remember(reader)
            return
        name = reader.partition
        self._know(name, reader.known())
        self._done[name], self._sizes[name] = reader.stream.consumed, reader.size
        del self._active[name]
        reader.close()
        if following is not None:
            self._adopt(following)

    def _know(self, name: str, known: Known) -> None:
        self._known[name] = known
        self._discovery.remember_known(name, known)

    def _survey(self) -> dict[str, int]:
        names = self._discovery.scan(self._known, strict=not self.config.follow)
        return {name: self._discovery.size(name) for name in names}

    def _names(self) -> list[str]:
        """Partitions to begin, or to look at again. One that this run has retired comes back only with a file at its path."""
        return self._discovery.scan(self._known.keys() - self._done.keys(), strict=False)

    def _raise_faults(self) -> None:
        faults = [*self._faults.values(), *self._vanished.faults.values()]
        if not faults:
            return
        first, *others = faults
        if not others:
            raise first
        why = "; ".join([*filter(None, [first.why]), *(f"also: {other.message}" for other in others)])
        raise EnvironmentFault(first.code, first.message, where=first.where, why=why, help=first.help)

    async def _run(self, call: Callable[[], T]) -> T:
        if self._thread is None:
            raise Fatal("source.closed", "the file source is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
