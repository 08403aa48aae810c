"""What carries a job of one kind out: the contract between the run (`jobs`) and the outer rooms (`dlq`, `backfill`).

A carrier reads what the job is about, processes it, and gives it in portions; the run commits each portion as a group of its own
before it asks for the next, and writes how far the job is with it. A carrier that is opened anew goes on at the cursor that went
with the last portion that was committed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from penstock.builtins import ROOMS, room
from penstock.clock import Clock
from penstock.config.model import Pipeline
from penstock.engine.assemble import Assembly
from penstock.engine.claimed import Claimed
from penstock.engine.in_flight import InFlight
from penstock.engine.work import Work
from penstock.errors import UsageError
from penstock.observe.status import RunStatus
from penstock.state.job_records import Job


@dataclass(frozen=True, slots=True)
class Ground:
    """What a carrier stands on: the run that carries the job out.

    :ivar in_flight: the dedup keys on their way; a carrier reserves those of its portion before it looks anything up.
    :ivar reading: the source is open, and read by the run.
    """

    assembly: Assembly
    claimed: Claimed
    status: RunStatus
    in_flight: InFlight
    reading: bool

    @property
    def pipeline(self) -> Pipeline:
        """As it is today."""
        return self.assembly.pipeline


@dataclass(frozen=True, slots=True)
class Portion:
    """What is committed together.

    :ivar works: processed; none where nothing is to be delivered. `Work.names` names each event for the ledgers' records.
    :ivar cursor: where the job goes on behind it; None: behind the next portion, which belongs to this one.
    :ivar done: how much of the job's total it is.
    :ivar others: what the job counts besides the outcomes.
    :ivar version: of the pipeline whose steps processed it.
    """

    works: list[Work]
    cursor: bytes | None
    done: int
    version: str
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def events(self) -> int:
        """How many events it brings."""
        return sum(len(work.batch.events) for work in self.works)


class JobCarrier(Protocol):
    """`open`, then `portions` once, then `close`, whatever happened. Made anew for each attempt.

    What `open` and `portions` raise ends the job as failed, but for `Transient` (tried again from the cursor) and `Fenced`.
    """

    async def open(self) -> None:
        """Build what it needs.

        :raises PenstockError: the job cannot be carried out: its options, or the pipeline version, are no longer there.
        """
        ...

    def portions(self, count: Callable[[], int]) -> AsyncGenerator[Portion, None]:
        """From the cursor on, each committed before the next is asked for. Closed early where the run ends or somebody asks.

        :param count: events that the next portion may have, as of now; its bytes are bounded by `batching.bytes` (Invariant 8).
        """
        ...

    async def close(self) -> None: ...


class MakeCarrier(Protocol):
    """What an outer room gives for a kind of job: `room("carry_" + kind)`."""

    def __call__(self, job: Job, ground: Ground) -> JobCarrier: ...


def carrier_of(job: Job, ground: Ground) -> JobCarrier:
    """:raises UsageError: `job.unknown_kind`; and as the kind's `MakeCarrier`."""
    if f"carry_{job.kind}" not in ROOMS:
        raise UsageError(
            "job.unknown_kind", f"nobody carries out jobs of the kind {job.kind!r}", help="was it made by a newer version?"
        )
    make: MakeCarrier = room(f"carry_{job.kind}")
    return make(job, ground)


async def timed(
    portions: AsyncGenerator[Portion, None], ground: Ground, clock: Clock
) -> AsyncGenerator[tuple[Portion, float], None]:
    """Each with the seconds that it took to make, without those for which it waited for live work."""
    while True:
        began, waited = clock.monotonic(), ground.in_flight.waited
        portion = await anext(portions, None)
        if portion is None:
            return
        yield portion, clock.monotonic() - began - (ground.in_flight.waited - waited)
