"""Several pipelines in one process, each supervised on its own: one that fails does not stop the others.

The first SIGTERM or SIGINT drains every run, the second stops now. What was committed stands either way.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from penstock.config.model import Pipeline
from penstock.engine.run import Run
from penstock.errors import ExitStatus, Fatal, PenstockError
from penstock.observe.log import Incident, Log
from penstock.observe.status import RunSummary

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_SECONDS = 5.0
ECHO_SECONDS = 0.1
SEVERITY = (ExitStatus.DONE, ExitStatus.FOUND, ExitStatus.USAGE, ExitStatus.ENVIRONMENT, ExitStatus.FAILED)
"""From best to worst; a process with several pipelines ends with the worst."""


@dataclass(slots=True)
class Outcome:
    """How one pipeline's run ended.

    :ivar summary: its numbers, up to the failure where there was one.
    :ivar stopped: it was asked to stop, before its source was drained.
    """

    pipeline: Pipeline
    run: Run
    summary: RunSummary | None = None
    error: PenstockError | None = None
    stopped: bool = False

    def exit_status(self, *, fail_on_dead_letters: bool) -> ExitStatus:
        if self.error is not None:
            return self.error.exit_status
        if fail_on_dead_letters and self.summary is not None and self.summary.counts.dead_lettered:
            return ExitStatus.FOUND
        return ExitStatus.DONE


def worst(statuses: Sequence[ExitStatus]) -> ExitStatus:
    """The worst of some exit statuses; DONE of none."""
    return max(statuses, key=SEVERITY.index, default=ExitStatus.DONE)


@dataclass(slots=True)
class Supervisor:
    """Runs pipelines side by side. `execute` once.

    :ivar failed: told of a run's error at once, while others go on; `ended` of each run as it ends.
    """

    runs: Sequence[Run]
    log: Log
    failed: Callable[[Outcome, PenstockError], None]
    ended: Callable[[Outcome], None]
    _tasks: list[asyncio.Task[Outcome]] = field(default_factory=list)
    _signals: int = 0
    _last: tuple[int, float] | None = None
    _interrupted_by: int | None = None

    async def execute(self) -> tuple[list[Outcome], int | None]:
        """The outcomes in the order of the runs, and the signal that cut them short, if one did."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            self._tasks = [asyncio.create_task(self._supervise(run), name=run.pipeline.name) for run in self.runs]
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
        return [result for result in results if isinstance(result, Outcome)], self._interrupted_by

    async def _supervise(self, run: Run) -> Outcome:
        outcome = Outcome(run.pipeline, run)
        try:
            outcome.summary = await run.execute()
        except PenstockError as error:
            self._failed(outcome, error)
        except Exception as error:  # supervision point: a mistake of ours ends this pipeline, not the others
            bug = Fatal("internal.error", f"{type(error).__name__}: {error}", why="a mistake in Penstock", help="report it")
            bug.__cause__ = error
            self._failed(outcome, bug)
        outcome.stopped = bool(self._signals)
        self.ended(outcome)
        return outcome

    def _failed(self, outcome: Outcome, error: PenstockError) -> None:
        outcome.error = error
        outcome.summary = outcome.run.summary()
        self.failed(outcome, error)

    def _signalled(self, number: int) -> None:
        if self._is_echo(number):
            return
        self._signals += 1
        name = signal.Signals(number).name
        if self._signals == 1:
            self.log(Incident("info", "run.stopping", f"{name}: what was read is delivered and committed; once more stops now"))
            for run in self.runs:
                run.stop()
            return
        self._interrupted_by = number
        if self._signals > 2:
            _leave(128 + number)
        self.log(Incident("warning", "run.interrupted", f"{name} again: what was not committed will be read again"))
        for task in self._tasks:
            task.cancel()
        asyncio.get_running_loop().call_later(STOP_SECONDS, _leave, 128 + number)

    def _is_echo(self, number: int) -> bool:
        """`timeout` and some supervisors signal the process and then its group: that is one wish, not two."""
        now = asyncio.get_running_loop().time()
        last, self._last = self._last, (number, now)
        return last is not None and last[0] == number and now - last[1] < ECHO_SECONDS


def _leave(status: int) -> None:
    """End at once; what was committed stands. A terminal gets its cursor back."""
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h")
    os._exit(status)
