"""One batch on its way through the run, from reading to commit."""

from __future__ import annotations

from asyncio import Future
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock.engine.dedup import Verdicts
from penstock.engine.tally import Answered, Failure, Tally
from penstock.event import Event
from penstock.ledger import Key
from penstock.spi import Batch


@dataclass(slots=True)
class Work:
    """A batch and what became of it.

    :ivar batch: as the source read it; `batch.events` are the received events, indexed by `origin` everywhere below.
    :ivar events: the received events with their envelope filled in, but for those that could not be made.
    :ivar keys: dedup key of each received event, by origin; empty without dedup.
    :ivar outputs: what the steps made, in order; `routes` has for each the bit mask of sinks that take it, None for all.
    :ivar failures: the received events that failed in a step or before, by origin.
    :ivar answers: what the world answered to steps with effects, by origin.
    :ivar names: for a job, by origin, its own name of the event: what it is called in the ledgers' records of the job.
    :ivar letters: for a replay, the dead letter that each received event comes from, by origin.
    :ivar owed: for a replay, by origin, the ledgers that owed the dead letter when it was taken up.
    :ivar taken: for a replay, the outputs that a sink took before, as (sink, origin, index among that event's): skipped (rule 9).
    :ivar due: of a job, by origin, the bit mask of the sinks that are to get an event; the others had it before. Absent: all.
    :ivar before: of a live backfill, by origin, the names of sinks without a ledger of their own that had an event before: its
        dead letter says so.
    :ivar lanes: where lanes are parked, by origin, the lane of each event that has one.
    :ivar retries: for a replay, by origin, how many retries of the schedule are behind the letter.
    :ivar sink_ledgers: for each sink, in order, the name of its ledger.
    :ivar whole: 0 for the first part of a divided batch, so that batches are counted once.
    :ivar processing: under way in a worker; None where it was processed here.
    :ivar started: monotonic time at which the batch was read.
    :ivar received: when that was, in seconds since 1970: what `now` is in programs.
    """

    batch: Batch
    started: float
    received: float = 0.0
    events: list[Event] = field(default_factory=list)
    keys: dict[int, Key] = field(default_factory=dict)
    verdicts: Verdicts = field(default_factory=Verdicts)
    outputs: list[Event] = field(default_factory=list)
    routes: list[int] | None = None
    failures: dict[int, Failure] = field(default_factory=dict)
    steps: Counter[tuple[str, str]] = field(default_factory=Counter)
    derived: int = 0
    answers: Mapping[int, Answered] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    letters: Mapping[int, str] = field(default_factory=dict)
    owed: Mapping[int, Sequence[str]] = field(default_factory=dict)
    taken: frozenset[tuple[int, int, int]] = frozenset()
    due: Mapping[int, int] = field(default_factory=dict)
    before: Mapping[int, Sequence[str]] = field(default_factory=dict)
    lanes: Mapping[int, str] = field(default_factory=dict)
    retries: Mapping[int, int] = field(default_factory=dict)
    sink_ledgers: Sequence[str] = ()
    whole: int = 1
    processing: Future[None] | None = None

    def take(self, outputs: list[Event], routes: list[int] | None, tally: Tally) -> None:
        """What the steps made of it."""
        for origin in self.verdicts.reread:  # held everywhere: it has its outcome already
            tally.failures.pop(origin, None)
        self.outputs, self.routes = outputs, routes
        self.failures, self.steps, self.derived = tally.failures, tally.steps, tally.derived
        self.answers = tally.answers

    @property
    def processed(self) -> bool:
        """Whether `settled` would return, or raise, at once."""
        return self.processing is None or self.processing.done()

    async def settled(self) -> None:
        """Wait until it has been processed; raises what stopped its processing."""
        if self.processing is not None:
            await self.processing

    def for_sink(self, bit: int, ledger: str) -> Sequence[Event]:
        """The outputs that go to one sink now: routed there, and not yet held by its ledger."""
        outputs: Sequence[Event] = self.outputs
        if self.routes is not None:
            mask = 1 << bit
            outputs = [event for event, route in zip(outputs, self.routes, strict=True) if route & mask]
        if self.taken:
            outputs = self._without_taken(bit, outputs)
        verdicts = self.verdicts
        if ledger in verdicts.held or ledger in verdicts.repeated:
            outputs = [event for event in outputs if not verdicts.skips(ledger, event.origin)]
        return outputs

    def numbers(self, bit: int, ledger: str) -> list[int]:
        """For each event of `for_sink`: which output of its received event it is, counted among those routed to that sink."""
        counted: Counter[int] = Counter()
        numbers = []
        for event in self.for_sink(bit, ledger):
            while (bit, event.origin, counted[event.origin]) in self.taken:
                counted[event.origin] += 1
            numbers.append(counted[event.origin])
            counted[event.origin] += 1
        return numbers

    def _without_taken(self, bit: int, outputs: Sequence[Event]) -> list[Event]:
        seen: Counter[int] = Counter()
        left = []
        for event in outputs:
            if (bit, event.origin, seen[event.origin]) not in self.taken:
                left.append(event)
            seen[event.origin] += 1
        return left


def only_due(due: Mapping[int, int], outputs: Sequence[Event], routes: list[int] | None) -> list[int] | None:
    """Routes without the sinks that are not to get an event.

    :param due: as `Work.due`.
    """
    if not due:
        return routes
    masks = [-1] * len(outputs) if routes is None else routes
    return [mask & due.get(event.origin, -1) for event, mask in zip(outputs, masks, strict=True)]
