"""The carrier of live backfills: past events go through the steps of today, and to the sinks that did not have them (rule 10).

Each sink gets an event once: what the journal says it had, it does not get again, unless `redeliver` asks for it; what a ledger
recorded for this job before a crash is not offered to it again. An event with a dead letter is left to that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import groupby, islice

import msgspec

from backfill.rehearsal import chosen_by, event_filter
from backfill.request import Request
from penstock.clock import moment_of
from penstock.cloudevents import timestamp
from penstock.engine.carrying import Ground, Portion
from penstock.engine.letters import DECODE, SOURCE, letter_id
from penstock.engine.owed import Had, event_name
from penstock.engine.pool import WorkerPool
from penstock.engine.recompute import BATCH, Recompute
from penstock.engine.tally import Tally
from penstock.engine.work import Work
from penstock.errors import UsageError
from penstock.event import Event
from penstock.journal.lines import Line
from penstock.journal.opened import Mark, Record
from penstock.journal.reader import JournalReader
from penstock.ledger import Key
from penstock.spi import Batch, Program
from penstock.state.job_records import Job
from penstock.state.pipeline_records import Version
from penstock.state.records import LetterQuery

HELD, LETTERS, REPEATED, LEFT_OUT = "held", "letters", "repeated", "left_out"
"""What the job counts beside outcomes: had by every sink before; left to its dead letter; a repetition; not of the filter."""


@dataclass(slots=True)
class Owed:
    """A past event, and the sinks that are to get it.

    :ivar due: their bit mask; `recorded`: ledgers that have its key from itself already.
    """

    line: Line
    due: int
    key: Key | None = None
    recorded: set[str] = field(default_factory=set)


@dataclass(slots=True)
class LiveCarrier:
    """`JobCarrier` of the kind `backfill`."""

    job: Job
    ground: Ground
    request: Request
    reader: JournalReader
    filter: Program | None
    _had: Had = field(default_factory=lambda: Had(()))
    _recorded: Mapping[str, set[str]] = field(default_factory=dict)
    _recompute: Recompute | None = None
    _pool: WorkerPool | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def open(self) -> None:
        """See `JobCarrier.open`."""
        pipeline, claimed = self.ground.pipeline, self.ground.claimed
        if pipeline.version != self.request.version:
            raise UsageError(
                "backfill.changed",
                f"job {self.job.id} was asked for with another version of {pipeline.name} than the one that runs now",
                help="start another backfill",
            )
        self._recompute = Recompute(pipeline, answering=claimed.performing)
        if pipeline.workers:
            self._pool = WorkerPool(pipeline, self.ground.assembly.surroundings, self.ground.status)
            self._stack.push_async_callback(self._pool.close)
            await self._pool.start()
        versions = await claimed.store.versions()
        self._had = await asyncio.to_thread(self._look_up, versions)
        self._recorded = {
            ledger.name: {record.event for record in ledger.claim.jobs}  # whichever job died at it
            for ledger in claimed.ledgers
            if ledger.claim is not None
        }

    def _look_up(self, versions: Sequence[Version]) -> Had:
        lines = (record.line for record in self.reader.outcomes_of_jobs())
        return Had.of(list(self.ground.assembly.sinks), versions, lines)

    async def close(self) -> None:
        """See `JobCarrier.close`."""
        await self._stack.aclose()

    async def portions(self, count: int) -> AsyncGenerator[Portion, None]:
        """See `JobCarrier.portions`."""
        records = self.reader.range(self.request.start, self.request.end, after=decode_cursor(self.job.progress.cursor))
        left = self.request.limit - self.job.progress.done if self.request.limit else count
        while left > 0 and (taken := await asyncio.to_thread(self._take, records, min(count, left))):
            counted: Counter[str] = Counter()
            works = await self._works([record.line for record in taken], counted)
            yield Portion(works, encode_cursor(taken[-1].mark), len(taken), self.ground.pipeline.version, counted)
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

    # ---- from lines to works

    async def _works(self, lines: Sequence[Line], counted: Counter[str]) -> list[Work]:
        chosen = chosen_by(self.filter, lines)
        counted[LEFT_OUT] += len(lines) - len(chosen)
        open_letters = await self._open_letters(chosen)
        owed = [Owed(line, due) for line in chosen if (due := self._due(line, open_letters, counted))]
        await self._find_repetitions(owed)
        left = [each for each in owed if each.due]
        counted[REPEATED] += len(owed) - len(left)
        return [await self._work(batch) for batch in _batches(left)]

    async def _open_letters(self, lines: Sequence[Line]) -> set[str]:
        """Of the dead letters that the lines name, those that no delivery has settled: they are not this job's matter."""
        names = [self._letter(line) for line in lines if self._had.failed(line)] if self.request.redeliver else []
        if not names:
            return set()
        query = LetterQuery(ids=names, status=("open", "parked", "replaying", "discarded"))
        letters, _ = await self.ground.claimed.store.letters(query, limit=len(names), bodies=False)
        return {letter.id for letter in letters}

    def _letter(self, line: Line) -> str:
        return line.letter or letter_id(self.ground.pipeline.name, line.received())

    def _due(self, line: Line, open_letters: set[str], counted: Counter[str]) -> int:
        """The sinks that are to get the event of a line, as a bit mask; where there are none, why not is counted."""
        if line.outcome == "deduplicated":
            counted[REPEATED] += 1
            return 0
        had, request = self._had, self.request
        if had.failed(line) and (not request.redeliver or line.step in (SOURCE, DECODE) or self._letter(line) in open_letters):
            counted[LETTERS] += 1
            return 0
        wanted = had.mask(request.sinks or had.sinks)
        due = wanted if request.redeliver else wanted & ~had.before(line)
        if not due:
            counted[HELD] += 1
        return due

    async def _find_repetitions(self, owed: Sequence[Owed]) -> None:
        """What a sink has from another event of the same key by now, it does not get. A key that an event brought itself, when it
        was delivered to other sinks, or filtered, does not stand in its way (rule 10)."""
        keys = self.ground.assembly.keys
        if keys is None or keys.positional or not owed:
            return
        for each in owed:
            event = each.line.received()
            (each.key,) = keys.of(Batch(each.line.partition, [event]), [event], Tally())
        wanted = sorted({each.key.key for each in owed if each.key is not None})
        await self.ground.in_flight.reserve(set(wanted))
        for ledger in self.ground.claimed.ledgers:
            brought, bits = dict(await ledger.seen(wanted)), self._had.mask(ledger.sinks)
            before = set(brought)
            for each in owed:
                if each.key is None or not each.due & bits:
                    continue
                if brought.setdefault(each.key.key, each.key.brought_by) != each.key.brought_by:
                    each.due &= ~bits
                elif each.key.key in before:
                    each.recorded.add(ledger.name)

    async def _work(self, owed: Sequence[Owed]) -> Work:
        """What the steps make of some events of one moment, partition and version, for the sinks that are to get it."""
        clock, had, ledgers = self.ground.assembly.surroundings.clock, self._had, self.ground.claimed.ledgers
        lines = [each.line for each in owed]
        outputs, routes, tally, received, filled = await self._run(lines)
        work = Work(Batch(lines[0].partition, received), clock.monotonic(), moment_of(clock), filled)
        work.names = dict(enumerate(map(event_name, lines)))
        work.due = {origin: each.due for origin, each in enumerate(owed) if each.due != had.mask(had.sinks)}
        work.keys = {origin: each.key for origin, each in enumerate(owed) if each.key is not None}
        work.sink_ledgers = tuple(next(one.name for one in ledgers if sink in one.sinks) for sink in had.sinks)
        for ledger in ledgers:
            bits, recorded = had.mask(ledger.sinks), self._recorded.get(ledger.name, ())
            held = {n for n, each in enumerate(owed) if not each.due & bits or work.names[n] in recorded}
            work.verdicts.held[ledger.name] = held
            work.verdicts.recorded[ledger.name] = {n for n, each in enumerate(owed) if ledger.name in each.recorded}
        if work.due:
            masks = [-1] * len(outputs) if routes is None else routes
            routes = [mask & owed[event.origin].due for event, mask in zip(outputs, masks, strict=True)]
        work.take(outputs, routes, tally)
        return work

    async def _run(self, lines: Sequence[Line]) -> tuple[list[Event], list[int] | None, Tally, list[Event], list[Event]]:
        """Outputs with their routes; the events as the source gave them, and as they went into the steps."""
        assert self._recompute is not None, "opened before"
        if self._pool is None:
            made = await self._recompute.run(lines)
            for origin in made.stopped:
                raise made.tally.failures[origin].error
            return made.outputs, made.routes, made.tally, made.received, made.filled
        tally, received = Tally(), [line.received() for line in lines]
        for origin, event in enumerate(received):
            event.origin = origin
        outputs, routes = await self._pool.run(received, tally, now=timestamp(lines[0].at), prepare=True)
        return outputs, routes, tally, received, received


