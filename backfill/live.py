"""The carrier of live backfills: past events go through the steps of today, or of another version, and to the sinks of today that
did not have them (rule 10).

Each sink gets an event once: what the journal says it had, it does not get again, unless `redeliver` asks for it; what a ledger
recorded for this job before a crash is not offered to it again. An event with a dead letter is left to that. Where lanes are
parked, the events are in theirs: what comes behind a head waits behind it (rule 12).
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import groupby, islice

import msgspec

from backfill.admission import check_lanes, check_sinks
from backfill.dues import LEFT_OUT, Dues, Owed
from backfill.readers import own_journal, range_of
from backfill.rehearsal import chosen_by, event_filter
from backfill.request import Cursor, Request, decode_cursor
from penstock.clock import moment_of
from penstock.cloudevents import timestamp
from penstock.config.model import Pipeline
from penstock.engine.assemble import assemble_steps
from penstock.engine.carrying import Ground, Portion
from penstock.engine.lanes import lane_key
from penstock.engine.other_steps import Routing, refuse_other_keys, steps_of
from penstock.engine.owed import Had, event_name
from penstock.engine.pool import WorkerPool
from penstock.engine.recompute import BATCH, Recompute, Recomputed
from penstock.engine.work import Work, only_due
from penstock.errors import UsageError
from penstock.event import Event
from penstock.journal.lines import Line
from penstock.journal.opened import Mark, Record
from penstock.journal.reader import JournalReader
from penstock.spi import Batch, Program
from penstock.state.job_records import Job
from penstock.state.pipeline_records import Version


@dataclass(slots=True)
class LiveCarrier:
    """`JobCarrier` of the kind `backfill`.

    :ivar reader: of what its events lie in: the pipeline's journal, or the copy of a native range.
    :ivar journal: the pipeline's own, which tells what jobs did; None: it keeps none.
    """

    job: Job
    ground: Ground
    request: Request
    reader: JournalReader
    journal: JournalReader | None
    filter: Program | None
    _dues: Dues | None = None
    _begun: Mark = Mark(0, 0, 0)
    _routing: Routing = field(default_factory=lambda: Routing((), same=True))
    _recorded: Mapping[str, set[str]] = field(default_factory=dict)
    _recompute: Recompute | None = None
    _pool: WorkerPool | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self) -> None:
        """See `JobCarrier.open`."""
        pipeline, claimed = self.ground.pipeline, self.ground.claimed
        steps = await self._steps()
        recompute = self._recompute = Recompute(steps, answering=claimed.performing)
        self._routing = Routing.between(steps, pipeline)
        if steps.workers:
            self._pool = WorkerPool(steps, self.ground.assembly.surroundings, self.ground.status)
            self._stack.push_async_callback(self._pool.close)
            await self._pool.start()
        versions = await claimed.store.versions()
        had = await asyncio.to_thread(self._look_up, versions)
        wanted = had.mask(self.request.sinks or had.sinks) & self._routing.mask
        begun = math.inf if self.job.started_at is None else self.job.started_at
        self._dues = Dues(self.ground, self.request, had, wanted, begun, lambda line: recompute.prepared([line])[0].filled[0])
        self._recorded = {
            ledger.name: {record.event for record in ledger.claim.jobs}  # whichever job died at it
            for ledger in claimed.ledgers
            if ledger.claim is not None
        }

    async def _steps(self) -> Pipeline:
        """The pipeline whose steps are run.

        :raises UsageError: as `steps_of` and `admission`; `backfill.changed`, `replay.other_keys`.
        """
        today, request, surroundings = self.ground.pipeline, self.request, self.ground.assembly.surroundings
        if today.version == request.version:
            return today
        if not request.against:
            raise UsageError(
                "backfill.changed",
                f"job {self.job.id} was asked for with another version of {today.name} than the one that runs now",
                help=f"start another backfill; or one with the steps of that version: --against {request.version[:12]}",
            )
        steps = await steps_of(today, request.version, self.ground.claimed.store, surroundings.log)
        check_sinks(steps, request, today)
        check_lanes(steps, today)
        theirs = assemble_steps(steps, surroundings, has_positions=self.ground.assembly.source.has_positions).keys
        refuse_other_keys(self.ground.assembly.keys, theirs, steps.version, "deliver with steps that give them today's")
        return steps

    def _look_up(self, versions: Sequence[Version]) -> Had:
        """Blocking."""
        names = list(self.ground.assembly.sinks)
        if self.journal is None:
            return Had.of(names, versions, ())
        if not self.job.progress.cursor:
            return Had.of(names, versions, self._all_by_now(self.journal))
        begun = self._begun = decode_cursor(self.job.progress.cursor).begun
        before = (record.line for record in self.journal.outcomes_of_jobs() if record.mark <= begun)
        since = (record.line for record in self.journal.outcomes_of_jobs() if record.mark > begun)
        return Had.of(names, versions, before, since)

    def _all_by_now(self, journal: JournalReader) -> Iterator[Line]:
        for record in journal.outcomes_of_jobs():
            self._begun = record.mark
            yield record.line

    async def close(self) -> None:
        """See `JobCarrier.close`."""
        await self._stack.aclose()

    async def portions(self, count: Callable[[], int]) -> AsyncGenerator[Portion, None]:
        """See `JobCarrier.portions`."""
        records = self.reader.range(self.request.start, self.request.end, after=done_until(self.job))
        left = self.request.limit - self.job.progress.done if self.request.limit else sys.maxsize
        while left > 0 and (taken := await asyncio.to_thread(self._take, records, min(count(), left))):
            await self._check_room()
            counted: Counter[str] = Counter()
            works = await self._works([record.line for record in taken], counted)
            cursor = msgspec.json.encode(Cursor(taken[-1].mark, self._begun))
            yield Portion(works, cursor, len(taken), self.request.version, counted)
            if self.request.limit:
                left -= len(taken)

    def _take(self, records: Iterator[Record], count: int) -> list[Record]:
        """The next lines, no more than a batch may have of them and of bytes (Invariant 8)."""
        taken: list[Record] = []
        room = self.ground.pipeline.batching.bytes
        for record in records:
            taken.append(record)
            room -= len(bytes(record.line.event))
            if len(taken) >= count or room <= 0:
                break
        return taken

    async def _check_room(self) -> None:
        """A job holds no more lanes than there may be, where a run would end.

        :raises UsageError: `lane.too_many`.
        """
        parking = self.ground.claimed.committer.parking
        if parking is not None and not await parking.has_room():
            raise UsageError(
                "lane.too_many",
                f"{parking.most} lanes are parked, and the backfill may hold more",
                why="what is parked is kept track of in memory, which is bounded",
                help="mend what most of them failed of (pipe dlq groups), replay, then start the backfill again",
            )

    # ---- from lines to works

    async def _works(self, lines: Sequence[Line], counted: Counter[str]) -> list[Work]:
        assert self._dues is not None, "opened before"
        chosen = chosen_by(self.filter, lines)
        counted[LEFT_OUT] += len(lines) - len(chosen)
        owed = await self._dues.of(chosen, counted)
        return [await self._work(batch, self._dues.had) for batch in _batches(owed)]

    async def _work(self, owed: Sequence[Owed], had: Had) -> Work:
        """What the steps make of some events of one moment, partition and version, for the sinks that are to get it."""
        clock, ledgers = self.ground.assembly.surroundings.clock, self.ground.claimed.ledgers
        lines = [each.line for each in owed]
        made = await self._run(lines)
        work = Work(Batch(lines[0].partition, made.received), clock.monotonic(), moment_of(clock), made.filled)
        work.names = dict(enumerate(map(event_name, lines)))
        work.due = {origin: each.due for origin, each in enumerate(owed) if each.due != had.mask(had.sinks)}
        work.before = {origin: self._without(due, had) for origin, due in work.due.items()}
        work.keys = {origin: each.key for origin, each in enumerate(owed) if each.key is not None}
        work.sink_ledgers = tuple(next(one.name for one in ledgers if sink in one.sinks) for sink in had.sinks)
        if self.ground.claimed.committer.parking is not None:
            work.lanes = lanes_of(made.filled)
        for ledger in ledgers:
            bits, recorded = had.mask(ledger.sinks), self._recorded.get(ledger.name, ())
            held = {n for n, each in enumerate(owed) if not each.due & bits or work.names[n] in recorded}
            work.verdicts.held[ledger.name] = held
            work.verdicts.recorded[ledger.name] = {n for n, each in enumerate(owed) if ledger.name in each.recorded}
        routes = self._routing.today(made.routes, len(made.outputs))
        work.take(made.outputs, only_due(work.due, made.outputs, routes), made.tally)
        return work

    def _without(self, due: int, had: Had) -> list[str]:
        """The sinks that share the state store's ledger and are not to get an event."""
        return [
            name
            for ledger in self.ground.claimed.ledgers
            if ledger.sink is None
            for name in ledger.sinks
            if not due & had.mask([name])
        ]

    async def _run(self, lines: Sequence[Line]) -> Recomputed:
        """:raises ComponentError: what would end a run."""
        assert self._recompute is not None, "opened before"
        if self._pool is None:
            made = await self._recompute.run(lines)
            for origin in made.stopped:
                raise made.tally.failures[origin].error
            return made
        made, events = self._recompute.prepared(lines)
        made.outputs, made.routes = await self._pool.run(events, made.tally, now=timestamp(lines[0].at), prepare=False)
        return made


