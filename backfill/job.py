"""Dry runs and shadows as stored jobs, which touch no ledger and no sink: carried out beside the live run, by whoever asks.

    job = await create(book, request, by, total)
    job = await Carrying(book, rehearsal, …).carry_out(job)      # as long as it takes; killed, it goes on where it was

What was counted so far is kept with the place in the journal, in one write, so that an event counts once, whatever happens.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from backfill.crew import Crew
from backfill.portions import LINES, Portion, behind, divide
from backfill.rehearsal import Rehearsal
from backfill.request import Request, Result, decode_cursor
from backfill.results import merge
from penstock.clock import Clock
from penstock.engine.pace import Pace
from penstock.engine.retry import PATIENT, persistently
from penstock.errors import Fenced, PenstockError
from penstock.journal.opened import Mark
from penstock.journal.reader import JournalReader
from penstock.state.job_book import BEAT, JobBook
from penstock.state.job_records import Job, JobError, JobProgress
from penstock.state.pipeline_records import Version

T = TypeVar("T")

KIND = "backfill"
_PORTIONS_A_SECOND = 4
"""At a given rate, so that it is kept to at each moment, about."""


class Kept(msgspec.Struct):
    """The cursor of such a job: everything up to the mark is counted in the result."""

    result: Result
    mark: Mark | None = None


_encode = msgspec.json.Encoder().encode
_decode_kept = msgspec.json.Decoder(Kept).decode
_decode_request = msgspec.json.Decoder(Request).decode


def request_of(job: Job) -> Request:
    """What the job was asked to do."""
    return _decode_request(job.options)


def result_of(job: Job) -> Result:
    """What a dry run or a shadow has come to so far."""
    return _decode_kept(job.progress.cursor).result if job.progress.cursor else Result()


async def create(book: JobBook, request: Request, by: str, total: int, delivers: Version | None = None) -> Job:
    """Store a backfill: one that touches no ledger stands alone.

    :param by: `user@host`.
    :param total: about how many events its range holds.
    :param delivers: of a live one, the version of its steps: whatever asks for them later finds them in the state store.
    """
    alone = request.mode != "live"
    return await book.create(KIND, _encode(request).decode(), by, alone=alone, total=total, version=delivers)


def spared(jobs: Sequence[Job]) -> int | None:
    """The first segment of the journal that open backfills still read: retention leaves it, and those behind it.

    :param jobs: open ones of any kind.
    """
    needed = [_segment(job) for job in jobs if job.kind == KIND]
    return min((segment for segment in needed if segment), default=None)


def _segment(job: Job) -> int:
    """0: none at all. The copy of a native range is a journal of its own."""
    if request_of(job).source == "native":
        return 0
    cursor = job.progress.cursor
    if not cursor:
        return request_of(job).segment
    mark = _decode_kept(cursor).mark if job.alone else decode_cursor(cursor).mark
    return mark.segment if mark is not None else request_of(job).segment


@dataclass(slots=True)
class Carrying:
    """One process's part in a job.

    :ivar size: worker processes; 0: none.
    :ivar tell: is shown the job whenever something was kept.
    """

    book: JobBook
    rehearsal: Rehearsal
    size: int
    clock: Clock
    random: random.Random
    tell: Callable[[Job], None]

    async def carry_out(self, job: Job) -> Job:
        """To its end, or until somebody pauses or cancels it. As it stands then.

        :raises EnvironmentFault: `job.held`, `job.over`, as `JobBook.own`; `journal.damaged`; `worker.not_started`.
        :raises PenstockError: what it failed with, which is kept.
        """
        owner = await self.book.own(job.id)
        job = await self.book.take(owner, job.id)
        if job.asked != "run":
            return await self.book.leave(owner, job.id)
        try:
            async with self._beating(owner, job.id):
                job = await self._run(owner, job)
        except Fenced:
            job = await self.book.find(job.id)
            if job.open:  # another process goes on with it, for this one was held up too long
                raise
            return job
        except PenstockError as error:
            said = JobError(error.code, error.message, error.why, error.help)
            await self.book.end(owner, job.id, "failed", said)
            raise
        except asyncio.CancelledError:
            await self.book.leave(owner, job.id)
            raise
        except Exception as error:  # supervision point: whoever looks at the job later is told
            await self.book.end(owner, job.id, "failed", JobError("internal.error", f"{type(error).__name__}: {error}"))
            raise
        if job.asked != "run":
            return await self.book.leave(owner, job.id)
        await self.book.end(owner, job.id, "done")
        return await self.book.find(job.id)

    async def _run(self, owner: str, job: Job) -> Job:
        kept, started = self._kept(job), self.clock.monotonic()
        before, written = kept.result.seconds, started
        pace = Pace(self.rehearsal.request.rate, started)
        async with (
            Crew(self.rehearsal, self.size, self.clock) as crew,
            aclosing(crew.results(self._portions(kept), pace)) as results,
        ):
            async for portion, part in results:
                merge(kept.result, part)
                kept.mark, now = portion.until, self.clock.monotonic()
                kept.result.seconds = before + now - started
                if now - written >= BEAT:
                    job, written = await self._report(owner, job.id, kept), now
                    if job.asked != "run":
                        return job
        kept.result.seconds = before + self.clock.monotonic() - started
        if not self.rehearsal.request.limit:
            kept.result.total = kept.result.read  # known exactly now
        return await self._report(owner, job.id, kept)

    def _kept(self, job: Job) -> Kept:
        if job.progress.cursor:
            return _decode_kept(job.progress.cursor)
        request = self.rehearsal.request
        total = JournalReader(self.rehearsal.directory).count(request.start, request.end)
        return Kept(self.rehearsal.nothing(total))

    def _portions(self, kept: Kept) -> Iterator[Portion]:
        """What is left of the range; not more events than were asked for."""
        request, result = self.rehearsal.request, kept.result
        share = min(1.0, request.limit / result.total) if request.limit and result.total else 1.0
        frames = JournalReader(self.rehearsal.directory).frames(request.start, request.end, after=kept.mark, share=share)
        lines = min(LINES, int(request.rate / _PORTIONS_A_SECOND)) if request.rate else LINES
        left = request.limit - result.read
        for portion in behind(divide(frames, lines=max(1, lines), apart=share < 1.0), kept.mark):
            if not request.limit:
                yield portion
            elif left > 0:
                yield msgspec.structs.replace(portion, most=left)
                left -= portion.lines

    async def _report(self, owner: str, identity: str, kept: Kept) -> Job:
        result = kept.result
        total = min(result.total, self.rehearsal.request.limit or result.total)
        names = ("delivered", "filtered", "deduplicated", "dead_lettered")
        counts = {name: getattr(result, name) for name in names}
        if result.unanswered:
            counts["unanswered"] = sum(result.unanswered.values())
        rate = result.read / result.seconds if result.seconds else None
        progress = JobProgress(identity, _encode(kept), result.read, max(total, result.read), counts, rate)
        job = await self._patiently(lambda: self.book.report(owner, progress))
        self.tell(job)
        return job

    async def _patiently(self, action: Callable[[], Awaitable[T]]) -> T:
        """A busy or unreachable state store is waited for."""
        return await persistently(action, PATIENT, self.random, self.clock, lambda error: None)

    @asynccontextmanager
    async def _beating(self, owner: str, identity: str) -> AsyncIterator[None]:
        """Others see that this process lives, however long a portion takes."""

        async def beat() -> None:
            while True:
                await self.clock.sleep(BEAT)
                await self._patiently(lambda: self.book.beat(owner, identity))

        beating = asyncio.create_task(beat(), name="beat")
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
