"""Replay: dead letters go from the start through today's pipeline, and their delivery resolves them (rules 7, 9 and 10).

With no run alive, the command is the run: it holds the pipeline, claims its ledgers and commits in the same groups, as a job in a
scope of its own: positions and counts stay as they are. Each ledger records (job, event) in the transaction that takes the event,
so that a crash between delivery and resolution is settled at the next claim, never by delivering twice.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec

from dlq.debts import Debts, debts_of
from dlq.received import Portion, Received, received_event, still_failing
from penstock.clock import Clock, moment_of
from penstock.config.model import Pipeline
from penstock.engine.assemble import Assembly, Surroundings, assemble
from penstock.engine.claim import Claimed, claim_pipeline
from penstock.engine.dedup import judge
from penstock.engine.letters import SOURCE
from penstock.engine.outcomes import count_outcomes
from penstock.engine.pool import WorkerPool
from penstock.engine.run import RunOptions
from penstock.engine.tally import Tally
from penstock.engine.work import Work
from penstock.errors import ComponentError, Permanent
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Counts
from penstock.observe.status import RunStatus
from penstock.spi import Batch, Readmitting, Rereadable, Resume, Source
from penstock.state.records import DeadLetter, LetterQuery, Status
from penstock.state.store import StateStore

PAGE = 200
REPLAYABLE: frozenset[Status] = frozenset({"open", "parked", "replaying"})


@dataclass(slots=True)
class ReplaySummary:
    """What a replay did. `selected` = delivered + filtered + deduplicated + failed_again + left.

    :ivar job: its id; empty for a dry run.
    :ivar left: letters that were not touched, for the pipeline has none of the ledgers that owe them.
    :ivar unknown_ledgers: by the name of a ledger that the pipeline no longer has, how many of these letters it still owes: the
        ones that were left, and others, which are delivered but for that and stay open.
    """

    job: str = ""
    selected: int = 0
    delivered: int = 0
    filtered: int = 0
    deduplicated: int = 0
    failed_again: int = 0
    left: int = 0
    unknown_ledgers: Counter[str] = field(default_factory=Counter)

    def add(self, counts: Counts, held: int) -> None:
        """:param held: events that every ledger which owed them holds by now."""
        self.selected += counts.received + held
        self.delivered += counts.delivered
        self.filtered += counts.filtered
        self.deduplicated += counts.deduplicated + held
        self.failed_again += counts.dead_lettered


@dataclass(slots=True)
class _Replay:
    assembly: Assembly
    claimed: Claimed
    job: str
    pool: WorkerPool | None
    debts: Debts
    summary: ReplaySummary = field(default_factory=ReplaySummary)
    opening: asyncio.Future[None] | None = None

    async def run_page(self, letters: Sequence[DeadLetter], *, dry_run: bool) -> None:
        """One page, a partition at a time in read order, committed as one group. What shares its dedup key with a letter before
        it goes in a later group: whether it is a repetition depends on what became of the other."""
        letters = self._deliverable(letters)
        if not dry_run:
            letters = await self._take_up(letters)
        self.summary.unknown_ledgers.update(name for letter in letters for name in self.debts.unknown(letter))
        received = {letter.id: await self._received(letter) for letter in letters}
        left = sorted(letters, key=lambda letter: (letter.partition, letter.position))
        while left:
            portions, left = self._divided(left, received)
            await self._run_group(portions, dry_run=dry_run)

    def _deliverable(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Those that a ledger of today owes. The others are left as they are, and told."""
        chosen = []
        for letter in map(self.debts.today, letters):
            if self.debts.can_be_delivered(letter):
                chosen.append(letter)
            else:  # Invariant 13: nothing is resolved because nobody is left to take it
                self.summary.selected += 1
                self.summary.left += 1
                self.summary.unknown_ledgers.update(letter.owed)
        return chosen

    async def _take_up(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Those that still wait to be delivered: from now on nobody else settles them. One may have been discarded since."""
        ids = [letter.id for letter in letters]
        store, epoch = self.claimed.store, self.claimed.epoch
        if self.debts.heirs:
            await store.hand_over(epoch, self.debts.heirs, ids)
        taken = set(await store.set_status(epoch, ids, "replaying", job=self.job, among=REPLAYABLE))
        return [letter for letter in letters if letter.id in taken]

    async def _run_group(self, portions: Sequence[Portion], *, dry_run: bool) -> None:
        works = [await self._process(portion) for portion in portions]
        failed: list[set[int]] = [set() for _ in works]
        if not dry_run:
            failed = await self.claimed.committer.commit(works)
        for work, sink_failed in zip(works, failed, strict=True):
            self.summary.add(count_outcomes(work, sink_failed), len(work.verdicts.reread))

    def _divided(self, letters: Sequence[DeadLetter], received: Mapping[str, Received]) -> tuple[list[Portion], list[DeadLetter]]:
        """Portions in which no key comes twice, and the letters that have to wait for these."""
        by_partition: defaultdict[str, list[DeadLetter]] = defaultdict(list)
        for letter in letters:
            by_partition[letter.partition].append(letter)
        taken: set[bytes] = set()
        portions, later = [], []
        for chosen in by_partition.values():
            portion = self._prepare(chosen, received)
            waiting = portion.repeating(taken)
            if waiting:
                later += [chosen[origin] for origin in sorted(waiting)]
                chosen = [letter for origin, letter in enumerate(chosen) if origin not in waiting]
                if not chosen:
                    continue
                portion = self._prepare(chosen, received)
            taken.update(key.key for key in portion.keys if key is not None)
            portions.append(portion)
        return portions, later

    def _prepare(self, letters: Sequence[DeadLetter], received: Mapping[str, Received]) -> Portion:
        given = [received[letter.id] for letter in letters]
        rejects = {origin: error for origin, (_, error) in enumerate(given) if error is not None}
        batch = Batch(letters[0].partition, [event for event, _ in given], rejects=rejects)
        for origin, event in enumerate(batch.events):
            event.origin = origin
        tally, keys, assembly = Tally(), self.assembly.keys, self.assembly
        assembly.moment.at = moment_of(assembly.surroundings.clock)
        events = assembly.preparer.prepare(batch.events, tally, rejects)
        return Portion(letters, batch, events, keys.of(batch, events, tally) if keys else (), tally)

    async def _process(self, portion: Portion) -> Work:
        assembly, claimed, tally = self.assembly, self.claimed, portion.tally
        letters, events, keys = portion.letters, portion.events, portion.keys
        ids = {origin: letter.id for origin, letter in enumerate(letters)}
        work = Work(portion.batch, assembly.surroundings.clock.monotonic(), assembly.moment.at, letters=ids)
        work.keys = {event.origin: key for event, key in zip(events, keys, strict=False) if key is not None}
        work.sink_ledgers = tuple(end.ledger for end in claimed.committer.sinks)
        work.taken = self._taken(letters)
        held: dict[str, set[int] | range] = {
            ledger.name: {i for i, letter in enumerate(letters) if ledger.name not in letter.owed} for ledger in claimed.ledgers
        }
        work.verdicts = await judge(portion.batch, events, keys, claimed.ledgers, claimed.store, held, letters_too=False)
        todo = [e for e in events if e.origin not in work.verdicts.dropped and e.origin not in tally.failures]
        if self.pool is not None:
            outputs, routes = await self.pool.run(todo, tally, now=work.received, prepare=False)
        else:
            outputs, routes = await assembly.chain.run(todo, tally)
        work.take(outputs, routes, tally)
        return work

    async def _received(self, letter: DeadLetter) -> Received:
        """The event as the source gave it. Of what it could make no event, it is asked again."""
        source = self.assembly.source
        if letter.reread or letter.step == SOURCE:
            try:
                if isinstance(source, Readmitting) and not letter.reread:
                    return source.readmit(received_event(letter), letter.code), None
                return await self._again(letter.partition, letter), None
            except ComponentError as error:
                return received_event(letter), still_failing(letter, error)
        return received_event(letter), None

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


async def replay(
    pipeline: Pipeline,
    query: LetterQuery,
    *,
    clock: Clock,
    faults: Faults,
    progress: Callable[[int, int], None],
    dry_run: bool = False,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> ReplaySummary:
    """Replay the open dead letters that the query selects, each once.

    :param progress: called with (done, all) after each page.
    :param dry_run: process, and deliver nothing; the pipeline must still not be running.
    :param renamed: by the name of a sink that the pipeline no longer has, the sink of today that took its place: it gets what
        the other owes. Without it such a letter is left open.
    :raises UsageError: `dlq.unknown_sink`, `dlq.not_renamed`, `dlq.shared_ledger`.
    :raises EnvironmentFault: `state.held`, where a run of the pipeline is alive; its process id is named.
    """
    options = RunOptions(clock=clock, faults=faults, random=random.Random())
    async with AsyncExitStack() as stack:
        assembly = assemble(pipeline, Surroundings(clock, options.random, faults))
        status = RunStatus(pipeline.name, pipeline.version)
        claimed = await claim_pipeline(assembly, options, status, stack, reads=False)
        stack.push_async_callback(assembly.source.close)
        debts = debts_of(claimed.ledgers, renamed)
        pool = await _workers(pipeline, assembly, status, stack)
        job = "" if dry_run else await _begin(claimed, query)
        if claimed.committer.journalling is not None:
            claimed.committer.journalling.job = job
        claimed.committer.job, claimed.committer.lane = job, "skip"  # what fails again is a dead letter already, in no lane
        work = _Replay(assembly, claimed, job, pool, debts, ReplaySummary(job))
        await _all_pages(claimed.store, query, work, progress, dry_run)
        await claimed.finish(drained=claimed.standing.drained)  # a replay reads nothing of the source
        if not dry_run:
            await claimed.store.jobs.end(claimed.epoch, job, "done")
            for ledger in claimed.ledgers:
                await ledger.ledger.forget_jobs(job)
        return work.summary


async def _begin(claimed: Claimed, query: LetterQuery) -> str:
    job = await claimed.store.jobs.create("replay", msgspec.json.encode(query).decode(), "")
    await claimed.store.jobs.take(claimed.epoch, job.id)
    return job.id


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
