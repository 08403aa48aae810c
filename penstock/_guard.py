"""Notices a stranger's package in the place of one of ours.

`connectors`, `transforms`, `registry` and `dlq` are common names, and Python takes the first that it finds. A run with somebody
else's `transforms` would fail far away from the cause, so `penstock` looks once, when it is imported: well under a millisecond.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

ROOMS = ("backfill", "connectors", "dlq", "registry", "transforms", "verify")


def refuse_strangers(home: str) -> None:
    """See that each of `ROOMS` comes from the directory `home`, where `penstock` lies.

    :raises ImportError: on one line, naming the package and the place that it was found in.
    """
    for name in ROOMS:
        place = _place(_spec(name))
        if place is None:
            raise ImportError(
                f"penstock is not installed completely: its package '{name}' is missing from {home}; install it again"
            )
        if place != home and not os.path.samefile(place, home):  # noqa: PTH121 likewise
            raise ImportError(
                f"the package '{name}' in {place} hides the one that penstock brings, in {home}; "
                f"rename yours, or put its directory behind penstock's on sys.path"
            )


def _spec(name: str) -> ModuleSpec | None:
    module = sys.modules.get(name)
    return PathFinder.find_spec(name) if module is None else module.__spec__


def _place(spec: ModuleSpec | None) -> str | None:
    """The directory that holds the package or module; None where there is none (a directory without code is none)."""
    if spec is None or spec.origin is None:
        return None
    found = os.path.dirname(spec.origin)  # noqa: PTH120 pathlib is not imported this early
    return found if spec.submodule_search_locations is None else os.path.dirname(found)  # noqa: PTH120
