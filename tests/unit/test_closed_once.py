"""A file that cannot be closed without an error is closed all the same: its number may be another file's by the next attempt."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.sinks._appender import Appender
from penstock.state.lock import PipelineLock


def fail_to_close(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on files are closed and a late write of theirs fails, as on a network file system; the numbers that were given."""
    closed: list[int] = []
    close = os.close

    def failing(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", failing)
    return closed


def again_and_again(close: Callable[[], None]) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        close()
    close()


def test_the_pipelines_lock_is_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = PipelineLock(tmp_path / "p.lock")
    assert lock.acquire() is None
    closed = fail_to_close(monkeypatch)
    again_and_again(lock.release)
    assert len(closed) == 1


def test_the_file_of_a_sink_is_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appender = Appender(tmp_path / "out.jsonl")
    appender.open()
    closed = fail_to_close(monkeypatch)
    again_and_again(appender.close)
    assert len(closed) == 2  # the file, and what holds it
    assert len(set(closed)) == 2
