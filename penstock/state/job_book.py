"""The jobs of one pipeline in its state store (`StateStore.jobs`). Each method is one transaction.

People create jobs and say what they want of them, whether a run is alive or not. A run carries out those that touch ledgers,
under its epoch (Invariant 6). A job that stands alone (a dry run, a shadow) has an owner instead: `own` it, `take` it, then
`report` and `beat`, and `leave` or `end` it. An owner that was killed no longer beats, and after `LEASE` seconds another process
owns the job and goes on at its cursor; one that wakes up later is fenced.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from typing import TypeVar

from penstock.clock import Clock
from penstock.errors import EnvironmentFault
from penstock.state import job_tables
from penstock.state.database import Database
from penstock.state.dialect import Connection
from penstock.state.job_records import Carrier, Ending, Job, JobError, JobProgress
from penstock.state.pipeline_records import Version
from penstock.state.pipeline_tables import check_epoch, keep_version

T = TypeVar("T")

LEASE = 5.0
"""Seconds without a beat after which an owner counts as dead."""
BEAT = 1.0
"""Seconds between two beats: `report` is one too."""
_LOOKING = 0.2


class JobBook:
    """See the module."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # ---- people

    async def create(
        self,
        kind: str,
        options: str,
        by: str,
        *,
        alone: bool = False,
        total: int | None = None,
        version: Version | None = None,
    ) -> Job:
        """Store a job.

        :param options: JSON, the business of its kind.
        :param by: `user@host`.
        :param alone: it touches no ledger, and stands beside the run.
        :param total: how much there is to do, in the unit of its kind, where that is known.
        :param version: the pipeline version whose steps it runs, which is kept, though it may never have run.
        """
        identity, now = secrets.token_hex(8), self._clock.now()
        job = Job(identity, kind, options, now, by, alone, changed_at=now, progress=JobProgress(identity, total=total))

        def work(db: Connection) -> None:
            if version is not None:
                keep_version(db, version)
            job_tables.create(db, job)

        await self._database.write(work)
        return job

    async def latest(self, limit: int = 100) -> list[Job]:
        """Newest first."""
        return await self._database.look(lambda db: job_tables.latest(db, limit))

    async def open_ones(self) -> list[Job]:
        """Those that have not ended, oldest first. Cheap, and beside a commit that may be under way."""
        return await self._database.look(job_tables.open_ones)

    async def find(self, prefix: str) -> Job:
        """One job, by the beginning of its id.

        :raises UsageError: `job.unknown`, `job.ambiguous`.
        """
        return await self._database.look(lambda db: job_tables.find(db, prefix))

    async def pause(self, prefix: str) -> Job:
        """It is to pause: its carrier stops at the end of a portion. As it stands then. Raises as `find`."""
        return await self._write(lambda db, now: job_tables.ask(db, prefix, "pause", now))

    async def resume(self, prefix: str) -> Job:
        """It is to go on. As it stands then. Raises as `find`."""
        return await self._write(lambda db, now: job_tables.ask(db, prefix, "run", now))

    async def cancel(self, prefix: str) -> Job:
        """It is to end; what it has done stays. One that never began, or that stands alone, has ended at once; any other is ended
        by its carrier, or by the next. As it stands then. Raises as `find`."""
        return await self._write(lambda db, now: job_tables.ask(db, prefix, "cancel", now))

    async def withdraw(self, identity: str) -> None:
        """Who made it could not even begin: nobody else is to. Nothing changes where somebody has begun."""
        await self._write(lambda db, now: job_tables.withdraw(db, identity, now))

    # ---- carriers

    async def recover(self, epoch: int) -> list[Job]:
        """At a claim: the open jobs that a run carries out, oldest first, all of them waiting or paused. What they had taken up
        of dead letters, and not replayed, is open again.

        :raises Fenced: a higher epoch was issued.
        """
        return await self._carry(epoch, "", job_tables.recover)

    async def take(self, carrier: Carrier, identity: str) -> Job:
        """Begin, or go on at its cursor: it is running, unless it is to pause or to end, or has ended. What it had taken up of
        dead letters, and not replayed, is open again.

        :raises Fenced: a higher epoch was issued, or it has another owner.
        """
        return await self._carry(carrier, identity, lambda db, now: job_tables.take(db, identity, now))

    async def report(self, carrier: Carrier, progress: JobProgress) -> Job:
        """How far it is, where no `Note` says so. As it stands then: what is `asked` of it may be something else by now.

        Raises as `take`.
        """

        def work(db: Connection, now: float) -> Job:
            job_tables.report(db, progress, now)
            return job_tables.find(db, progress.job)

        return await self._carry(carrier, progress.job, work)

    async def leave(self, carrier: Carrier, identity: str) -> Job:
        """Let go of it at the end of a portion: it waits for its next carrier, or is paused. Raises as `take`."""
        return await self._carry(carrier, identity, lambda db, now: job_tables.leave(db, identity, now))

    async def end(self, carrier: Carrier, identity: str, ending: Ending, error: JobError | None = None) -> None:
        """It is over; the first end stands. Dead letters that it still held are open again. `forget_jobs` of the ledgers comes
        after. Raises as `take`."""
        await self._carry(carrier, identity, lambda db, now: job_tables.end(db, identity, ending, error, now))

    # ---- jobs that stand alone

    async def own(self, identity: str) -> str:
        """Become the owner of a job that stands alone: at once where it has none, after `LEASE` seconds where that one no longer
        beats.

        :return: the owner's name: the `Carrier` of the other calls.
        :raises EnvironmentFault: `job.held`: its owner lives. `job.over`: it has ended.
        """
        owner = secrets.token_hex(8)
        seen, since = await self.find(identity), self._clock.monotonic()
        while True:
            if not seen.open or not seen.alone:
                raise EnvironmentFault("job.over", f"job {identity} is {seen.state}", help="create another one")
            if not seen.owner or self._clock.monotonic() - since >= LEASE:
                if await self._owned(seen, owner):
                    return owner
            else:
                await self._clock.sleep(_LOOKING)
            job = await self.find(identity)
            if (job.owner, job.beats) != (seen.owner, seen.beats):
                if job.owner:
                    raise _held(job)
                since = self._clock.monotonic()
            seen = job

    async def _owned(self, seen: Job, owner: str) -> bool:
        host, pid = socket.gethostname(), os.getpid()
        return await self._database.write(lambda db: job_tables.own(db, seen, owner, host, pid))

    async def beat(self, owner: str, identity: str) -> None:
        """Its owner lives. At least every `BEAT` seconds where nothing is reported.

        :raises Fenced: it has another owner.
        """
        await self._database.write(lambda db: job_tables.beat(db, identity, owner))

    async def _write(self, work: Callable[[Connection, float], T]) -> T:
        now = self._clock.now()
        return await self._database.write(lambda db: work(db, now))

    async def _carry(self, carrier: Carrier, identity: str, work: Callable[[Connection, float], T]) -> T:
        """A carrier's transaction."""

        def checked(db: Connection, now: float) -> T:
            if isinstance(carrier, int):
                check_epoch(db, carrier)  # Invariant 6
            else:
                job_tables.beat(db, identity, carrier)  # Invariant 6
            return work(db, now)

        return await self._write(checked)


def _held(job: Job) -> EnvironmentFault:
    return EnvironmentFault(
        "job.held",
        f"job {job.id} is being carried out by process {job.pid} on {job.host}",
        help="let it work, or stop that process",
    )
