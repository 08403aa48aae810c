"""`pipe` in processes of its own: started in a directory, and ended in any case."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PIPE = [sys.executable, "-P", "-c", "from penstock.cli.main import main; main()"]
PATIENCE = 60.0


def environment(**variables: str) -> dict[str, str]:
    """This process's, in which another imports what this one does; with these variables."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}


@contextmanager
def started(
    directory: Path, *arguments: str, out: IO[str] | int = subprocess.PIPE, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """It runs meanwhile; killed where it has not ended by then."""
    process = subprocess.Popen(
        [*PIPE, *arguments],
        cwd=directory,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr, once it has ended."""
    out, said = (part.decode() if isinstance(part, bytes) else part for part in process.communicate(timeout=PATIENCE))
    return process.returncode, out, said


def pipe(directory: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """From beginning to end: exit status, stdout and stderr."""
    with started(directory, *arguments, **variables) as process:
        return ended(process)


def output(directory: Path, *arguments: str, status: int = 0, **variables: str) -> str:
    """What it writes to stdout; it has to end with this status."""
    ending, out, said = pipe(directory, *arguments, **variables)
    assert ending == status, said
    return out
