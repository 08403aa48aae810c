"""The second stage: decode, event, dedup, steps, in this fixed order. The CPU's part of a run.

What is decided in read order (which event is a repetition of which) is decided here, before workers divide the batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from functools import partial
from types import TracebackType

from penstock.engine.assemble import Assembly
from penstock.engine.claimed import Claimed
from penstock.engine.dedup import Verdicts, first_conflict, held_by_position, judge
from penstock.engine.flow import Flow
from penstock.engine.in_flight import InFlight
from penstock.engine.letters import letter_id
from penstock.engine.pool import WorkerPool
from penstock.engine.retry import persistently
from penstock.engine.supervise import blaming
from penstock.engine.tally import Tally
from penstock.engine.tasks import call_off
from penstock.engine.work import Work
from penstock.errors import Transient
from penstock.event import Event
from penstock.ledger import Key
from penstock.observe.status import RunStatus
from penstock.spi import Batch
from penstock.state.records import OpenLetter

AHEAD = 2000
"""Events, or four full batches of them, that may be processed and not yet committed; as many again for each worker. Enough for a
commit to take a good many, and few enough that processing lets go of the interpreter when a commit needs it."""


class Processor:
    """Turns works that were read into works that can be delivered. Enter it before use: it starts the workers."""

    def __init__(self, assembly: Assembly, claimed: Claimed, flow: Flow, status: RunStatus, in_flight: InFlight) -> None:
        self._name = assembly.pipeline.name
        self._chain = assembly.chain
        self._preparer = assembly.preparer
        self._keys = assembly.keys
        self._ledgers = claimed.ledgers
        self._store = claimed.store
        self._sink_ledgers = tuple(end.ledger for end in claimed.committer.sinks)
        self._flow = flow
        self._in_flight = in_flight
        self._outstanding = 0
        self._uncommitted = 0
        self._workings: set[asyncio.Future[None]] = set()
        self._status = status
        pipeline = assembly.pipeline
        self._ahead = max(AHEAD, 4 * pipeline.batching.count) * (1 + pipeline.workers)
        self._retry = pipeline.retry
        self._clock, self._random = assembly.surroundings.clock, assembly.surroundings.random
        self._pool = WorkerPool(pipeline, assembly.surroundings, status) if pipeline.workers else None
        for stage in self._chain.stages:
            stage.waiting = partial(status.wait, f"step {stage.name}")
        self._chain.answer_by(claimed.performing)
        self._moment = assembly.moment
        journalled = pipeline.journal is not None and self._preparer.fields is not None
        wanted = journalled or pipeline.dead_letter.lane == "park"
        self._prepares = self._pool is None or wanted or (self._keys is not None and not self._keys.positional)

    async def __aenter__(self) -> Processor:
        if self._pool is not None:
            await self._pool.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await call_off(*self._workings)
        if self._pool is not None:
            await self._pool.close()

    async def process(self, work: Work) -> AsyncGenerator[Work, None]:
        """The work itself, or its parts where it has to be divided: the first part's outcome decides about the second."""
        await self._flow.until(lambda: self._uncommitted < self._ahead)  # Invariant 8
        while True:
            tally = Tally()
            events, keys = self._keyed(work, tally)
            conflict = None if self._keys is None or self._keys.positional else first_conflict(events, keys)
            if conflict is None:
                yield await self._run(work, events, keys, tally)
                return
            head, tail = work.batch.divide(events[conflict].origin)
            part, tally = Work(head, work.started, work.received, whole=0), Tally()
            yield await self._run(part, *self._keyed(part, tally), tally)
            work = Work(tail, work.started, work.received, whole=work.whole)

    def _keyed(self, work: Work, tally: Tally) -> tuple[list[Event], Sequence[Key | None]]:
        self._moment.at = work.received
        events = work.events = self._prepare(work, tally)
        return events, () if self._keys is None else self._keys.of(work.batch, events, tally)

    async def _run(self, work: Work, events: list[Event], keys: Sequence[Key | None], tally: Tally) -> Work:
        await self._settle(work, events, keys)
        dropped = work.verdicts.dropped
        todo = [event for event in events if event.origin not in dropped] if dropped else events
        if tally.failures and self._keys is not None:
            todo = [event for event in todo if event.origin not in tally.failures]
        if self._pool is None:
            outputs, routes = await self._chain.run(todo, tally)
            work.take(outputs, routes, tally)
        else:
            work.processing = asyncio.ensure_future(self._in_worker(self._pool, work, todo, tally))
            self._workings.add(work.processing)
            work.processing.add_done_callback(self._workings.discard)
        self._outstanding += 1
        self._uncommitted += len(work.batch.events)
        return work

    def _prepare(self, work: Work, tally: Tally) -> list[Event]:
        batch = work.batch
        for origin, event in enumerate(batch.events):
            event.origin = origin
        if self._prepares:
            return self._preparer.prepare(batch.events, tally, batch.rejects)
        for origin, error in batch.rejects.items():
            tally.fail("source", batch.events[origin], error)
        return [event for event in batch.events if event.origin not in batch.rejects]

    async def _settle(self, work: Work, events: Sequence[Event], keys: Sequence[Key | None]) -> None:
        given = {event.origin: key for event, key in zip(events, keys, strict=False) if key is not None}
        work.keys = given
        work.sink_ledgers = self._sink_ledgers
        positional = self._keys is None or self._keys.positional  # a position is never read twice in one run
        names: set[bytes] = set() if positional else {key.key for key in given.values()}
        if not self._in_flight.live.isdisjoint(names):  # a repetition of what is on its way waits for the outcome of its first
            await self._flow.until(lambda: self._outstanding == 0)
        if names:
            await self._in_flight.enter(names)
        ahead = [ledger for ledger in self._ledgers if ledger.ahead]
        held = held_by_position(work.batch, ahead) if ahead else {}
        if given or held:
            work.verdicts = await self._judged(work, events, keys, held)

    async def _judged(
        self, work: Work, events: Sequence[Event], keys: Sequence[Key | None], held: Mapping[str, set[int] | range]
    ) -> Verdicts:
        """What ledgers and state store know of the events; where these cannot be asked now, they are asked again."""

        async def look() -> Verdicts:
            standing = await self._standing(work.batch, held) if held else None
            return await judge(work.batch, events, keys, self._ledgers, self._store, dict(held), standing=standing)

        def tell(error: Transient) -> None:
            self._status.retries["dedup"] += 1
            self._status.wait("dedup", f"dedup: {error}")

        verdicts = await persistently(look, self._retry, self._random, self._clock, tell)
        self._status.wait("dedup", None)
        return verdicts

    async def _standing(self, batch: Batch, held: Mapping[str, Collection[int]]) -> dict[int, OpenLetter]:
        """Dead letters of the events that some ledger holds already, by origin: only the first batches after a crash have any."""
        origins = {letter_id(self._name, batch.events[origin]): origin for origin in set().union(*held.values())}
        return {origins[letter.id]: letter for letter in await self._store.standing_letters(list(origins))}

    async def _in_worker(self, pool: WorkerPool, work: Work, events: list[Event], tally: Tally) -> None:
        with blaming("workers"):
            outputs, routes = await pool.run(events, tally, now=work.received, prepare=not self._prepares)
        work.take(outputs, routes, tally)

    def forget(self, works: Sequence[Work]) -> None:
        """These are committed: their keys are in the ledgers now."""
        for work in works:
            self._in_flight.leave([key.key for key in work.keys.values()])
        self._outstanding -= len(works)
        self._uncommitted -= sum(len(work.batch.events) for work in works)
