"""The jobs of one run (rule 10): replays, and what else is carried out beside its live work, by the one writer that there is.

One at a time, the oldest first; one that is paused lets the next go before it. A portion of a job is committed as a group of its
own between those of the source, so live work waits no longer than for one portion. A job that cannot be carried out is `failed`,
with the reason; the run ends only where it would end for live work, too: where a commit fails for good, or it is fenced.

At the end of the run a job stops behind a portion, and waits for the next run; a run that drains its source (`--once`) finishes
the open jobs before it ends. A run that was killed leaves what its ledgers recorded: the next claim settles that, then the job
goes on at its cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from penstock.builtins import ROOMS, room
from penstock.engine.carrying import Ground, JobCarrier, Portion, carrier_of, timed
from penstock.engine.due_jobs import make_due
from penstock.engine.pace import Pace, Size
from penstock.engine.retry import PATIENT, Waits, persistently
from penstock.engine.supervise import bug
from penstock.engine.tasks import call_off
from penstock.engine.turn import OUTCOMES, Turn
from penstock.errors import Fenced, PenstockError, Transient, UsageError
from penstock.ledger import Counts
from penstock.observe.log import Incident
from penstock.state.job_book import JobBook
from penstock.state.job_records import Ending, Job, JobError, JobProgress

if TYPE_CHECKING:
    from penstock.engine.run import RunOptions

T = TypeVar("T")

TICK = 0.5
"""Seconds between two looks for jobs."""
BESIDE = 0.03
"""Seconds that a portion is to take where live work waits for it: longer ones make a job faster, and live events later."""
ALONE = 1.0
"""Where nobody waits but who stops or pauses the job."""
FOLLOWING = 0.5
"""Seconds after which a carrier looks again what is asked of its job."""

Verdict = Literal["go on", "leave", "cancel"]


class CommonOptions(msgspec.Struct):
    """What the options of every kind may have.

    :ivar rate: events a second, at most.
    """

    rate: float | None = None


@dataclass(slots=True)
class Jobs:
    """`run` beside the live work, until it is told to `stop`, or to `finish`.

    :ivar only: the one job to carry out; None: all.
    :ivar told: hears of every step that a job takes.
    """

    ground: Ground
    options: RunOptions
    only: str | None = None
    told: Callable[[JobProgress], None] = lambda progress: None
    _ending: Literal["", "stop", "finish"] = ""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """End behind the portion that is under way; open jobs wait for the next run."""
        self._ending = "stop"
        self._wake.set()

    def finish(self) -> None:
        """End when no open job is left, but those that are paused."""
        self._ending = self._ending or "finish"
        self._wake.set()

    async def run(self) -> None:
        """:raises PenstockError: what ends the run."""
        while self._ending != "stop":
            job = await self._next() or await self._due()
            if job is not None:
                await self._carry(job)
            elif self._ending:
                return
            else:
                await self._rest(TICK)

    # ---- which

    @property
    def _book(self) -> JobBook:
        return self.ground.claimed.store.jobs

    @property
    def _epoch(self) -> int:
        return self.ground.claimed.epoch

    async def _next(self) -> Job | None:
        """The oldest that is to go on. What is to end ends here."""
        for job in await self._patiently(self._book.open_ones):
            if job.alone or (self.only not in (None, job.id) and job.kind != "release"):
                continue
            if job.asked == "cancel":
                await self._settle(job)
                await self._end(job.id, "cancelled")
            elif job.asked == "run":
                return job
        return None

    async def _due(self) -> Job | None:
        """A job for what is to be taken up by itself now. One that is not to go on keeps others of its kind away."""
        letters = self.ground.pipeline.dead_letter
        if not letters.retry and letters.lane != "park":
            return None
        store = self.ground.claimed.store
        for status in await self._patiently(store.lanes.due):
            kind = "retry" if status == "open" else "release"
            if kind == "retry" and (self.only is not None or self.ground.status.paused is not None):
                continue  # nobody asked for it; a release follows from what somebody did
            if not any(job.kind == kind for job in await self._patiently(self._book.open_ones)):
                return await self._patiently(partial(make_due, store, status, self.options.clock.now()))
        return None

    async def _rest(self, seconds: float) -> None:
        """For so long, or until the run ends."""
        if self._ending == "stop":
            return
        self._wake.clear()
        sleeping = asyncio.ensure_future(self.options.clock.sleep(seconds))
        waking = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((sleeping, waking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await call_off(sleeping, waking)

    # ---- one job

    async def _carry(self, job: Job) -> None:
        """Until it has ended, somebody wants it to stop, or the run ends."""
        taken = await self._patiently(partial(self._book.take, self._epoch, job.id))
        if taken.state != "running":
            return
        name = self.ground.pipeline.name
        self.options.log(Incident("info", "job.began", f"{name}: job {job.id}, {job.kind}: carried out from here on"))
        try:
            verdict = await self._attempts(taken)
        except _Stopped as stopped:
            raise stopped.reason from stopped
        except Fenced:
            raise
        except PenstockError as error:
            await self._fail(job, error)
            return
        if verdict == "go on":
            await self._end(job.id, "done")
            self.options.log(Incident("info", "job.done", f"{name}: job {job.id}, {job.kind}: done"))
        elif verdict == "cancel":
            await self._settle(await self._patiently(partial(self._book.find, job.id)))
            await self._end(job.id, "cancelled")
            self.options.log(Incident("info", "job.cancelled", f"{name}: job {job.id}, {job.kind}: cancelled"))
        else:
            await self._patiently(partial(self._book.leave, self._epoch, job.id))

    async def _attempts(self, job: Job) -> Verdict:
        """Opened anew from its cursor where something cannot be reached for a while.

        :raises PenstockError: it cannot be carried out.
        """
        waits, told = Waits(PATIENT, self.options.random, self.options.clock), False
        while True:
            try:
                return await self._attempt(job)
            except Transient as error:
                if not told:
                    told = True
                    said = f"{self.ground.pipeline.name}: job {job.id}, {job.kind}, is tried again: {error}"
                    self.options.log(Incident("warning", error.code, said, error.help))
                await self._rest(waits.after(error, patient=True) or TICK)
            job = await self._patiently(partial(self._book.find, job.id))
            if (verdict := self._verdict(job)) != "go on":
                return verdict

    async def _attempt(self, job: Job) -> Verdict:
        carrier = carrier_of(job, self.ground)
        try:
            await carrier.open()
            return await self._portions(job, carrier)
        except (PenstockError, _Stopped):
            raise
        except Exception as error:  # supervision point: a bug in a carrier ends its job, not the run
            raise bug(f"job {job.id}, {job.kind}", error) from error
        finally:
            await self.ground.in_flight.release()
            await carrier.close()

    async def _portions(self, job: Job, carrier: JobCarrier) -> Verdict:
        """Each is committed before the next is read."""
        clock = self.options.clock
        pace = Pace(_rate_of(job), clock.monotonic())
        progress, looked = job.progress, clock.monotonic()
        size = Size(BESIDE if self.ground.reading else ALONE, pace.portion(self.ground.pipeline.batching.count))
        async with aclosing(carrier.portions(lambda: size.events)) as made, aclosing(timed(made, self.ground, clock)) as portions:
            async for portion, seconds in portions:
                turn = await self._commit(portion, replace(progress, rate=pace.rate))
                size.took(portion.done, seconds, clock.monotonic() - turn.began)
                before, progress = progress, turn.progress
                self._count(job.kind, before, progress)
                if self.only in (None, job.id):
                    self.told(progress)
                pace.did(portion.events or portion.done, clock.monotonic())
                if portion.cursor is None:
                    continue
                while (wait := pace.wait(clock.monotonic())) > 0 and self._ending != "stop":
                    await self._rest(min(wait, FOLLOWING))
                    job, looked = await self._seen(job, looked)
                    if job.asked != "run":
                        break
                job, looked = await self._seen(job, looked)
                if (verdict := self._verdict(job)) != "go on":
                    return verdict
        return "go on"

    def _count(self, kind: str, before: JobProgress, behind: JobProgress) -> None:
        for outcome in OUTCOMES[1:5]:
            came = behind.counts.get(outcome, 0) - before.counts.get(outcome, 0)
            if came:
                self.ground.status.job_events[kind, outcome] += came

    async def _seen(self, job: Job, looked: float) -> tuple[Job, float]:
        """What is asked of it by now; looked up from time to time."""
        now = self.options.clock.monotonic()
        if now - looked < FOLLOWING:
            return job, looked
        return await self._patiently(partial(self._book.find, job.id)), now

    def _verdict(self, job: Job) -> Verdict:
        if job.asked == "cancel":
            return "cancel"
        return "leave" if job.asked == "pause" or not job.open or self._ending == "stop" else "go on"

    async def _commit(self, portion: Portion, progress: JobProgress) -> Turn:
        """One portion, with how far the job is behind it. Its keys are free again."""
        cursor = progress.cursor if portion.cursor is None else portion.cursor
        turn = Turn(
            progress, cursor, progress.done + portion.done, portion.version, portion.others, self.options.clock.monotonic()
        )
        try:
            if portion.works:
                await self.ground.claimed.committer.commit(portion.works, turn=turn)
            else:
                turn.progress = turn.advanced(Counts(), last=True)
                await self._patiently(partial(self._book.report, self._epoch, turn.progress))
        except Exception as error:  # supervision point: as for live work, a commit that fails ends the run
            raise _Stopped(error) from error
        await self.ground.in_flight.release()
        return turn

    # ---- how it ends

    async def _fail(self, job: Job, error: PenstockError) -> None:
        said = f"{self.ground.pipeline.name}: job {job.id}, {job.kind}, failed: {error}"
        self.options.log(Incident("error", error.code, said, error.help, why=error.why))
        await self._settle(await self._patiently(partial(self._book.find, job.id)))
        await self._end(job.id, "failed", JobError(error.code, error.message, error.why, error.help))

    async def _settle(self, job: Job) -> None:
        """Before the records of a job go that does not go on: what its last carrier died at, some ledgers may have taken; where
        its kind keeps that elsewhere, it is noted there."""
        if f"settle_{job.kind}" not in ROOMS:
            return
        portion: Portion | None = await room(f"settle_{job.kind}")(job, self.ground)
        if portion is None:
            return
        try:
            await self._commit(portion, job.progress)
        except _Stopped as stopped:
            raise stopped.reason from stopped

    async def _end(self, identity: str, ending: Ending, error: JobError | None = None) -> None:
        """Its records in the ledgers go last (rule 10)."""
        await self._patiently(partial(self._book.end, self._epoch, identity, ending, error))
        self.options.faults.hit("after_job_end")
        for ledger in self.ground.claimed.ledgers:
            ledger.forget(identity)
            await self._patiently(partial(ledger.ledger.forget_jobs, identity))

    async def _patiently(self, action: Callable[[], Awaitable[T]]) -> T:
        """A step in the state store or in a ledger: the commits wait for the same, and report it."""
        return await persistently(action, PATIENT, self.options.random, self.options.clock, lambda error: None)


class _Stopped(Exception):  # not the job's matter: what ends the run
    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _rate_of(job: Job) -> float | None:
    try:
        return msgspec.json.decode(job.options, type=CommonOptions).rate
    except msgspec.MsgspecError as error:
        raise UsageError("job.bad_options", f"the options of job {job.id} cannot be read", why=str(error)) from error
