"""The edge to other people's code: what a component raises that is no `PenstockError` is a bug of it, and stops the run with a
reason that says whose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.errors import Fatal, PenstockError


@contextmanager
def blaming(where: str) -> Iterator[None]:
    """Inside, a bug becomes `Fatal` with `where`, such as `step enrich`. A lack of memory stays itself: a worker dies of it."""
    try:
        yield
    except (PenstockError, MemoryError):
        raise
    except Exception as error:  # supervision point: a bug in a component stops the run with a located reason
        raise bug(where, error) from error


def bug(where: str, error: Exception) -> Fatal:
    """The reason of a run that stops at an exception nobody expected."""
    fatal = Fatal(
        "internal.error", f"{type(error).__name__}: {error}", where=where, help="this is a bug of the component: report it"
    )
    fatal.__cause__ = error
    return fatal
