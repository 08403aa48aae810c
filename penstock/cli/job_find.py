"""A stored job by the beginning of its id, in whichever pipeline's store it is."""

from __future__ import annotations

from penstock.cli.lazy import Settings
from penstock.cli.project import find_stores
from penstock.cli.stores import StoreRef, if_it_ran
from penstock.errors import UsageError
from penstock.state.job_records import Job
from penstock.state.store import StateStore


async def find_job(settings: Settings, prefix: str) -> tuple[StoreRef, Job]:
    """The job, and where it is kept.

    :raises UsageError: `job.unknown`, `job.ambiguous`.
    """
    found: list[tuple[StoreRef, Job]] = []
    for ref in find_stores(settings, []):
        job = await if_it_ran(ref, lambda store: _job(store, prefix), None)
        if job is not None:
            found.append((ref, job))
    if not found:
        raise UsageError("job.unknown", f"no job begins with {prefix!r}", help="pipe jobs ls lists them")
    if len(found) > 1:
        names = ", ".join(f"{job.id} of {ref.pipeline}" for ref, job in found)
        raise UsageError("job.ambiguous", f"more than one job begins with {prefix!r}: {names}", help="write more of it")
    return found[0]


async def _job(store: StateStore, prefix: str) -> Job | None:
    try:
        return await store.jobs.find(prefix)
    except UsageError as error:
        if error.code != "job.unknown":
            raise
        return None
