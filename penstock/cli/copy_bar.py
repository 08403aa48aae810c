"""How far a native range is copied, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock.cli import numbers
from penstock.cli.terminal import Terminal

Tell = Callable[[int, tuple[int, int] | None], None]
"""Hears how many records were read, and how much of how much, where the source knows that."""


@contextmanager
def copy_bar(terminal: Terminal) -> Iterator[Tell]:
    """A bar that copying tells; nothing where nobody watches. It leaves nothing behind."""
    if not terminal.interactive:
        yield lambda read, part: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(file=terminal.err, force_terminal=True, highlight=False)
    talk = TextColumn("{task.fields[talk]}", markup=False)
    with Progress(TextColumn("source"), BarColumn(bar_width=None), talk, console=console, transient=True) as bars:
        bar = bars.add_task("source", total=None, talk="")

        def tell(read: int, part: tuple[int, int] | None) -> None:
            done, total = part if part is not None else (0, None)
            bars.update(bar, completed=done, total=total, talk=f"{numbers.plural(read, 'record')} read")

        yield tell
