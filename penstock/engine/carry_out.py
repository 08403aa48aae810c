"""A job where no run is alive: the command that made it holds the pipeline, claims its ledgers, and carries it out (rule 10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from penstock.config.model import Pipeline
from penstock.engine.assemble import Assembly, Surroundings, assemble
from penstock.engine.carrying import Ground
from penstock.engine.claim import claim_pipeline
from penstock.engine.flow import Flow
from penstock.engine.in_flight import InFlight
from penstock.engine.jobs import Jobs
from penstock.engine.run import RunOptions
from penstock.engine.tasks import call_off
from penstock.errors import PenstockError
from penstock.observe.status import RunStatus
from penstock.state.job_records import Job, JobProgress
from penstock.state.open import open_store
from penstock.state.store import StateStore


@asynccontextmanager
async def open_state(pipeline: Pipeline, options: RunOptions) -> AsyncIterator[tuple[StateStore, Assembly]]:
    """The pipeline's store, for reading and for making jobs, beside a live run or not; and its parts, none of them opened."""
    store = open_store(pipeline.state, pipeline.name, options.clock, options.faults, pipeline.state_server)
    try:
        await store.open()
        yield store, assemble(pipeline, _surroundings(options))
    finally:
        await store.close()


async def carry_out(
    pipeline: Pipeline,
    identity: str,
    options: RunOptions,
    told: Callable[[JobProgress], None] = lambda progress: None,
    stopping: asyncio.Event | None = None,
) -> Job:
    """Carry out one job, and no other: older ones wait for a run.

    :param told: hears how far it is, after each portion.
    :param stopping: when set, the job stops behind the portion that is under way, and waits for whoever holds the pipeline next.
    :return: the job as it stands then.
    :raises EnvironmentFault: `state.held`: a run is alive, and carries it out.
    :raises PenstockError: why it failed.
    """
    async with AsyncExitStack() as stack:
        assembly = assemble(pipeline, _surroundings(options))
        status = RunStatus(pipeline.name, pipeline.version)
        claimed = await claim_pipeline(assembly, options, status, stack, reads=False)
        stack.push_async_callback(assembly.source.close)
        in_flight = InFlight(Flow(pipeline.limits, status), options.clock)
        jobs = Jobs(Ground(assembly, claimed, status, in_flight, reading=False), options, identity, told)
        jobs.finish()
        await _run(jobs, stopping)
        await claimed.finish(drained=claimed.standing.drained)  # a job reads nothing of the source
        job = await claimed.store.jobs.find(identity)
    if job.error is not None:
        raise PenstockError(job.error.code, job.error.message, why=job.error.why, help=job.error.help)
    return job


async def carry_out_or_withdraw(
    pipeline: Pipeline,
    identity: str,
    options: RunOptions,
    told: Callable[[JobProgress], None] = lambda progress: None,
    stopping: asyncio.Event | None = None,
) -> Job:
    """As `carry_out`; a job that could not even begin, but for a run that is alive, is withdrawn, so that no later run does what
    its maker was told had failed."""
    try:
        return await carry_out(pipeline, identity, options, told, stopping)
    except PenstockError as error:
        if error.code != "state.held":
            async with open_state(pipeline, options) as (store, _):
                await store.jobs.withdraw(identity)
        raise


async def _run(jobs: Jobs, stopping: asyncio.Event | None) -> None:
    running = asyncio.create_task(jobs.run(), name="jobs")
    stop = asyncio.create_task((stopping or asyncio.Event()).wait(), name="stop")
    try:
        await asyncio.wait((running, stop), return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            jobs.stop()
        await running
    finally:
        await call_off(running, stop)


def _surroundings(options: RunOptions) -> Surroundings:
    return Surroundings(options.clock, options.random, options.faults, options.log)
