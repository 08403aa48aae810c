"""Says where the process is when a step blocks the loop: with `workers: 0` nothing can interrupt it, but `faulthandler` can still
name the line.

Two clocks, because a step blocks in two ways. One that computes, libjq above all, may hold every Python thread: a timer of the
process's own processor time notices it, and its signal needs no Python to be answered. One that waits (a lock, a slow server)
uses no processor time: a thread notices it. Neither runs while the whole process is stopped, so that a stop is not taken for a
step's fault.

Source: setitimer(2), ITIMER_VIRTUAL.
"""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import threading
import time
from signal import ITIMER_VIRTUAL, SIGVTALRM, getitimer, setitimer
from types import TracebackType

from penstock.config.model import Pipeline


class Watchdog:
    """While entered, a loop that does not turn for `transform_timeout` has its stacks written to stderr, once. Only without
    workers: these are ended by force instead."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._timeout = pipeline.transform_timeout
        self._enabled = pipeline.workers == 0
        self._still = 0.0
        self._turned = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="penstock-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        stderr = sys.__stderr__
        if self._enabled and stderr is not None and not stderr.closed:
            self._arm()
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        self._ended.set()
        self._thread.join()
        setitimer(ITIMER_VIRTUAL, 0)
        faulthandler.unregister(SIGVTALRM)

    def _turn(self) -> None:
        """The loop turns."""
        still = time.monotonic() - self._turned
        if still >= self._timeout and self._reported():
            said = f"penstock: the loop stood still for {still:.1f} s; the stacks above say where"
            print(said, file=sys.__stderr__, flush=True)
        self._arm()

    def _arm(self) -> None:
        faulthandler.register(SIGVTALRM, file=sys.__stderr__.fileno())  # type: ignore[union-attr]  # checked
        setitimer(ITIMER_VIRTUAL, self._timeout)
        self._still, self._turned = 0.0, time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(self._timeout / 4, self._turn)

    def _reported(self) -> bool:
        """Whether the timer has gone off, which it does once; also when another run of this process has ended meanwhile."""
        return getitimer(ITIMER_VIRTUAL)[0] == 0

    def _watch(self) -> None:
        """In ticks: time in which the process was stopped is one long tick, and counts as a short one."""
        tick = self._timeout / 8
        before = time.monotonic()
        while not self._ended.wait(tick):
            now = time.monotonic()
            self._still += min(now - before, 2 * tick)
            before = now
            if self._still >= self._timeout and not self._reported():
                setitimer(ITIMER_VIRTUAL, 0)
                faulthandler.dump_traceback(sys.__stderr__.fileno())  # type: ignore[union-attr]  # checked
