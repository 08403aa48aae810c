"""What people ask of a run (`pipe signal`): once a second the state store is looked at, and the run follows.

Pausing is the engine's own: `Flow` gives no more credits, what was read is delivered and committed, and the source goes on with
its keep-alives. All else goes to the source (`Signalled`), one signal at a time, beside its batches. A signal without an outcome,
and one that was being taken when the run ended, is taken by the next run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from penstock.clock import rfc3339
from penstock.engine.flow import Flow
from penstock.engine.retry import PATIENT, persistently
from penstock.engine.supervise import bug
from penstock.engine.tasks import call_off
from penstock.errors import Fatal, PenstockError, Permanent, Transient
from penstock.observe.log import Incident
from penstock.spi import Signal, Signalled, Source
from penstock.state.signal_box import SignalBox
from penstock.state.signal_records import Pause, SignalOutcome, SignalRecord
from penstock.state.signal_tables import PAUSE, RESUME

if TYPE_CHECKING:
    from penstock.engine.run import RunOptions

TICK = 1.0
"""Seconds between two looks."""
SETTLING = 0.1
"""The same while somebody waits for the answer to a pause, or a drained source for its last signal."""

RESUMED = "it was resumed meanwhile"
"""Why a pause that was accepted is none."""


@dataclass(slots=True)
class Signals:
    """`begin` before anything is read, `run` beside the reading, `end` behind the last commit, `close` whatever happened.

    :ivar stop: ends the run, where it is paused and nobody waits for it to go on (`--once`).
    """

    source: Source
    box: SignalBox
    epoch: int
    flow: Flow
    options: RunOptions
    stop: Callable[[], None]
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _calling: asyncio.Task[None] | None = None
    _taken: bool = False
    _pauses: set[int] = field(default_factory=set)
    _paused_at: float | None = None
    _paused_for: float = 0.0

    @property
    def kinds(self) -> frozenset[str]:
        """What the source takes."""
        return self.source.signals if isinstance(self.source, Signalled) else frozenset()

    def paused_seconds(self) -> float:
        """For how long this run has been paused so far: it is no running time (rule 8)."""
        now = self.options.clock.monotonic()
        return self._paused_for + (now - self._paused_at if self._paused_at is not None else 0.0)

    async def begin(self) -> None:
        """The first look, until it succeeds: a pipeline that is paused reads nothing, not even at first."""
        await self._patiently(self.look)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._rest()
            try:
                await self.look()
            except Transient:  # the commits wait for the same store, and report it
                await self.options.clock.sleep(TICK)

    async def _rest(self) -> None:
        """Until the next look, or until what was waited for has happened."""
        clock, deadline = self.options.clock, self.options.clock.monotonic() + TICK
        while (left := deadline - clock.monotonic()) > 0:
            calling = self._calling
            if calling is not None and calling.done():
                return
            if self._pauses and not self.flow.batches:
                return
            await clock.sleep(min(left, SETTLING) if self._pauses or calling is not None else left)

    async def pause(self, by: str, why: str) -> None:
        """The run itself pauses its pipeline, durably, as somebody might; nothing more is read when this returns."""
        await self._patiently(partial(self.box.pause, by, why))
        await self._patiently(self.look)

    async def any_left(self) -> bool:
        """Under `--once`, of a source that is drained: whether it is to be read once more, for a signal that is being taken, or
        has been since this was last asked."""
        if not self.kinds:
            return False
        await self._patiently(self.look)
        taken, self._taken = self._taken, False
        if self._calling is None:
            return taken
        await asyncio.wait((self._calling,), timeout=SETTLING)
        return True

    async def end(self) -> None:
        """Everything that was read is committed: a pause that nobody has answered yet is answered."""
        if not self._pauses:
            return
        with suppress(Transient):  # the next run answers it
            why = None if await self.box.paused() else RESUMED
            for identity in sorted(self._pauses):
                await self.box.decide(self.epoch, identity, "accepted", why)

    async def close(self) -> None:
        """Let go of the signal that is being taken: it waits for the next run."""
        calling, self._calling = self._calling, None
        if calling is not None:
            await call_off(calling)

    async def look(self) -> None:
        """Follow what the store says now.

        :raises Transient: it cannot be asked.
        :raises PenstockError: what a signal ended the run with.
        """
        async with self._looking:
            if self._calling is not None and self._calling.done():
                self._calling.result()
                self._calling, self._taken = None, True
            free = self._calling is None  # asked before the store: what it says to wait is not being taken then
            inbox = await self.box.inbox()
            self._pauses &= {signal.id for signal in inbox.waiting}  # the answer to one may have been stored, and the reply lost
            await self._follow(inbox.pause)
            for signal in inbox.waiting:
                if signal.kind in (PAUSE, RESUME):
                    await self._answer(signal)
                elif signal.kind not in self.kinds:
                    await self._decide(signal, "refused", self._unknown())
                elif free:
                    self._calling = asyncio.create_task(self._call(signal), name=f"signal {signal.id}")
                    free = False
            if self.flow.paused and self.options.once:
                self.stop()

    async def _follow(self, pause: Pause | None) -> None:
        status, now = self.flow.status, self.options.clock.monotonic()
        paused = self.flow.paused
        status.paused = None if pause is None else pause_text(pause)
        if pause is not None and not paused:
            self.flow.pause()
            self._paused_at = now
            self._tell_paused(status.paused or "")
        elif pause is None and paused:
            self._paused_for, self._paused_at = self.paused_seconds(), None
            await self.flow.resume()
            self.options.log(Incident("info", "run.resumed", f"{status.pipeline}: reads again"))

    def _tell_paused(self, text: str) -> None:
        name, once = self.flow.status.pipeline, self.options.once
        reads = "reads nothing more; " if self.flow.status.phase == "running" else ""
        what = "ends here, for it was to run once" if once else "waits to be resumed"
        self.options.log(Incident("warning", "run.paused", f"{name}: {text}: {reads}{what}", f"pipe resume {name}"))

    async def _answer(self, signal: SignalRecord) -> None:
        """A pause is answered when everything that was read is committed; with a resume at once, and then it says so."""
        if signal.kind == PAUSE and self.flow.paused and self.flow.batches:
            if signal.id not in self._pauses:
                await self.box.take(self.epoch, signal.id)
                self._pauses.add(signal.id)
            return
        await self._decide(signal, "accepted", RESUMED if signal.kind == PAUSE and not self.flow.paused else None)
        self._pauses.discard(signal.id)

    def _unknown(self) -> str:
        own = ", ".join(sorted(self.kinds))
        return f"the source {self.source.name} takes {own or 'no signals'}; every pipeline takes {PAUSE} and {RESUME}"

    async def _decide(self, signal: SignalRecord, outcome: SignalOutcome, why: str | None = None) -> None:
        await self.box.decide(self.epoch, signal.id, outcome, why)
        if signal.kind not in (PAUSE, RESUME):
            said = f"{self.flow.status.pipeline}: signal {signal.id}, {signal.kind}: {outcome}"
            self.options.log(Incident("info" if outcome == "accepted" else "warning", f"signal.{outcome}", said, why=why))

    async def _call(self, signal: SignalRecord) -> None:
        """One signal of the source, until it has an outcome. One that ends the run is refused: the next would end too."""
        await self._patiently(partial(self.box.take, self.epoch, signal.id))
        try:
            await self._patiently(partial(self._ask, signal), signal)
        except Permanent as error:
            await self._patiently(partial(self._decide, signal, "refused", _reason(error)))
        except Fatal as error:
            await self._patiently(partial(self._decide, signal, "refused", _reason(error)))
            raise
        else:
            await self._patiently(partial(self._decide, signal, "accepted"))

    async def _ask(self, signal: SignalRecord) -> None:
        assert isinstance(self.source, Signalled), "its kinds were asked for before"
        try:
            await self.source.signal(Signal(signal.id, signal.kind, signal.arguments))
        except PenstockError:
            raise
        except Exception as error:  # supervision point: a bug of the source ends its run, and says at which signal
            raise bug(f"source, signal {signal.kind}", error) from error

    async def _patiently(self, action: Callable[[], Awaitable[object]], signal: SignalRecord | None = None) -> None:
        """Again until it is done: a signal must not be lost, nor end the run, because a server cannot be asked for a while."""
        told = False

        def tell(error: Transient) -> None:
            nonlocal told
            if signal is not None and not told:
                told = True
                said = f"{self.flow.status.pipeline}: signal {signal.id}, {signal.kind}, is tried again: {error}"
                self.options.log(Incident("warning", error.code, said, error.help))

        await persistently(action, PATIENT, self.options.random, self.options.clock, tell)


def pause_text(pause: Pause) -> str:
    """`paused since 2026-11-21T05:00:00Z by ann@here (the sink moves)`."""
    return f"paused since {rfc3339(pause.since)[:19]}Z by {pause.by}" + (f" ({pause.why})" if pause.why else "")


def _reason(error: PenstockError) -> str:
    parts = [error.message, error.why, error.help]
    return "; ".join(part for part in parts if part)
