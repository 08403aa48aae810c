"""Two runs of one pipeline at once: the second is refused and names the first, waits for it, or takes over and fences it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input_parts import Project
from waiting import until

PATIENCE = 20.0


class Commands:
    """Runs of the command, all of them ended in the end."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = self.project.pipe("run", *arguments, "orders.yaml")
        self.started.append(command)
        return command

    def finish(self, command: subprocess.Popen[bytes]) -> tuple[int, str]:
        """Exit status and what it said."""
        _, said = command.communicate(timeout=PATIENCE)
        return command.returncode, said.decode()


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(Project(tmp_path))
    yield commands
    for command in commands.started:
        if command.poll() is None:
            command.kill()
        command.communicate()


FOLLOW = "source: {file: {paths: in.jsonl, follow: true}}\n"
TABLE = "sink: {sqlite: {path: out.db, table: t, key: [n], create: true}}\n"
ROWS = "SELECT n FROM t ORDER BY n"


def rows(project: Project) -> list[tuple[int]]:
    try:
        return project.rows(ROWS)
    except sqlite3.OperationalError:  # not made yet, or just being made
        return []


def stop_at_rest(running: subprocess.Popen[bytes]) -> None:
    """Stop a run between its commits: one that is stopped within, SQLite lets nobody write beside until it goes on, or dies."""

    def is_stopped_at_rest() -> bool:
        running.send_signal(signal.SIGSTOP)
        os.waitpid(running.pid, os.WUNTRACED)
        if _writes(running.pid):
            running.send_signal(signal.SIGCONT)
            return False
        return True

    until(is_stopped_at_rest)


def _writes(pid: int) -> bool:
    """Whether a process holds a lock to write to a database: SQLite's are POSIX locks, those of runs and journals are not."""
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(lock[1:5] == ["POSIX", "ADVISORY", "WRITE", str(pid)] for lock in locks)


def append(project: Project, *lines: bytes) -> None:
    with (project.root / "in.jsonl").open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))


@pytest.fixture
def first(commands: Commands) -> subprocess.Popen[bytes]:
    """A run that has delivered one record and waits for more."""
    project = commands.project
    project.pipeline(FOLLOW + TABLE)
    project.write("in.jsonl", b'{"n":1}')
    running = commands.start()
    until(lambda: rows(project) == [(1,)], running)
    return running


def test_the_second_is_refused_and_names_the_process(commands: Commands, first: subprocess.Popen[bytes]) -> None:
    status, said = commands.finish(commands.start("--once"))

    assert status == 3
    assert "state.held" in said
    assert f"pipeline orders is being run by process {first.pid}" in said
    assert "--wait" in said
    assert "--take-over" in said
    append(commands.project, b'{"n":2}')
    until(lambda: rows(commands.project) == [(1,), (2,)], first)


def test_one_that_waits_begins_when_the_first_ends(commands: Commands, first: subprocess.Popen[bytes]) -> None:
    second = commands.start("--wait")
    append(commands.project, b'{"n":2}')
    until(lambda: rows(commands.project) == [(1,), (2,)], first, second)
    first.send_signal(signal.SIGTERM)
    ended = commands.finish(first)
    append(commands.project, b'{"n":3}')
    until(lambda: rows(commands.project) == [(1,), (2,), (3,)], second)
    second.send_signal(signal.SIGTERM)
    status, said = commands.finish(second)

    assert (ended[0], status) == (0, 0)
    assert "received 2 = delivered 2" in ended[1]
    assert "received 1 = delivered 1" in said


def test_one_that_waits_can_be_stopped(commands: Commands, first: subprocess.Popen[bytes]) -> None:
    second = commands.start("--wait", "--log-level", "debug")
    until(lambda: b"penstock" in Path(f"/proc/{second.pid}/cmdline").read_bytes() and _handles_sigterm(second.pid), first, second)
    second.send_signal(signal.SIGTERM)

    status, said = commands.finish(second)

    assert status == 0, said
    assert first.poll() is None


def _handles_sigterm(pid: int) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_one_that_takes_over_fences_the_first_which_stops_and_says_why(
    commands: Commands, first: subprocess.Popen[bytes]
) -> None:
    project = commands.project
    stop_at_rest(first)
    second = commands.start("--take-over")
    append(project, b'{"n":2}')
    until(lambda: rows(project) == [(1,), (2,)], second)
    first.send_signal(signal.SIGCONT)
    append(project, b'{"n":3}')
    status, said = commands.finish(first)
    until(lambda: rows(project) == [(1,), (2,), (3,)], second)
    second.send_signal(signal.SIGTERM)
    ended = commands.finish(second)

    assert status == 3
    assert "fenced" in said
    assert "Traceback" not in said
    assert "received 1 = delivered 1" in said
    assert (ended[0], "received 2 = delivered 2" in ended[1]) == (0, True)
    assert rows(project) == [(1,), (2,), (3,)]


def test_a_file_is_not_taken_from_a_run_that_is_alive(commands: Commands) -> None:
    project = commands.project
    project.pipeline(FOLLOW + "sink: {file: out.jsonl}\n")
    project.write("in.jsonl", b'{"n":1}')
    first = commands.start()
    until(lambda: (project.root / "out.jsonl").exists() and len(project.lines()) == 1, first)

    status, said = commands.finish(commands.start("--once", "--take-over"))

    assert status == 3
    assert "sink.file_held" in said
    assert project.lines() == [b'{"n":1}']

    append(project, b'{"n":2}')  # the first was fenced all the same: its next commit ends it, and the next run goes on
    status, said = commands.finish(first)
    assert (status, "fenced" in said) == (3, True)
    assert commands.finish(commands.start("--set", "source.file.follow=false", "--once"))[0] == 0
    assert project.lines() == [b'{"n":1}', b'{"n":2}']