def _batches(owed: Sequence[Owed]) -> Iterator[list[Owed]]:
    """Of one moment, partition and version each."""
    for _, group in groupby(owed, lambda each: (each.line.at, each.line.partition, each.line.version)):
        while batch := list(islice(group, BATCH)):
            yield batch


def carry_backfill(job: Job, ground: Ground) -> LiveCarrier:
    """:raises UsageError: `job.bad_options`, `backfill.no_journal`, `backfill.filter`."""
    try:
        request = msgspec.json.decode(job.options, type=Request)
    except msgspec.MsgspecError as error:
        raise UsageError("job.bad_options", f"the options of job {job.id} cannot be read", why=str(error)) from error
    journal = ground.pipeline.journal
    if journal is None:
        raise UsageError("backfill.no_journal", f"the pipeline {ground.pipeline.name} keeps no journal")
    return LiveCarrier(job, ground, request, JournalReader(journal.directory), event_filter(request.filter))


async def settle_backfill(job: Job, ground: Ground) -> list[Work]:
    """What ledgers took of a backfill's portion that was never noted, for the journal to say so: no sink gets any of it again.

    :raises PenstockError: as `carry_backfill`.
    """
    unsettled = {
        ledger.name: names
        for ledger in ground.claimed.ledgers
        if ledger.claim is not None and (names := {record.event for record in ledger.claim.jobs if record.job == job.id})
    }
    if not unsettled or ground.pipeline.journal is None:
        return []
    lines = await asyncio.to_thread(_lines_of, carry_backfill(job, ground), set().union(*unsettled.values()))
    had, works = Had(list(ground.assembly.sinks)), list[Work]()
    clock = ground.assembly.surroundings.clock
    for name, line in lines.items():
        mask = sum(had.mask(ledger.sinks) for ledger in ground.claimed.ledgers if name in unsettled.get(ledger.name, ()))
        event = line.received()
        work = Work(Batch(line.partition, [event]), clock.monotonic(), moment_of(clock), [event])
        work.outputs, work.routes, work.due, work.names = [event], [mask], {0: mask}, {0: name}
        work.verdicts.held = {ledger.name: {0} for ledger in ground.claimed.ledgers}
        works.append(work)
    return works


def _lines_of(carrier: LiveCarrier, names: set[str]) -> dict[str, Line]:
    """The lines of these events, by name, behind the cursor. Blocking."""
    request, found = carrier.request, dict[str, Line]()
    for record in carrier.reader.range(request.start, request.end, after=decode_cursor(carrier.job.progress.cursor)):
        name = event_name(record.line)
        if name in names:
            found[name] = record.line
        if len(found) == len(names):
            break
    return found


def encode_cursor(mark: Mark) -> bytes:
    """Behind this line."""
    return msgspec.json.encode(mark)


def decode_cursor(cursor: bytes) -> Mark | None:
    """None: the beginning."""
    return msgspec.json.decode(cursor, type=Mark) if cursor else None
