"""What can go wrong with a file, in words; and files that are renamed in the very moment in which they are looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from connectors.sources._streams import Damaged
from penstock.errors import EnvironmentFault, Fatal

T = TypeVar("T")

LOOKS = 3
"""How often a file is looked for again that was there and is gone: each time somebody must have renamed it in between."""


def unreadable(name: str, why: str, help: str = "make it readable") -> EnvironmentFault:
    return EnvironmentFault(
        "source.unreadable",
        f"cannot read {name}: {why}",
        where=f"partition {name}",
        help=f"{help}, or narrow `paths` so that it does not match",
    )


def rewritten(name: str, generation: int, offset: int, why: str) -> Fatal:
    return Fatal(
        "source.rewritten",
        f"{name} is no longer the file that was read: it was truncated or rewritten",
        where=f"partition {name}, position {generation}-{offset}",
        why=why,
        help="put the file back as it was, or give the new content a new name; "
        "`pipe checkpoint reset` forgets the checkpoint and reads everything again",
    )


def _damaged(name: str, error: Damaged) -> EnvironmentFault:
    what = "is cut short" if error.cut else "is damaged"
    return EnvironmentFault(
        f"source.truncated_{error.kind}",
        f"{name} {what} at byte {error.offset} of the {error.kind} file",
        where=f"partition {name}",
        why=str(error),
        help="what came before it was read; put the whole file in its place and run again",
    )


@contextmanager
def located(name: str) -> Iterator[None]:
    """Around whatever touches the file of a partition.

    :raises EnvironmentFault: `source.unreadable`, `source.truncated_gzip`, `source.truncated_zstd`.
    """
    try:
        yield
    except OSError as error:
        raise unreadable(name, error.strerror or str(error)) from error
    except Damaged as error:
        raise _damaged(name, error) from error


def raise_together(faults: Sequence[EnvironmentFault]) -> None:
    """Raise the first, which names the others; nothing where there is none."""
    if not faults:
        return
    first, *others = faults
    if not others:
        raise first
    why = "; ".join([*filter(None, [first.why]), *(f"also: {other.message}" for other in others)])
    raise EnvironmentFault(first.code, first.message, where=first.where, why=why, help=first.help)


def settled(look: Callable[[], T]) -> T:
    """What `look` finds; it looks again where a file that it had found was gone when it went on.

    :raises OSError: the same as `look`, in the end.
    """
    for _ in range(LOOKS - 1):
        try:
            return look()
        except (FileNotFoundError, NotADirectoryError):
            continue
    return look()


def stat_of(path: Path) -> os.stat_result | None:
    """What stands at a path; None where nothing does.

    :raises OSError: it cannot be told.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_gone(path: Path) -> bool:
    """Whether not even a link that leads nowhere stands at a path. False where it cannot be told."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # whoever opens it says so
        return False
    return False
