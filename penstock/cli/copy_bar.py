"""How far a native range is copied, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock.cli import numbers
from penstock.cli.bar import bar
from penstock.cli.terminal import Terminal

Tell = Callable[[int, tuple[int, int] | None], None]
"""Hears how many records were read, and how much of how much, where the source knows that."""


@contextmanager
def copy_bar(terminal: Terminal) -> Iterator[Tell]:
    """A bar that copying tells; nothing where nobody watches. It leaves nothing behind."""
    with bar(terminal, "source", counts=False) as show:

        def tell(read: int, part: tuple[int, int] | None) -> None:
            done, total = part if part is not None else (0, None)
            show(done, total, talk=f"{numbers.plural(read, 'record')} read")

        yield tell
