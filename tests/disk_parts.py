"""Small disks that become full, and runs that wait until they are not."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import until_async

from penstock.config.model import Retry
from penstock.engine.run import Run
from penstock.observe.status import RunSummary

IMPATIENT = Retry(max_attempts=1 << 62, initial_delay=0.01, max_delay=0.05, max_elapsed=float("inf"))


@contextmanager
def small_disk(path: Path, size: str, instead: str) -> Iterator[Path]:
    """A file system in memory, of a size such as `256k`. Mounting one is for root alone; no other way fills a disk under SQLite's
    own files.

    :param instead: what proves the same where none may be mounted: the test is skipped then.
    """
    path.mkdir()
    refused = _mount(path, f"size={size}")
    if refused is not None:
        pytest.skip(f"a file system of {size} must be mounted, for which this process has no right ({refused}): {instead}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def make_larger(path: Path, size: str = "64m") -> None:
    assert _mount(path, f"remount,size={size}") is None


def _mount(path: Path, options: str) -> str | None:
    """Why it cannot be done; None where it was."""
    command = shutil.which("mount")
    if command is None:
        return "there is no `mount`"
    done = subprocess.run(
        [command, "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else done.stderr.strip()


async def reason_to_wait(run: Run, task: asyncio.Task[RunSummary]) -> str:
    """As soon as the run waits."""
    await until_async(lambda: run.status.waiting is not None, task)
    return str(run.status.waiting)
