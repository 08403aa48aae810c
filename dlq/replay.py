"""Replay: dead letters go from the start through today's pipeline, and their delivery resolves them (rules 7, 9 and 10).

With no run alive, the command is the run: it holds the pipeline, claims its ledgers and commits in the same groups, as a job in a
scope of its own: positions and counts stay as they are. Each ledger records (job, event) in the transaction that takes the event,
so that a crash between delivery and resolution is settled at the next claim, never by delivering twice.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import msgspec

from penstock.clock import Clock
from penstock.cloudevents import from_structured
from penstock.config.model import Pipeline
from penstock.engine.assemble import Assembly, Surroundings, assemble
from penstock.engine.claim import Claimed, claim_pipeline
from penstock.engine.dedup import judge
from penstock.engine.outcomes import count_outcomes
from penstock.engine.pool import WorkerPool
from penstock.engine.run import RunOptions
from penstock.engine.stages import Tally
from penstock.engine.work import Work
from penstock.errors import ComponentError, Oversized, Permanent
from penstock.event import Event
from penstock.faults import Faults
from penstock.observe.status import RunStatus
from penstock.spi import Batch, Counts, Key, Rereadable, Resume, Source
from penstock.state.records import DeadLetter, LetterQuery
from penstock.state.store import StateStore

PAGE = 200
SOURCE = "source"
"""Step of what the source could make no event of."""


@dataclass(slots=True)
class ReplaySummary:
    """What a replay did. `selected` = delivered + filtered + deduplicated + failed_again.

    :ivar job: its id; empty for a dry run.
    """

    job: str = ""
    selected: int = 0
    delivered: int = 0
    filtered: int = 0
    deduplicated: int = 0
    failed_again: int = 0

    def add(self, counts: Counts) -> None:
        self.selected += counts.received
        self.delivered += counts.delivered
        self.filtered += counts.filtered
        self.deduplicated += counts.deduplicated
        self.failed_again += counts.dead_lettered


@dataclass(slots=True)
class _Replay:
    assembly: Assembly
    claimed: Claimed
    job: str
    pool: WorkerPool | None
    summary: ReplaySummary = field(default_factory=ReplaySummary)
    opening: asyncio.Future[None] | None = None

    async def run_page(self, letters: Sequence[DeadLetter], *, dry_run: bool) -> None:
        """One page: processed a partition at a time, committed as one group."""
        by_partition: defaultdict[str, list[DeadLetter]] = defaultdict(list)
        for letter in letters:
            by_partition[letter.partition].append(letter)
        works = [await self._process(partition, chosen) for partition, chosen in by_partition.items()]
        if not dry_run:
            await self.claimed.store.set_status(self.claimed.epoch, [letter.id for letter in letters], "replaying", job=self.job)
            failed = await self.claimed.committer.commit(works)
        else:
            failed = [set() for _ in works]
        for work, sink_failed in zip(works, failed, strict=True):
            self.summary.add(count_outcomes(work, sink_failed))

    async def _process(self, partition: str, letters: Sequence[DeadLetter]) -> Work:
        assembly, tally = self.assembly, Tally()
        received, rejects = await self._received(partition, letters)
        batch = Batch(partition, received, rejects=rejects)
        work = Work(batch, assembly.surroundings.clock.monotonic(), letters={i: letter.id for i, letter in enumerate(letters)})
        for origin, event in enumerate(received):
            event.origin = origin
        events = assembly.preparer.prepare(received, tally, rejects)
        keys: Sequence[Key | None] = assembly.keys.of(batch, events, tally) if assembly.keys else ()
        work.keys = {event.origin: key for event, key in zip(events, keys, strict=False) if key is not None}
        work.sink_ledgers = tuple(end.ledger for end in self.claimed.committer.sinks)
        work.taken = self._taken(letters)
        held: dict[str, set[int] | range] = {
            ledger.name: {i for i, letter in enumerate(letters) if ledger.name not in letter.owed}
            for ledger in self.claimed.ledgers
        }
        work.verdicts = await judge(batch, events, keys, self.claimed.ledgers, self.claimed.store, held, letters_too=False)
        todo = [e for e in events if e.origin not in work.verdicts.dropped and e.origin not in tally.failures]
        if self.pool is not None:
            outputs, routes = await self.pool.run(todo, tally, prepare=False)
        else:
            outputs, routes = await assembly.chain.run(todo, tally)
        work.take(outputs, routes, tally)
        return work

    async def _received(self, partition: str, letters: Sequence[DeadLetter]) -> tuple[list[Event], dict[int, ComponentError]]:
        """The events as the source gave them. Of what it could make no event, it is asked again."""
        events: list[Event] = []
        rejects: dict[int, ComponentError] = {}
        for index, letter in enumerate(letters):
            event = received_event(letter)
            if letter.reread or letter.step == SOURCE:
                try:
                    event = await self._again(partition, letter)
                except ComponentError as error:
                    rejects[index] = _still(letter, error)
            events.append(event)
        return events, rejects

    async def _again(self, partition: str, letter: DeadLetter) -> Event:
        source = self.assembly.source
        if isinstance(source, Rereadable):
            await self._open(source)
            event = await source.reread(partition, letter.position)
            if event.id == letter.event_id:
                return event
        raise Permanent(letter.code, letter.message, why=letter.why, help=letter.help)

    async def _open(self, source: Source) -> None:
        """Once, when the first record has to be read again."""
        if self.opening is None:
            resume = Resume(self.claimed.epoch, self.claimed.standing.positions, once=True)
            self.opening = asyncio.ensure_future(source.open(resume))
        await self.opening

    def _taken(self, letters: Sequence[DeadLetter]) -> frozenset[tuple[int, int, int]]:
        bits = {end.name: bit for bit, end in enumerate(self.claimed.committer.sinks)}
        return frozenset(
            (bits[taken.sink], origin, taken.output)
            for origin, letter in enumerate(letters)
            for taken in letter.delivered
            if taken.sink in bits
        )


def _still(letter: DeadLetter, error: ComponentError) -> Permanent:
    """Why it fails again. That only the head of a record is kept must not be forgotten."""
    where, why, help = error.where, error.why, error.help
    if not letter.reread:
        return Permanent(error.code, error.message, where=where, why=why, help=help)
    length, digest = letter.original_length, letter.original_digest
    return Oversized(error.code, error.message, length=length, digest=digest, where=where, why=why, help=help)


def received_event(letter: DeadLetter) -> Event:
    """The event of a dead letter as the source emitted it: the start of the pipeline."""
    event = from_structured(letter.record)
    event.position = letter.position
    event.original = letter.original
    if event.raw is None and letter.code.startswith("decode."):
        event.raw = letter.original or b""
        event.original = None
    return event


async def replay(
    pipeline: Pipeline,
    query: LetterQuery,
    *,
    clock: Clock,
    faults: Faults,
    progress: Callable[[int, int], None],
    dry_run: bool = False,
) -> ReplaySummary:
    """Replay the open dead letters that the query selects, each once.

    :param progress: called with (done, all) after each page.
    :param dry_run: process, and deliver nothing; the pipeline must still not be running.
    :raises EnvironmentFault: `state.held`, where a run of the pipeline is alive; its process id is named.
    """
    options = RunOptions(clock=clock, faults=faults, random=random.Random())
    async with AsyncExitStack() as stack:
        assembly = assemble(pipeline, Surroundings(clock, options.random, faults))
        status = RunStatus(pipeline.name, pipeline.version)
        claimed = await claim_pipeline(assembly, options, status, stack)
        stack.push_async_callback(assembly.source.close)
        pool = await _workers(pipeline, assembly, status, stack)
        job = "" if dry_run else await claimed.store.create_job("replay", msgspec.json.encode(query).decode())
        claimed.committer.job = job
        work = _Replay(assembly, claimed, job, pool, ReplaySummary(job))
        await _all_pages(claimed.store, query, work, progress, dry_run)
        await claimed.finish(drained=claimed.standing.drained)  # a replay reads nothing of the source
        if not dry_run:
            await claimed.store.finish_job(job)
            for ledger in claimed.ledgers:
                await ledger.ledger.forget_jobs(job)
        return work.summary


async def _workers(pipeline: Pipeline, assembly: Assembly, status: RunStatus, stack: AsyncExitStack) -> WorkerPool | None:
    if not pipeline.workers:
        return None
    pool = WorkerPool(pipeline, assembly.surroundings, status)
    stack.push_async_callback(pool.close)
    await pool.start()
    return pool


async def _all_pages(
    store: StateStore, query: LetterQuery, work: _Replay, progress: Callable[[int, int], None], dry_run: bool
) -> None:
    total = sum(group.count for group in await store.letter_groups(query))
    done, cursor = 0, None
    while True:
        listed, cursor = await store.letters(query, after=cursor, limit=PAGE, bodies=False)
        for ids in _portions(listed, work.assembly.pipeline.batching.bytes):
            letters, _ = await store.letters(LetterQuery(ids=ids, status=()), limit=len(ids))
            await work.run_page(letters, dry_run=dry_run)
            done += len(letters)
            progress(done, total)
        if cursor is None:
            return


def _portions(letters: Sequence[DeadLetter], size: int) -> Iterator[list[str]]:
    """Ids of letters whose records have at most so many bytes together, or of one letter (Invariant 8)."""
    portion: list[str] = []
    room = size
    for letter in letters:
        room -= letter.original_length
        if portion and room < 0:
            yield portion
            portion, room = [], size - letter.original_length
        portion.append(letter.id)
    if portion:
        yield portion
