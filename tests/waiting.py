"""Waiting for what another process or task does: on a condition, with a deadline, while there is somebody to do it."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

SECONDS = 30.0
_PAUSE = 0.005


def until(condition: Callable[[], object], *alive: subprocess.Popen[Any], seconds: float = SECONDS) -> None:
    """Return as soon as the condition holds.

    :param alive: processes that must not end meanwhile.
    """
    for _ in _looks(condition, seconds):
        for process in alive:
            assert process.poll() is None, process.communicate()
        time.sleep(_PAUSE)


async def until_async(condition: Callable[[], object], task: asyncio.Task[Any], seconds: float = SECONDS) -> None:
    """The same in a loop; the task must not end meanwhile."""
    for _ in _looks(condition, seconds):
        if task.done():
            raise AssertionError(f"it ended: {task.exception() or task.result()}")
        await asyncio.sleep(_PAUSE)


def _looks(condition: Callable[[], object], seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s"
        yield
