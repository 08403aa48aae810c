"""Says where the process is when a step blocks the loop: libjq holds every Python thread while it evaluates, so with `workers: 0`
nothing can interrupt it, but `faulthandler` can still name the line."""

from __future__ import annotations

import asyncio
import faulthandler
import sys
from types import TracebackType

from penstock.config.model import Pipeline


class Watchdog:
    """While entered, a loop that does not turn for `transform_timeout` has its stacks written to stderr. Only without workers:
    these are ended by force instead."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._timeout = pipeline.transform_timeout
        self._enabled = pipeline.workers == 0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Watchdog:
        stderr = sys.__stderr__
        if self._enabled and stderr is not None and not stderr.closed:
            self._arm()
        return self

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self._timeout, file=sys.__stderr__.fileno())  # type: ignore[union-attr]  # checked
        self._timer = asyncio.get_running_loop().call_later(self._timeout / 4, self._arm)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            faulthandler.cancel_dump_traceback_later()