def lanes_of(events: Sequence[Event]) -> dict[int, str]:
    """By their number, the lanes of events as they go into the steps; those without a key are in none."""
    return {origin: lane_key(event.partitionkey) for origin, event in enumerate(events) if event.partitionkey is not None}


def _batches(owed: Sequence[Owed]) -> Iterator[list[Owed]]:
    """Of one moment, partition and version each."""
    for _, group in groupby(owed, lambda each: (each.line.at, each.line.partition, each.line.version)):
        while batch := list(islice(group, BATCH)):
            yield batch


def carry_backfill(job: Job, ground: Ground) -> LiveCarrier:
    """:raises UsageError: `job.bad_options`, `backfill.no_journal`, `backfill.filter`.
    :raises EnvironmentFault: `backfill.no_copy`.
    """
    try:
        request = msgspec.json.decode(job.options, type=Request)
    except msgspec.MsgspecError as error:
        raise UsageError("job.bad_options", f"the options of job {job.id} cannot be read", why=str(error)) from error
    today = ground.pipeline
    return LiveCarrier(job, ground, request, range_of(request, today), own_journal(today), event_filter(request.filter))


def done_until(job: Job) -> Mark | None:
    """The line behind which the job goes on; None: from the beginning."""
    return decode_cursor(job.progress.cursor).mark if job.progress.cursor else None
