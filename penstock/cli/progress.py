"""Live progress on a terminal: a line a pipeline, with bar, rate and expected end. It only reads `RunStatus`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from penstock.cli import numbers
from penstock.observe.status import RunStatus
from penstock.observe.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

REFRESH_SECONDS = 0.1
WINDOW_SECONDS = 5.0


@dataclass(slots=True)
class Pace:
    """How fast something moves, over the last few seconds.

    :ivar samples: (monotonic time, events, done).
    :ivar base: how far the source was when first asked; `best`, the furthest that was shown.
    :ivar widest: columns that its words have taken so far.
    """

    samples: deque[tuple[float, int, int]] = field(default_factory=deque)
    base: int | None = None
    best: int = 0
    widest: int = 0

    def committed(self, status: RunStatus, progress: tuple[int, int] | None) -> tuple[int, int] | None:
        """The source's progress, which runs ahead, brought back to what is committed, about."""
        if progress is None:
            return None
        done, total = progress
        received = status.counts.received + status.reread
        if self.base is None:
            self.base = 0 if received or status.in_flight_events else done
        share = received / max(1, received + status.in_flight_events)
        self.best = max(self.best, self.base + round((done - self.base) * share))  # a bar does not go back
        return self.best, total

    def add(self, at: float, events: int, done: int) -> None:
        self.samples.append((at, events, done))
        while len(self.samples) > 2 and self.samples[1][0] < at - WINDOW_SECONDS:
            self.samples.popleft()

    def events_per_second(self) -> float:
        return self._slope(1)

    def seconds_left(self, left: int) -> float | None:
        """None while nothing moves."""
        speed = self._slope(2)
        return left / speed if speed > 0 else None

    def _slope(self, index: int) -> float:
        if len(self.samples) < 2:
            return 0.0
        first, last = self.samples[0], self.samples[-1]
        return (last[index] - first[index]) / (last[0] - first[0]) if last[0] > first[0] else 0.0


def describe(status: RunStatus, pace: Pace, progress: tuple[int, int] | None) -> str:
    """`24,800 events  41,200/s  3.0 s left  179 dead letters`."""
    if status.waiting is not None:
        return f"waiting: {printable(status.waiting)}"
    if status.paused is not None:
        in_flight = f", {numbers.plural(status.in_flight_events, 'event')} on the way" if status.in_flight_events else ""
        return printable(status.paused) + in_flight
    if status.phase == "starting":
        return "starting"
    parts = [f"{numbers.plural(status.counts.received, 'event'):>14}", f"{pace.events_per_second():>8,.0f}/s"]
    if status.phase == "draining":
        parts.append("  draining")
    elif progress is not None and (left := pace.seconds_left(progress[1] - progress[0])) is not None:
        parts.append(f"{numbers.countdown(left):>5} left")
    if status.counts.dead_lettered:
        parts.append(f"{numbers.plural(status.counts.dead_lettered, 'dead letter')}")
    return "  ".join(parts)


class ProgressDisplay:
    """Bars of some runs on stderr: `watch`, then `async with`, which leaves nothing behind; `write` prints a line above them."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._runs: Sequence[RunStatus] = ()
        self._stream = stream
        self._clock = clock
        self._paces: list[Pace] = []
        self._bars: list[TaskID] = []
        self._progress: Progress | None = None
        self._task: asyncio.Task[None] | None = None

    def watch(self, runs: Sequence[RunStatus]) -> None:
        """Say which runs to show, before they are shown."""
        self._runs = runs
        self._paces = [Pace() for _ in runs]

    async def __aenter__(self) -> ProgressDisplay:
        self._progress = _make_progress(self._stream)
        names = [printable(run.pipeline) for run in self._runs]
        width = max(map(len, names), default=0)
        self._bars = [self._progress.add_task(name.ljust(width), total=1, share="", talk="") for name in names]
        self._progress.start()
        self._task = asyncio.create_task(self._refresh(), name="progress")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._progress is not None:
            self._progress.stop()
        self._progress = None

    def write(self, line: str) -> None:
        """A line of talk; may carry colors."""
        if self._progress is None:
            self._stream.write(line + "\n")
            self._stream.flush()
            return
        from rich.text import Text

        self._progress.console.print(Text.from_ansi(line), soft_wrap=True)

    async def _refresh(self) -> None:
        while self._progress is not None:
            for run, pace, bar in zip(self._runs, self._paces, self._bars, strict=True):
                self._show(self._progress, run, pace, bar)
            self._progress.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    def _show(self, display: Progress, run: RunStatus, pace: Pace, bar: TaskID) -> None:
        if run.phase in ("stopped", "failed"):
            display.update(bar, visible=False)
            return
        progress = pace.committed(run, run.progress())
        done, total = progress if progress is not None else (0, 1 if run.phase == "starting" else None)
        pace.add(self._clock(), run.counts.received, done)
        share = f"{100 * done / progress[1]:3.0f} %" if progress is not None and progress[1] else ""
        talk = describe(run, pace, progress).ljust(pace.widest)
        pace.widest = len(talk)  # a bar that grows and shrinks with the words beside it is hard to read
        display.update(bar, completed=done, total=total or None, share=share, talk=talk)


def _make_progress(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan", pulse_style="cyan"),
        TextColumn("{task.fields[share]}", markup=False),
        TextColumn("{task.fields[talk]}", markup=False),
        console=Console(file=stream, force_terminal=True, highlight=False),
        transient=True,
        auto_refresh=False,
        expand=True,
    )
