"""A project on disk for tests of the whole: pipeline file, input, outputs, dead letters; run here or in a process of its own."""

from __future__ import annotations

import asyncio
import gzip
import os
import sqlite3
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from process_parts import PIPE, ended

from penstock.clock import SystemClock
from penstock.engine.embed import load
from penstock.engine.run import Run, RunOptions
from penstock.faults import Faults
from penstock.observe.status import RunSummary
from penstock.state.records import DeadLetter, LetterQuery
from penstock.state.sqlite_store import SqliteStateStore

HOUSE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """A directory with one pipeline, `orders`."""

    root: Path

    def pipeline(self, text: str) -> Path:
        """Write the pipeline file; `text` is all but its name."""
        (self.root / "penstock.yaml").touch()
        file = self.root / "orders.yaml"
        file.write_text(f"pipeline: orders\n{text}")
        return file

    def write(self, name: str, *lines: bytes) -> Path:
        """A file of these lines."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"".join(line + b"\n" for line in lines))
        return file

    def make(self, **options: Any) -> Run:
        """A run, which ends when everything was read unless `once=False` is given."""
        return Run(load(self.root / "orders.yaml", environment={}), RunOptions(**({"once": True} | options)))

    async def run(self, **options: Any) -> RunSummary:
        return await asyncio.wait_for(self.make(**options).execute(), 60)

    def pipe(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """The command, in a process of its own; the pipeline file is the last argument of `run`."""
        return subprocess.Popen(
            [*PIPE, *arguments], cwd=self.root, env=self.environment(variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def call(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """The command from beginning to end: exit status, stdout and stderr."""
        return ended(self.pipe(*arguments, **variables))

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(HOUSE), "NO_COLOR": "1", **variables}

    def input(self, name: str = "in.jsonl") -> list[bytes]:
        return self.lines(name)

    def lines(self, name: str = "out.jsonl") -> list[bytes]:
        content = (self.root / name).read_bytes()
        return (gzip.decompress(content) if name.endswith(".gz") else content).splitlines()

    def values(self, name: str = "out.jsonl") -> list[Any]:
        return [msgspec.json.decode(line) for line in self.lines(name)]

    def rows(self, query: str, database: str = "out.db") -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.root / database)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    @property
    def state(self) -> Path:
        file = self.root / "disk" / "orders.db"
        return file if file.exists() else self.root / ".penstock" / "orders.db"

    async def position(self) -> int:
        """Offset in the only input file behind what is committed."""
        store = SqliteStateStore(self.state, "orders", SystemClock(), Faults())
        await store.open(create=False)
        try:
            note = await store.read_note()
        finally:
            await store.close()
        return int.from_bytes(next(iter(note.positions.values())).order[-8:], "big") if note.positions else 0

    async def letters(self, *statuses: str) -> list[DeadLetter]:
        """Dead letters in order of their position, open ones by default."""
        store = SqliteStateStore(self.state, "orders", SystemClock(), Faults())
        await store.open(create=False)
        try:
            found, _ = await store.letters(LetterQuery(status=statuses or ("open",)), limit=1000)  # type: ignore[arg-type]
        finally:
            await store.close()
        return sorted(found, key=lambda letter: (letter.partition, letter.position))

    async def causes(self) -> list[tuple[str, str]]:
        """Step and code of each open dead letter."""
        return [(letter.step, letter.code) for letter in await self.letters()]
