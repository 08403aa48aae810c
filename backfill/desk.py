"""What the command asks of backfills: `Desk`, over one pipeline and its state store."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from backfill.admission import admit
from backfill.copies import Copies
from backfill.job import KIND, Carrying, create, request_of, result_of
from backfill.native import Copying, Tell, refuse_unknown
from backfill.page import page
from backfill.readers import own_journal, range_of
from backfill.rehearsal import KnownVersion, Rehearsal, event_filter
from backfill.report import About, differing, document, live_document, verdict
from backfill.request import Copied, Request
from penstock.clock import Clock
from penstock.config.model import Pipeline
from penstock.config.stored import Around
from penstock.engine.assemble import Surroundings
from penstock.engine.claim import version_of
from penstock.engine.native import NativeRange, native_range, no_native
from penstock.engine.pool import without_ends
from penstock.engine.versions import load_stored
from penstock.errors import UsageError
from penstock.faults import Faults
from penstock.journal.lines import VERSION_DIGITS
from penstock.state.job_records import Job
from penstock.state.pipeline_records import Version
from penstock.state.promotions import Promotion
from penstock.state.store import StateStore

FEW = 20_000
"""Events for which one worker process is enough."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Backfills of one pipeline.

    :ivar today: the pipeline as its file has it.
    :ivar around: where stored versions are brought back to life.
    """

    store: StateStore
    today: Pipeline
    around: Around
    clock: Clock

    async def create(self, steps: Pipeline, asked: Mapping[str, Any], by: str, tell: Tell = lambda read, part: None) -> Job:
        """Store a backfill; of a native range, copy that first. A live one a run finds within a second; any other is to be
        carried out.

        :param steps: the pipeline whose steps are run.
        :param asked: fields of `backfill.request.Request`, but for file and version.
        :param tell: hears how far the copy is.
        :raises UsageError: `backfill.filter`, it is no jq program; `backfill.empty_range`; `backfill.no_journal`; of a native
            range `backfill.no_native`; of a live one as `admission.admit`, and `backfill.unknown_deliveries`.
        :raises PenstockError: what the source of a native range raises.
        """
        request = Request(file=str(self.around.file), version=steps.version, **asked)
        if not request.start < request.end:
            raise UsageError("backfill.empty_range", "--from must be before --to", help="a range is half-open: [from, to)")
        event_filter(request.filter)
        if request.mode == "live":
            await admit(steps, request, self.today, self.store)
        await self._copies.sweep(self._named)
        if request.source == "journal":
            return await self._store(request, steps, by)
        native = native_range(self.today, Surroundings(self.clock, random.Random(), Faults()))
        if native is None:
            raise no_native(self.today.source.kind)
        with self._copies.making() as directory:
            copied = await self._copy(native, request, directory, tell)
            return await self._store(replace(request, copied=copied), steps, by)

    async def carry_out(self, job: Job, steps: Pipeline, concurrency: int | None, tell: Callable[[Job], None]) -> Job:
        """Do it, or go on with it. As it stands when it is done, paused or cancelled.

        :param concurrency: worker processes; 0: none, None: as many as there is work for.
        :param tell: is shown the job now and then.
        :raises UsageError: `backfill.changed`, these are not the steps that it began with.
        :raises PenstockError: what it failed with.
        """
        request = request_of(job)
        self._check(job, request, steps)
        versions = self._known(await self.store.versions()) if request.mode == "shadow" else {}
        rehearsal = Rehearsal(
            steps.worker_memory, without_ends(steps), request, range_of(request, self.today).directory, versions
        )
        size = concurrency if concurrency is not None else _crew_size(job)
        try:
            return await Carrying(self.store.jobs, rehearsal, size, self.clock, random.Random(), tell).carry_out(job)
        finally:
            await self.tidy(job)

    async def tidy(self, job: Job) -> None:
        """Remove the copy that a job has read, where it has ended."""
        copied = request_of(job).copied
        if copied is not None and not (await self.store.jobs.find(job.id)).open:
            self._copies.remove(copied.name)

    async def promote(self, job: Job, steps: Pipeline, by: str, *, accept: bool) -> Promotion:
        """Let the version through that a shadow tried.

        :param steps: the pipeline of that version.
        :param accept: whatever differs, it is meant.
        :raises UsageError: `backfill.not_shadow`, `backfill.not_done`, `backfill.not_clean`, `backfill.changed`.
        """
        request, result = request_of(job), result_of(job)
        self._check(job, request, steps)
        differences = differing(result)
        if request.mode != "shadow":
            raise UsageError("backfill.not_shadow", f"job {job.id} is a {request.mode}", help="only a shadow compares")
        if job.state != "done":
            raise UsageError("backfill.not_done", f"job {job.id} is {job.state}", help=f"pipe backfill resume {job.id}")
        if verdict(result) == "nothing" or (differences and not accept):
            raise UsageError(
                "backfill.not_clean",
                f"the shadow {job.id} is not clean: {differences:,} differences of {result.read:,} events",
                help=f"pipe backfill report {job.id}; where all of it is meant: --accept-differences",
            )
        return await self.store.promotions.promote(version_of(steps, self.clock.now()), by, job.id, differences)

    @staticmethod
    def report(job: Job, pipeline: str) -> dict[str, Any]:
        """What it has come to so far."""
        about = About(job=job.id, pipeline=pipeline, state=job.state, request=request_of(job))
        return live_document(about, job.progress) if about.request.mode == "live" else document(about, result_of(job))

    @staticmethod
    def page(report: Mapping[str, Any]) -> str:
        """A report as HTML."""
        return page(report)

    @staticmethod
    def file(job: Job) -> str:
        """The pipeline's file, as it was when the job was created."""
        return request_of(job).file

    @staticmethod
    def against(job: Job) -> str:
        """The file or version whose steps it tries; empty: the pipeline's own file."""
        return request_of(job).against

    @property
    def _copies(self) -> Copies:
        return Copies.of(self.today.state, self.today.name)

    async def _named(self) -> list[str]:
        """The copies that open jobs read."""
        requests = [request_of(job) for job in await self.store.jobs.open_ones() if job.kind == KIND]
        return [request.copied.name for request in requests if request.copied is not None]

    async def _copy(self, native: NativeRange, request: Request, directory: Path, tell: Tell) -> Copied:
        """:raises UsageError: `backfill.unknown_deliveries`.
        :raises PenstockError: what the source raises.
        """
        ran = await self.store.runs(limit=1)
        version = (ran[0].version if ran else self.today.version)[:VERSION_DIGITS]
        positions = (await self.store.read_note()).positions
        span = request.start, request.end
        copied = await Copying(native, *span, positions, version, own_journal(self.today), tell).copy(directory)
        if request.mode == "live" and copied.unknown and not request.redeliver:
            raise refuse_unknown(copied)
        return copied

    async def _store(self, request: Request, steps: Pipeline, by: str) -> Job:
        reader = range_of(request, self.today)
        first = next(reader.frames(request.start, request.end), None)
        request = replace(request, segment=first.segment if first is not None else 0)
        total = reader.count(request.start, request.end)
        delivers = version_of(steps, self.clock.now()) if request.mode == "live" else None
        return await create(self.store.jobs, request, by, min(total, request.limit or total), delivers)

    @staticmethod
    def _check(job: Job, request: Request, steps: Pipeline) -> None:
        """:raises UsageError: `backfill.changed`, these are not the steps of the job."""
        if steps.version != request.version:
            raise UsageError(
                "backfill.changed",
                f"job {job.id} began with the steps of version {request.version[:VERSION_DIGITS]}, which is another one",
                help="put the file back as it was, or start another backfill",
            )

    def _known(self, versions: Sequence[Version]) -> dict[str, KnownVersion | str]:
        """The versions that may have handled events. What cannot be built is told where an event asks for it."""
        today = self.today
        known: dict[str, KnownVersion | str] = {today.version[:VERSION_DIGITS]: KnownVersion(without_ends(today), {})}
        for version in versions:
            name = version.version[:VERSION_DIGITS]
            if name in known:
                continue
            try:
                stored = load_stored(version, self.around)
            except UsageError as error:
                known[name] = f"its version {name} cannot be built any more: {error.why}"
            else:
                known[name] = KnownVersion(without_ends(stored.pipeline), dict(stored.doubts))
        return known


def _crew_size(job: Job) -> int:
    """Processes for as much as there was when it was made."""
    return 1 if (job.progress.total or 0) <= FEW else os.cpu_count() or 1
