"""A bar on a terminal for one thing that goes on: what it is, how far it is, and what is said beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from penstock.cli.terminal import Terminal

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


class Show(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, total: int | None, *, what: str | None = None, talk: str = "") -> None:
        """:param total: None where nobody knows it, or where it is still what it was; `what` likewise."""


@contextmanager
def bar(terminal: Terminal, what: str, *, counts: bool = True, talks: bool = True) -> Iterator[Show]:
    """A bar on stderr; nothing where nobody watches. It leaves nothing behind.

    :param what: what it says before it is first moved.
    :param counts: it has the numbers beside it: `3/10`; `talks`: and words.
    """
    if not terminal.interactive:
        yield lambda done, total, *, what=None, talk="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=None)]
    if counts:
        columns.append(MofNCompleteColumn())
    if talks:
        columns.append(TextColumn("{task.fields[talk]}", markup=False))
    console = Console(file=terminal.err, force_terminal=True, highlight=False)
    with Progress(*columns, console=console, transient=True) as bars:
        only = bars.add_task(what, total=None, talk="")

        def show(done: int, total: int | None, *, what: str | None = None, talk: str = "") -> None:
            bars.update(only, description=what, completed=done, total=total, talk=talk)

        yield show
