"""A full disk makes a run wait: not ready, acknowledging nothing. When space returns it goes on by itself, nothing missing."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from bad_input_parts import Project
from disk_parts import IMPATIENT, make_larger, reason_to_wait, small_disk

from penstock.engine import retry

RECORDS = [b'{"n":%d,"text":"%s"}' % (n, b"x" * 1000) for n in range(600)]


@dataclass
class Disk:
    """A small disk at `path`; `grow` makes it large."""

    path: Path
    grow: Callable[[], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of 256 KiB."""
    instead = "test_state_store.py and test_sqlite_sink.py fill a database to its last page, and a test below a file"
    with small_disk(tmp_path / "disk", "256k", instead) as path:
        yield Disk(path, lambda: make_larger(path))


def fill(path: Path) -> None:
    """Leave not a page."""
    with (path / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(b"x" * 4096)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retry, "PATIENT", IMPATIENT)
    project = Project(tmp_path)
    project.write("in.jsonl", *RECORDS)
    return project


@pytest.mark.parametrize("compressed", ["", ".gz"])
async def test_a_file_sink_waits_for_space(project: Project, disk: Disk, compressed: str) -> None:
    project.pipeline(f"source: {{file: in.jsonl}}\nsink: {{file: disk/out.jsonl{compressed}}}\nbatching: {{count: 20}}\n")
    if compressed:
        project.write("in.jsonl", *(record[:-2] + os.urandom(700).hex().encode() + b'"}' for record in RECORDS))
    run = project.make()
    task = asyncio.create_task(run.execute())

    reason = await reason_to_wait(run, task)
    held = run.status.counts.received, run.status.ready, await project.position()
    disk.grow()
    summary = await asyncio.wait_for(task, 20)

    assert "No space left on device" in reason
    assert held[0] < 600
    assert held[1] is False
    assert held[2] == sum(len(line) + 1 for line in project.input()[: held[0]])
    assert (summary.counts.received, summary.counts.delivered) == (600, 600)
    assert project.lines(f"disk/out.jsonl{compressed}") == project.input()
    assert run.status.waiting is None


async def test_the_state_store_waits_for_space(project: Project, disk: Disk) -> None:
    without = "journal: off\n"  # which would lie there, too
    project.pipeline("source: {file: in.jsonl}\nstate: sqlite:disk\nsink: {file: out.jsonl}\nbatching: {count: 20}\n" + without)
    project.write("in.jsonl", *(record[:-1] for record in RECORDS[:-1]), RECORDS[-1])  # dead letters, which are kept
    run = project.make()
    task = asyncio.create_task(run.execute())

    reason = await reason_to_wait(run, task)
    held = run.status.counts.received, run.status.ready
    disk.grow()
    summary = await asyncio.wait_for(task, 20)

    assert reason.startswith("state.no_space: the state store")
    assert held[0] < 600
    assert held[1] is False
    assert (summary.counts.delivered, summary.counts.dead_lettered) == (1, 599)
    assert project.lines() == [RECORDS[-1]]
    assert [letter.original for letter in await project.letters()] == [record[:-1] for record in RECORDS[:-1]]


async def test_a_table_waits_for_space(project: Project, disk: Disk) -> None:
    project.pipeline(
        "source: {file: in.jsonl}\nsink: {sqlite: {path: disk/out.db, table: t, key: [n], create: true}}\nbatching: {count: 20}\n"
    )
    run = project.make()
    task = asyncio.create_task(run.execute())

    reason = await reason_to_wait(run, task)
    held = run.status.counts.received, run.status.ready
    disk.grow()
    summary = await asyncio.wait_for(task, 20)

    assert reason.startswith("sink.no_space")
    assert held[0] < 600
    assert held[1] is False
    assert summary.counts.delivered == 600
    assert project.rows("SELECT count(*), min(n), max(n) FROM t", "disk/out.db") == [(600, 0, 599)]


@pytest.mark.parametrize(
    ("what", "phase"),
    [("state: sqlite:disk\nsink: {file: out.jsonl}", "starting"), ("sink: {file: disk/deep/out.jsonl}", "running")],
)
async def test_a_disk_that_is_full_from_the_start_is_waited_for_too(project: Project, disk: Disk, what: str, phase: str) -> None:
    project.pipeline(f"source: {{file: in.jsonl}}\n{what}\n")
    fill(disk.path)
    run = project.make()
    task = asyncio.create_task(run.execute())

    await reason_to_wait(run, task)
    held = run.status.phase, run.status.ready
    disk.grow()
    summary = await asyncio.wait_for(task, 20)

    assert held == (phase, False)
    assert summary.counts.delivered == 600


async def test_a_run_that_waits_for_space_can_be_stopped_and_the_next_one_goes_on(project: Project, disk: Disk) -> None:
    project.pipeline("source: {file: in.jsonl}\nsink: {file: disk/out.jsonl}\nbatching: {count: 20}\nshutdown_timeout: 100ms\n")
    run = project.make()
    task = asyncio.create_task(run.execute())
    await reason_to_wait(run, task)

    run.stop()
    first = await asyncio.wait_for(task, 20)
    disk.grow()
    second = await project.run()

    assert first.counts.received < 600
    assert first.counts.delivered + second.counts.delivered == 600
    assert project.lines("disk/out.jsonl") == RECORDS


async def test_a_file_sink_waits_for_space_wherever_no_disk_can_be_made_small(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without a mount: the system call says what it says on a full disk, half way through."""
    project.pipeline("source: {file: in.jsonl}\nsink: {file: out.jsonl}\nbatching: {count: 20}\n")
    write, room = os.write, [100_000]

    def short(file: int, data: memoryview) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(file, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr("connectors.sinks._appender.os.write", short)
    run = project.make()
    task = asyncio.create_task(run.execute())

    reason = await reason_to_wait(run, task)
    held = run.status.counts.received, run.status.ready
    room[0] = 1 << 30
    summary = await asyncio.wait_for(task, 20)

    assert "No space left on device" in reason
    assert held[0] < 600
    assert held[1] is False
    assert summary.counts.delivered == 600
    assert project.lines() == RECORDS


async def test_a_run_that_waits_from_the_start_can_be_stopped(project: Project, disk: Disk) -> None:
    project.pipeline("source: {file: in.jsonl}\nstate: sqlite:disk\nsink: {file: out.jsonl}\n")
    fill(disk.path)
    run = project.make()
    task = asyncio.create_task(run.execute())
    await reason_to_wait(run, task)

    run.stop()
    summary = await asyncio.wait_for(task, 20)

    assert summary.counts.received == 0
