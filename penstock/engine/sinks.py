"""One sink without a ledger of its own, as the committer drives it: chunks, retries, the isolation of guilty events.

Protocol: `open(recovered)`, then `flush()` once so that the ledger knows the sink's state before its first write, then for each
group writes, one `flush`, and the commit that stores what the flush returned. After a failed write or flush, `rollback()` (where
the sink has it) undoes everything since the last committed flush, and the group is written again from its start.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from penstock.clock import Clock
from penstock.config.model import Retry
from penstock.engine.retry import PATIENT, delays, gave_up
from penstock.engine.supervise import blaming
from penstock.errors import BatchError, ComponentError, Fatal, Transient, Unavailable
from penstock.event import Event
from penstock.faults import Faults
from penstock.observe.status import RunStatus
from penstock.spi import Revertible, Sink


class FlushNeeded(Exception):  # no error of anything: a request to make the group smaller
    """A sink can hold no more before its next commit."""


@dataclass(frozen=True, slots=True)
class SinkFailure:
    """Why a sink did not take an event, after how many attempts."""

    error: ComponentError
    attempts: int = 1


@dataclass(slots=True)
class SinkEnd:
    """A sink of the pipeline. `committed` is what its last committed flush returned; `ledger` names the ledger that covers it."""

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

    async def deliver(
        self, events: Sequence[Event], waiting: Callable[[str | None], None]
    ) -> tuple[dict[int, SinkFailure], bytes | None]:
        """Write all and flush.

        :returns: by index, the events that failed for good, and what the flush returned (None where there was nothing to write).
        :raises FlushNeeded: the sink cannot hold so much before a commit: the group must be made smaller.
        """
        if not events:
            return {}, None
        attempt = _Attempt(events)
        bounded = delays(self.retry, self.random, self.clock)
        patient = delays(PATIENT, self.random, self.clock)
        while True:
            written = False
            try:
                await self._write(attempt)
                written = True
                with blaming(f"sink {self.name}"):
                    state = await self.sink.flush()
            except FlushNeeded:
                await self._undo(attempt)
                raise
            except Transient as error:
                await self._undo(attempt)
                delay = next(patient if isinstance(error, Unavailable) else bounded, None)
                if delay is None and written:  # no event is to blame for a flush
                    raise gave_up(error, f"sink {self.name}") from error
                if delay is None:
                    attempt.give_up(error)
                    continue
                attempt.number += 1
                self.status.retries[self.name] += 1
                waiting(f"{self.name}: {error}")
                await self.clock.sleep(delay)
            else:
                waiting(None)
                self.status.sinks[self.name] += len(events) - len(attempt.failures)
                return attempt.failures, state

    async def _write(self, attempt: _Attempt) -> None:
        """Until everything is written or has failed; raises the first `Transient`."""
        while rest := attempt.rest():
            for chunk in attempt.chunks(rest, self.chunk):
                self.faults.hit("inside_sink_write")
                try:
                    with blaming(f"sink {self.name}"):
                        await self.sink.write([attempt.events[i] for i in chunk])
                except BatchError as error:
                    again = attempt.partly(chunk, error)
                    if again is not None:
                        raise again from error
                except Transient:  # Invariant 5: nothing behind it is written before it is settled
                    attempt.blocked = attempt.rest()
                    raise
                except Fatal:
                    raise
                except ComponentError as error:  # the chunk as a whole: one by one, to find the guilty event
                    attempt.blame(chunk, error)
                    if await self._undo(attempt):
                        break
                else:
                    attempt.done.update(chunk)

    async def _undo(self, attempt: _Attempt) -> bool:
        if undone := await self.rollback():
            attempt.done.clear()
        return undone

    async def rollback(self) -> bool:
        """Back to the last commit, patiently; False where the sink cannot take anything back."""
        if not isinstance(self.sink, Revertible):
            return False
        patient = delays(PATIENT, self.random, self.clock)
        while True:
            try:
                with blaming(f"sink {self.name}"):
                    await self.sink.rollback(self.committed)
            except Unavailable as error:
                self.status.waiting = f"{self.name}: {error}"
                await self.clock.sleep(next(patient))
            else:
                return True


@dataclass(slots=True)
class _Attempt:
    """:ivar blocked: what the latest `Transient` was about: single events, or all that was left."""

    events: Sequence[Event]
    number: int = 1
    done: set[int] = field(default_factory=set)
    failures: dict[int, SinkFailure] = field(default_factory=dict)
    alone: set[int] = field(default_factory=set)
    blocked: Sequence[int] = ()

    def rest(self) -> Sequence[int]:
        if not self.done and not self.failures:
            return range(len(self.events))
        return [i for i in range(len(self.events)) if i not in self.done and i not in self.failures]

    def chunks(self, rest: Sequence[int], size: int) -> Iterator[Sequence[int]]:
        """What is to be written, in order; events under suspicion one by one."""
        if self.alone:
            yield from ([index] for index in rest)
        else:
            yield from (rest[start : start + size] for start in range(0, len(rest), size))

    def partly(self, chunk: Sequence[int], error: BatchError) -> Transient | None:
        """Sort a chunk's outcome; the first transient cause, if there is one, is returned and tried again."""
        if not error.failed and (error.not_attempted or error.nothing_delivered):
            raise FlushNeeded
        again: Transient | None = None
        undelivered = {*error.failed, *error.not_attempted}
        self.blocked = [chunk[place] for place, cause in error.failed.items() if isinstance(cause, Transient)]
        for place, cause in error.failed.items():
            if isinstance(cause, Fatal):
                raise cause
            if isinstance(cause, Transient):
                again = again or cause
            else:
                self.failures[chunk[place]] = SinkFailure(cause, self.number)
        if not error.nothing_delivered:
            self.done.update(index for place, index in enumerate(chunk) if place not in undelivered)
        return again

    def blame(self, chunk: Sequence[int], error: ComponentError) -> None:
        if len(chunk) == 1:
            self.failures[chunk[0]] = SinkFailure(error, self.number)
        else:
            self.alone.update(chunk)

    def give_up(self, error: Transient) -> None:
        """No attempt is left: what the last one failed at fails for good."""
        for index in self.blocked:
            self.failures[index] = SinkFailure(error, self.number)
