"""One sink without a ledger of its own, as the committer drives it: chunks, retries, the isolation of guilty events.

Protocol: `open(recovered)`, then `flush()` once so that the ledger knows the sink's state before its first write, then for each
group writes, one `flush`, and the commit that stores what the flush returned. After a failed write or flush, `rollback()` (where
the sink has it) undoes everything since the last committed flush, and the group is written again from its start.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.clock import Clock
from penstock.config.model import Retry
from penstock.engine.lanes import NO_KEY, followers, parked_error
from penstock.engine.retry import Waits, gave_up, persistently
from penstock.engine.supervise import blaming
from penstock.errors import BatchError, ComponentError, Fatal, Transient
from penstock.event import Event
from penstock.faults import Faults
from penstock.observe.status import RunStatus
from penstock.spi import Revertible, Sink
from penstock.state.records import Lane


class FlushNeeded(Exception):  # no error of anything: a request to make the group smaller
    """A sink can hold no more before its next commit."""


def batch_too_large(partition: str) -> Fatal:
    """The reason of a run where a group of one batch is still more than a sink takes before a commit."""
    return Fatal(
        "sink.batch_too_large",
        "one batch makes more output than a sink may hold before a commit",
        where=f"partition {partition}",
        help="lower batching.count or batching.bytes",
    )


@dataclass(frozen=True, slots=True)
class SinkFailure:
    """Why a sink did not take an event, after how many attempts."""

    error: ComponentError
    attempts: int = 1


@dataclass(slots=True)
class SinkEnd:
    """A sink of the pipeline. `committed` is what its last committed flush returned; `ledger` names the ledger that covers it.

    For each group: `deliver`, and after the commit `settle`; where the group is given up for a smaller one, `take_back`; `forget`
    when all of it is committed.
    """

    name: str
    sink: Sink
    ledger: str
    retry: Retry
    chunk: int
    clock: Clock
    random: random.Random
    faults: Faults
    status: RunStatus
    committed: bytes | None = None
    offer: _Attempt | None = None
    kept: dict[int, Event] = field(default_factory=dict)
    """Written, not committed, and not to be taken back: by the event's `id()`, which is its own as long as it is held here."""

    async def deliver(
        self, events: Sequence[Event], *, halts: bool = False, lanes: Sequence[Lane | None] = ()
    ) -> tuple[dict[int, SinkFailure], bytes | None]:
        """Write all and flush.

        :param halts: write nothing more once an event has failed for good.
        :param lanes: of the events: what comes behind a failed one of its lane fails with it, as parked.
        :returns: by index, the events that failed for good, and what the flush returned (None where there was nothing to write).
        :raises FlushNeeded: the sink cannot hold so much before a commit: the group must be made smaller.
        """
        if not events:
            return {}, None
        attempt = self.offer = _Attempt(events, halts, lanes, apart=bool(lanes) and not isinstance(self.sink, Revertible))
        if self.kept:
            attempt.done.update(i for i, event in enumerate(events) if id(event) in self.kept)
        waits = Waits(self.retry, self.random, self.clock)
        while True:
            written = False
            try:
                await self._write(attempt)
                written = True
                with blaming(f"sink {self.name}"):
                    state = await self.sink.flush()
            except Transient as error:
                await self._undo(attempt)
                delay = waits.after(error)
                if delay is None and written:  # no event is to blame for a flush
                    raise gave_up(error, f"sink {self.name}") from error
                if delay is None:
                    attempt.give_up(error)
                    await self._hold(attempt)
                    waits = Waits(self.retry, self.random, self.clock)
                    continue
                attempt.number += 1
                self.status.retries[self.name] += 1
                self.status.wait(self.name, f"{self.name}: {error}")
                await self.clock.sleep(delay)
            else:
                self.status.wait(self.name, None)
                return attempt.failures, state

    def settle(self, state: bytes | None) -> None:
        """What was delivered is committed, with what the flush returned."""
        if state is not None:
            self.committed = state
        if self.offer is not None:
            self.status.sinks[self.name] += len(self.offer.done)
            self.offer = None

    async def take_back(self) -> None:
        """Back to the last commit; where the sink cannot, what it has taken is remembered, and not written again."""
        attempt, self.offer = self.offer, None
        if attempt is not None and not await self._undo(attempt):
            self.kept.update((id(attempt.events[i]), attempt.events[i]) for i in attempt.done)

    def forget(self) -> None:
        """Nothing of the group will be offered again."""
        self.offer = None
        self.kept.clear()

    async def _write(self, attempt: _Attempt) -> None:
        """Until everything is written or has failed; raises the first `Transient`."""
        attempt.begin()
        while chunk := attempt.chunk(self.chunk):
            self.faults.hit("inside_sink_write")
            try:
                with blaming(f"sink {self.name}"):
                    await self.sink.write([attempt.events[i] for i in chunk])
            except BatchError as error:  # Invariant 5: what was not attempted goes before what lies behind it
                again = attempt.partly(chunk, error)
                await self._hold(attempt)
                if again is not None:
                    raise again from error
            except Transient:  # Invariant 5: nothing behind it is written before it is settled
                attempt.blocked = attempt.left
                raise
            except Fatal:
                raise
            except ComponentError as error:  # the chunk as a whole: one by one, to find the guilty event
                attempt.blame(chunk, error)
                attempt.hold()
                await self._undo(attempt)
            else:
                attempt.took(chunk)

    async def _hold(self, attempt: _Attempt) -> None:
        """Invariant 5: nothing of a lane stays written that came behind a failure."""
        if attempt.hold():
            await self._undo(attempt)

    async def _undo(self, attempt: _Attempt) -> bool:
        undone = await self._rollback()
        if undone:
            attempt.done.clear()
        attempt.begin()
        return undone

    async def _rollback(self) -> bool:
        """Back to the last commit, patiently; False where the sink cannot take anything back."""
        if not isinstance(self.sink, Revertible):
            return False
        revertible = self.sink

        async def roll() -> None:
            with blaming(f"sink {self.name}"):
                await revertible.rollback(self.committed)

        def tell(error: Transient) -> None:
            self.status.wait(self.name, f"{self.name}: {error}")

        await persistently(roll, self.retry, self.random, self.clock, tell, f"sink {self.name}")
        return True


