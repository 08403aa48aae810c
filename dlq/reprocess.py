"""Dead letters processed once more: from the event as the source gave it through the steps of today, or of a stored version.

Steps, workers and source are its own, so that a replay shares nothing with the live work beside it but the ledgers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from dlq.received import Portion, Received, keys_of_letters, received_event, still_failing, with_followers
from penstock.builtins import room
from penstock.clock import moment_of
from penstock.components import build
from penstock.config.model import Pipeline
from penstock.engine.assemble import Assembly, Steps, Surroundings, assemble_steps, make_context
from penstock.engine.dedup import judge
from penstock.engine.effects import Answering, Withholding
from penstock.engine.ledgers import LedgerState
from penstock.engine.letters import SOURCE
from penstock.engine.other_steps import Routing, refuse_other_keys, steps_of
from penstock.engine.pool import WorkerPool
from penstock.engine.tally import Tally
from penstock.engine.work import Work, only_due
from penstock.errors import ComponentError, Permanent, UsageError
from penstock.event import Event
from penstock.observe.status import RunStatus
from penstock.spi import Batch, Readmitting, Rereadable, Resume, Source
from penstock.state.records import EVERY, DeadLetter
from penstock.state.store import StateStore


@dataclass(slots=True)
class Reprocess:
    """`open`, then for each group of letters `divide` and `process`, then `close`.

    :ivar ledgers: of the pipeline as it is today; a replay's are claimed, a dry run's are not.
    :ivar answering: of steps with effects: a replay asks the world, a dry run changes nothing.
    :ivar version: the pipeline version whose steps to use, or a beginning of it; empty: today's.
    """

    assembly: Assembly
    store: StateStore
    ledgers: Sequence[LedgerState]
    status: RunStatus
    version: str = ""
    answering: Answering = field(default_factory=Withholding)
    _steps: Steps | None = None
    _pool: WorkerPool | None = None
    _source: Source | None = None
    _reading: bool = False
    _routing: Routing | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def _surroundings(self) -> Surroundings:
        return self.assembly.surroundings

    @property
    def steps(self) -> Steps:
        """Once it is open."""
        assert self._steps is not None, "opened before"
        return self._steps

    async def open(self) -> None:
        """:raises UsageError: `version.unknown`, `version.cannot_be_built`, `replay.other_sinks`, `replay.other_keys`."""
        today = self.assembly.pipeline
        log = self._surroundings.log
        pipeline = await steps_of(today, self.version, self.store, log) if self.version else today
        self.version = pipeline.version
        has_positions = self.assembly.source.has_positions
        self._steps = assemble_steps(pipeline, self._surroundings, has_positions=has_positions)
        self._steps.chain.answer_by(self.answering)
        refuse_other_keys(self.assembly.keys, self._steps.keys, self.version, "replay through today's version")
        self._routing = _routing(pipeline, today)
        if pipeline.workers:
            self._pool = WorkerPool(pipeline, self._surroundings, self.status)
            self._stack.push_async_callback(self._pool.close)
            await self._pool.start()

    async def close(self) -> None:
        """Harmless when not open."""
        await self._stack.aclose()

    # ---- from letters to portions

    async def divide(self, letters: Sequence[DeadLetter]) -> tuple[list[Portion], list[DeadLetter]]:
        """Portions, a partition each, in which no key comes twice, and the letters that wait for these: whether one is a
        repetition depends on what becomes of the other."""
        received = {letter.id: await self._received(letter) for letter in letters}
        by_partition: defaultdict[str, list[DeadLetter]] = defaultdict(list)
        for letter in letters:
            by_partition[letter.partition].append(letter)
        taken: set[bytes] = set()
        portions, later = [], []
        for chosen in by_partition.values():
            portion = self.prepare(chosen, received)
            waiting = with_followers(chosen, portion.repeating(taken))
            if waiting:
                later += [chosen[origin] for origin in sorted(waiting)]
                chosen = [letter for origin, letter in enumerate(chosen) if origin not in waiting]
                if not chosen:
                    continue
                portion = self.prepare(chosen, received)
            taken.update(portion.keys_given)
            portions.append(portion)
        return portions, later

    def without(self, portion: Portion, gone: set[str]) -> Portion | None:
        """The portion without the letters of these ids; None where nothing is left of it."""
        left = [n for n, letter in enumerate(portion.letters) if letter.id not in gone]
        if len(left) == len(portion.letters):
            return portion
        rejects = portion.batch.rejects
        received = {portion.letters[n].id: (portion.batch.events[n], rejects.get(n)) for n in left}
        return self.prepare([portion.letters[n] for n in left], received) if left else None

    def prepare(self, letters: Sequence[DeadLetter], received: Mapping[str, Received]) -> Portion:
        """Letters of one partition, as far as dedup."""
        given = [received[letter.id] for letter in letters]
        rejects = {origin: error for origin, (_, error) in enumerate(given) if error is not None}
        batch = Batch(letters[0].partition, [event for event, _ in given], rejects=rejects)
        for origin, event in enumerate(batch.events):
            event.origin = origin
        tally, steps = Tally(), self.steps
        at = steps.moment.at = moment_of(self._surroundings.clock)
        events = steps.preparer.prepare(batch.events, tally, rejects)
        keys = keys_of_letters(letters, events, steps.keys.of(batch, events, tally)) if steps.keys else ()
        return Portion(letters, batch, events, keys, tally, at)

    @property
    def positional(self) -> bool:
        """Whether the keys are positions, which the live work never meets again."""
        return self.steps.keys is None or self.steps.keys.positional

    # ---- from portions to works

    async def process(self, portion: Portion) -> Work:
        """What becomes of a portion under the steps."""
        letters, events, keys, tally = portion.letters, portion.events, portion.keys, portion.tally
        ids = {origin: letter.id for origin, letter in enumerate(letters)}
        work = Work(portion.batch, self._surroundings.clock.monotonic(), portion.at, letters=ids, names=ids)
        work.events, work.owed = events, {origin: letter.owed for origin, letter in enumerate(letters)}
        work.lanes = {origin: letter.lane for origin, letter in enumerate(letters) if letter.lane is not None}
        work.retries = {origin: letter.retries for origin, letter in enumerate(letters) if letter.retries}
        work.keys = {event.origin: key for event, key in zip(events, keys, strict=False) if key is not None}
        work.sink_ledgers = tuple(self._ledger_of(name) for name in self.assembly.sinks)
        work.taken, work.due = self._taken(letters), self._due(letters)
        held: dict[str, set[int] | range] = {
            ledger.name: {i for i, letter in enumerate(letters) if ledger.name not in letter.owed} for ledger in self.ledgers
        }
        again = {origin for origin, letter in enumerate(letters) if letter.redelivered}
        work.verdicts = await judge(portion.batch, events, keys, self.ledgers, self.store, held, letters_too=False, again=again)
        todo = [event for event in events if event.origin not in work.verdicts.dropped and event.origin not in tally.failures]
        self.steps.moment.at = portion.at
        if self._pool is not None:
            outputs, routes = await self._pool.run(todo, tally, now=portion.at, prepare=False)
        else:
            outputs, routes = await self.steps.chain.run(todo, tally)
        assert self._routing is not None, "opened before"
        routes = self._routing.today(routes, len(outputs))
        work.take(outputs, only_due(work.due, outputs, routes), tally)
        return work

    def _ledger_of(self, sink: str) -> str:
        return next(ledger.name for ledger in self.ledgers if sink in ledger.sinks)

    def _taken(self, letters: Sequence[DeadLetter]) -> frozenset[tuple[int, int, int]]:
        bits = {name: bit for bit, name in enumerate(self.assembly.sinks)}
        return frozenset(
            (bits[taken.sink], origin, taken.output)
            for origin, letter in enumerate(letters)
            for taken in letter.delivered
            if taken.sink in bits and taken.output != EVERY
        )

    def _due(self, letters: Sequence[DeadLetter]) -> dict[int, int]:
        """By origin, the sinks of today that are to get what a backfill was not for every sink of."""
        due: dict[int, int] = {}
        for origin, letter in enumerate(letters):
            before = {taken.sink for taken in letter.delivered if taken.output == EVERY}
            if before:
                due[origin] = sum(1 << bit for bit, name in enumerate(self.assembly.sinks) if name not in before)
        return due

    # ---- from letters to events

    async def _received(self, letter: DeadLetter) -> Received:
        """The event as the source gave it. Of what it could make no event, it is asked again."""
        source = self.assembly.source
        if letter.edited is None and (letter.reread or letter.step == SOURCE):
            try:
                if isinstance(source, Readmitting) and not letter.reread:
                    return source.readmit(received_event(letter), letter.code), None
                return await self._again(letter), None
            except ComponentError as error:
                return received_event(letter), still_failing(letter, error)
        return received_event(letter), None

    async def _again(self, letter: DeadLetter) -> Event:
        if isinstance(self.assembly.source, Rereadable):
            source = await self._opened()
            event = await source.reread(letter.partition, letter.position)
            if event.id == letter.event_id:
                return event
        raise Permanent(letter.code, letter.message, why=letter.why, help=letter.help)

    async def _opened(self) -> Rereadable:
        """A source of its own: a record is searched for from its file's start, which must not hold the live reading up."""
        if self._source is None:
            pipeline = self.assembly.pipeline
            expressions = room("expressions")(self._surroundings.clock.now)
            self._source = build("source", pipeline.source, make_context(pipeline, "source", expressions, self._surroundings))
            self._stack.push_async_callback(self._source.close)
        if not self._reading:
            note = await self.store.read_note()
            await self._source.open(Resume(note.epoch, note.positions, once=True))
            self._reading = True
        assert isinstance(self._source, Rereadable), "asked before"
        return self._source


def _routing(pipeline: Pipeline, today: Pipeline) -> Routing:
    """:raises UsageError: `replay.other_sinks`."""
    theirs, ours = [sink.name for sink in pipeline.sinks], [sink.name for sink in today.sinks]
    if sorted(theirs) != sorted(ours):
        raise UsageError(
            "replay.other_sinks",
            f"version {pipeline.version[:12]} has the sinks {', '.join(theirs)}; today there are {', '.join(ours)}",
            why="what it routes to one that is gone, or what a new one is owed, would be lost",
            help="replay through today's version",
        )
    return Routing.between(pipeline, today)
