"""What goes on beside the events of a run: what people ask of it, and jobs; and how the jobs end with it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from penstock.engine.gathering import End
from penstock.engine.jobs import Jobs
from penstock.engine.signals import Signals
from penstock.engine.supervise import bug
from penstock.engine.tasks import call_off
from penstock.engine.work import Work
from penstock.errors import PenstockError


@dataclass(frozen=True, slots=True)
class Beside:
    """`carry` is a task from the first batch on; `end_jobs` comes behind the last live commit."""

    signals: Signals
    jobs: Jobs

    async def carry(self, ready: asyncio.Queue[Work | End]) -> PenstockError | None:
        """Carry jobs out as long as the run lives. What ends the run, of a job, ends it as of a live batch: `ready` is told.

        :return: it, too.
        """
        try:
            await self.jobs.run()
        except PenstockError as error:
            reason = error
        except Exception as error:  # supervision point: what goes wrong beside the events ends the run all the same
            reason = bug("jobs", error)
        else:
            return None
        ready.put_nowait(End(reason))
        return reason

    async def end_jobs(self, carry: asyncio.Task[PenstockError | None], stopping: asyncio.Event, *, finish: bool) -> None:
        """Before the run says that it ends (rule 10).

        :param finish: open jobs are finished first, unless the run is stopped meanwhile.
        :raises PenstockError: what a job's commit ended the run with.
        """
        if finish and not stopping.is_set():
            self.jobs.finish()
            stopped = asyncio.create_task(stopping.wait())
            await asyncio.wait((carry, stopped), return_when=asyncio.FIRST_COMPLETED)
            await call_off(stopped)
        self.jobs.stop()
        error = await carry
        if error is not None:
            raise error