@dataclass(slots=True)
class _Attempt:
    """The events of one group, by index, on their way into a sink.

    :ivar lanes: of the events, where lanes are parked; `apart`: the sink cannot take anything back, so that no write has two
        events of a lane.
    :ivar left: what is neither written nor has failed, in order.
    :ivar alone: under suspicion: written one by one.
    :ivar blocked: what the latest `Transient` was about: single events, or all that was left.
    """

    events: Sequence[Event]
    halts: bool = False
    lanes: Sequence[Lane | None] = ()
    apart: bool = False
    number: int = 1
    left: Sequence[int] = ()
    done: set[int] = field(default_factory=set)
    failures: dict[int, SinkFailure] = field(default_factory=dict)
    alone: set[int] = field(default_factory=set)
    blocked: Sequence[int] = ()

    def begin(self) -> None:
        """From the first event that is neither written nor has failed."""
        self.left = range(len(self.events))
        if self.done or self.failures:
            self.left = self._unsettled(self.left)

    def _unsettled(self, indexes: Sequence[int]) -> list[int]:
        return [i for i in indexes if i not in self.done and i not in self.failures]

    def chunk(self, size: int) -> Sequence[int]:
        """What is to be written next; nothing where all is settled, or one failure is enough."""
        if self.failures and (self.halts or (self.lanes and any(self.lanes[index] == NO_KEY for index in self.failures))):
            return ()
        chunk = self.left[:size]
        if self.alone:
            suspect = next((n for n, index in enumerate(chunk) if index in self.alone), len(chunk))
            chunk = chunk[: max(1, suspect)]
        return self._apart(chunk) if self.apart else chunk

    def _apart(self, chunk: Sequence[int]) -> Sequence[int]:
        seen: set[Lane] = set()
        for n, index in enumerate(chunk):
            lane = self.lanes[index]
            if lane == NO_KEY:
                return chunk[: n + 1]
            if lane in seen:
                return chunk[:n]
            if lane is not None:
                seen.add(lane)
        return chunk

    def hold(self) -> bool:
        """What comes behind a failure of its lane fails, too. Whether some of it is written."""
        if not self.lanes:
            return False
        behind = followers(self.lanes, self.failures.keys())
        for index in behind:
            self.failures[index] = SinkFailure(parked_error(), 0)
        self.left = self._unsettled(self.left) if behind else self.left
        return not self.done.isdisjoint(behind)

    def took(self, chunk: Sequence[int]) -> None:
        """All of it was written."""
        self.done.update(chunk)
        self.left = self.left[len(chunk) :]

    def partly(self, chunk: Sequence[int], error: BatchError) -> Transient | None:
        """Sort a chunk's outcome; the first transient cause, if there is one, is returned and tried again."""
        undelivered = {*error.failed, *error.not_attempted}
        if not error.nothing_delivered:
            self.done.update(index for place, index in enumerate(chunk) if place not in undelivered)
        if not error.failed and (error.not_attempted or error.nothing_delivered):
            raise FlushNeeded
        again: Transient | None = None
        self.blocked = [chunk[place] for place, cause in error.failed.items() if isinstance(cause, Transient)]
        for place, cause in error.failed.items():
            if isinstance(cause, Fatal):
                raise cause
            if isinstance(cause, Transient):
                again = again or cause
            else:
                self.failures[chunk[place]] = SinkFailure(cause, self.number)
        self.left = [*self._unsettled(chunk), *self.left[len(chunk) :]]
        return again

    def blame(self, chunk: Sequence[int], error: ComponentError) -> None:
        if len(chunk) == 1:
            self.failures[chunk[0]] = SinkFailure(error, self.number)
        else:
            self.alone.update(chunk)

    def give_up(self, error: Transient) -> None:
        """No attempt is left: what the last one failed at fails for good. What comes behind it has had none."""
        for index in self.blocked:
            self.failures[index] = SinkFailure(error, self.number)
        self.number = 1
