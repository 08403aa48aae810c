"""The progress of a stored job on a terminal: how far, how fast, how long still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock.cli import numbers
from penstock.cli.terminal import Terminal
from penstock.state.job_records import Job


@contextmanager
def job_bar(terminal: Terminal, what: str) -> Iterator[Callable[[Job], None]]:
    """A bar that the job is shown to; nothing where nobody watches. It leaves nothing behind."""
    if not terminal.interactive:
        yield lambda job: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(file=terminal.err, force_terminal=True, highlight=False)
    talk = TextColumn("{task.fields[talk]}", markup=False)
    with Progress(
        TextColumn(what), BarColumn(bar_width=None), MofNCompleteColumn(), talk, console=console, transient=True
    ) as bars:
        bar = bars.add_task(what, total=None, talk="")

        def show(job: Job) -> None:
            progress = job.progress
            bars.update(bar, completed=progress.done, total=progress.total, talk=pace_text(job))

        yield show


def pace_text(job: Job) -> str:
    """`41,200/s  0:03 left`."""
    progress = job.progress
    if not progress.rate:
        return ""
    left = "" if progress.total is None else f"  {numbers.countdown(max(0, progress.total - progress.done) / progress.rate)} left"
    return f"{progress.rate:,.0f}/s{left}"
