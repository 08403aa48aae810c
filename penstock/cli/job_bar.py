"""The progress of a stored job on a terminal: how far, how fast, how long still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock.cli import numbers
from penstock.cli.bar import bar
from penstock.cli.terminal import Terminal
from penstock.state.job_records import Job


@contextmanager
def job_bar(terminal: Terminal, what: str) -> Iterator[Callable[[Job], None]]:
    """A bar that the job is shown to; nothing where nobody watches. It leaves nothing behind."""
    with bar(terminal, what) as show:
        yield lambda job: show(job.progress.done, job.progress.total, talk=pace_text(job))


def pace_text(job: Job) -> str:
    """`41,200/s  0:03 left`."""
    progress = job.progress
    if not progress.rate:
        return ""
    left = "" if progress.total is None else f"  {numbers.countdown(max(0, progress.total - progress.done) / progress.rate)} left"
    return f"{progress.rate:,.0f}/s{left}"
