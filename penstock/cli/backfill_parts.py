"""What the backfill verbs share: the pipeline, its store, and the desk over both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from penstock.builtins import room
from penstock.cli.copy_bar import Tell, copy_bar
from penstock.cli.job_bar import job_bar
from penstock.cli.lazy import Settings
from penstock.cli.project import load_file, load_named
from penstock.cli.sender import sender
from penstock.cli.stores import StoreRef, reading, telling
from penstock.cli.terminal import Terminal
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.config.stored import Around
from penstock.engine.versions import find_version, load_stored
from penstock.errors import UsageError
from penstock.files import write_durably
from penstock.state.job_records import Job
from penstock.state.promotions import Promotion
from penstock.state.store import StateStore


class Backfills(Protocol):
    """What the command uses of backfills (`backfill.desk.Desk`)."""

    async def create(self, steps: Pipeline, asked: Mapping[str, Any], by: str, tell: Tell = ...) -> Job: ...
    async def carry_out(self, job: Job, steps: Pipeline, concurrency: int | None, tell: Callable[[Job], None]) -> Job: ...
    async def tidy(self, job: Job) -> None: ...
    async def promote(self, job: Job, steps: Pipeline, by: str, *, accept: bool) -> Promotion: ...
    @staticmethod
    def report(job: Job, pipeline: str) -> dict[str, Any]: ...
    @staticmethod
    def page(report: Mapping[str, Any]) -> str: ...
    @staticmethod
    def file(job: Job) -> str: ...
    @staticmethod
    def against(job: Job) -> str: ...


@dataclass(frozen=True, slots=True)
class Counter:
    """A pipeline, its store, and the desk.

    :ivar pipeline: as its file has it.
    """

    settings: Settings
    pipeline: Pipeline
    store: StateStore
    around: Around
    desk: Backfills

    async def steps(self, against: str, terminal: Terminal) -> Pipeline:
        """The pipeline whose steps are tried: a file's, a stored version's, or its own.

        :raises UsageError: `version.unknown`, `version.ambiguous`, `version.cannot_be_built`.
        :raises ConfigurationError: the file has mistakes.
        """
        if not against:
            return self.pipeline
        if Path(against).suffix in (".yaml", ".yml") or "/" in against:
            return load_file(self.settings, Path(against))
        stored = load_stored(find_version(await self.store.versions(), against), self.around)
        for doubt in stored.doubts.values():
            terminal.say(terminal.err_style.yellow(f"warning[backfill.doubt]: {doubt}"))
        return stored.pipeline


@asynccontextmanager
async def at_counter(settings: Settings, name: str, *, native: bool = False) -> AsyncIterator[Counter]:
    """:param native: the pipeline need not have run: its state store is made where there is none.
    :raises UsageError: `usage.unknown_pipeline`.
    :raises EnvironmentFault: `state.missing`, where it never ran.
    """
    pipeline = load_named(settings, name)
    around = Around(pipeline.file, pipeline.project, pipeline.state, settings.environment(), pipeline)
    ref = StoreRef(pipeline.name, pipeline.state, server=pipeline.state_server)
    async with telling(ref) if native else reading(ref) as store:
        desk: Backfills = room("backfill")(store, pipeline, around, SystemClock())
        yield Counter(settings, pipeline, store, around, desk)


async def begin(counter: Counter, steps: Pipeline, asked: Mapping[str, Any], terminal: Terminal) -> Job:
    """Store a backfill, with a bar while a native range is copied. Raises as `Desk.create`."""
    if asked["source"] == "journal":
        return await counter.desk.create(steps, asked, sender())
    with copy_bar(terminal) as tell:
        return await counter.desk.create(steps, asked, sender(), tell)


async def carry_out(counter: Counter, job: Job, steps: Pipeline, concurrency: int | None, terminal: Terminal) -> Job:
    """Do a job, with a bar. As it stands then; interrupted, it waits to be gone on with."""
    with job_bar(terminal, "backfill") as show:
        try:
            return await counter.desk.carry_out(job, steps, concurrency, show)
        except asyncio.CancelledError:
            terminal.say(f"job {job.id} rests: pipe backfill resume {job.id} goes on with it")
            raise


def report_on(job: Job, pipeline: str, html: Path | None) -> dict[str, Any]:
    """What a job has come to; and as a page, where that is wanted: the whole of it, or what was there before.

    :raises UsageError: `backfill.page`, it cannot be written there.
    """
    backfills: Backfills = room("backfill")
    report = backfills.report(job, pipeline)
    if html is not None:
        try:
            write_durably(html, backfills.page(report).encode())
        except OSError as error:
            raise UsageError("backfill.page", f"cannot write {html}", why=str(error)) from error
    return report
