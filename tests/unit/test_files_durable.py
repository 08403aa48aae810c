"""A directory that a ledger lies in survives a loss of power: whoever made it synced the entry that names it."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from state_builders import make_store

from connectors.sinks._appender import Appender
from connectors.sinks.sqlite import SqliteConfig, SqliteSink
from penstock.clock import SystemClock
from penstock.errors import ComponentError, EnvironmentFault, Unavailable
from penstock.faults import Faults
from penstock.files import make_directory_durably, sync_directory
from penstock.spi import Context

Make = Callable[[Path], None]


class Synced:
    """The directories that were synced, in order. `crash_at` ends the program instead, at the sync of one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[Path] = []
        self.crash_at: Path | None = None
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").readlink()
        if path == self.crash_at:
            raise KeyboardInterrupt
        self._fsync(file)
        self.paths.append(path)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Synced:
    return Synced(monkeypatch)


def test_every_new_entry_is_synced_from_the_top_down(tmp_path: Path, synced: Synced) -> None:
    make_directory_durably(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced.paths == [tmp_path.parent, tmp_path, tmp_path / "a"]


def test_an_entry_whose_sync_a_crash_prevented_is_synced_the_next_time(tmp_path: Path, synced: Synced) -> None:
    synced.crash_at = tmp_path
    with pytest.raises(KeyboardInterrupt):
        make_directory_durably(tmp_path / "a")
    assert ((tmp_path / "a").is_dir(), synced.paths) == (True, [tmp_path.parent])
    synced.crash_at = None
    make_directory_durably(tmp_path / "a")
    assert synced.paths[1:] == [tmp_path]


def test_a_file_system_that_cannot_sync_a_directory_is_no_error_and_a_failing_disk_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    make_directory_durably(tmp_path / "a")
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_directory(tmp_path)


def test_what_is_there_below_a_directory_that_may_not_be_read_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed" / "a").mkdir(parents=True)
    monkeypatch.setattr(os, "open", failing(errno.EACCES))  # root may read everything
    make_directory_durably(tmp_path / "closed" / "a")
    with pytest.raises(PermissionError):
        make_directory_durably(tmp_path / "closed" / "b")


def failing(number: int) -> Callable[..., None]:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def sqlite_sink(project: Path) -> SqliteSink:
    context = Context("p", "s", project, project, None, SystemClock(), random.Random(1), Faults())  # type: ignore[arg-type]  # no programs here
    return SqliteSink(SqliteConfig(path="out/o.db", table="rows", create=True), context)


@pytest.mark.parametrize("who", ["state", "sqlite", "file"])
async def test_whoever_makes_a_directory_makes_it_durably(tmp_path: Path, synced: Synced, who: str) -> None:
    if who == "file":
        appender = Appender(tmp_path / "out" / "o.jsonl")
        appender.open()
        appender.close()
        assert synced.paths == [tmp_path.parent, tmp_path, tmp_path / "out"]
        return
    if who == "state":
        store = make_store(tmp_path / "out")
        await store.open()
        await store.close()
    else:
        sink = sqlite_sink(tmp_path)
        await sink.open(None)
        await sink.close()
    assert synced.paths == [tmp_path.parent, tmp_path]  # SQLite syncs the entries of its own files


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, Unavailable, "no_space"),
        (errno.EIO, Unavailable, "no_space"),
        (errno.EACCES, EnvironmentFault, "inaccessible"),
    ],
)
@pytest.mark.parametrize("who", ["state", "sink"])
async def test_a_directory_that_cannot_be_made_is_waited_for_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, number: int, kind: type[ComponentError], code: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", failing(number))
        with pytest.raises(kind) as caught:
            await (make_store(tmp_path / "out").open() if who == "state" else sqlite_sink(tmp_path).open(None))
    assert (caught.value.code, bool(caught.value.help)) == (f"{who}.{code}", True)
    opened = sqlite_sink(tmp_path)
    await opened.open(None)
    await opened.close()
