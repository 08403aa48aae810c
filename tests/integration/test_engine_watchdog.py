"""The watchdog names the line that blocks the loop, and is silent about a process that somebody else stopped."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT = 0.4
PROGRAM = f"""
import asyncio, sys, time
from types import SimpleNamespace
from penstock.engine.watchdog import Watchdog

def waits():
    time.sleep(1.0)

def computes():
    until = time.process_time() + 0.8
    while time.process_time() < until:
        pass

def holds_every_thread():
    until = time.process_time() + 0.8
    while time.process_time() < until:
        sum(range(5_000_000))

async def main(what):
    with Watchdog(SimpleNamespace(transform_timeout={TIMEOUT}, workers=int(sys.argv[2]))):
        print("ready", flush=True)
        if what == "nothing":
            await asyncio.to_thread(sys.stdin.readline)
        else:
            globals()[what]()
        for _ in range(8):  # two turns of the watchdog
            await asyncio.sleep(0.05)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def start(program: Path, what: str, workers: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, str(program), what, str(workers)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


@pytest.mark.parametrize("what", ["waits", "computes", "holds_every_thread"])
def test_what_blocks_the_loop_is_named_once(program: Path, what: str) -> None:
    with start(program, what) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert (said.count(f" in {what}\n"), said.count("penstock: the loop stood still for")) == (1, 1)


def test_with_workers_nobody_watches_the_loop(program: Path) -> None:
    with start(program, "waits", workers=1) as process:
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")


def test_a_process_that_was_stopped_is_not_taken_for_blocked(program: Path) -> None:
    with start(program, "nothing") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(2):
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            assert select.select([process.stderr], [], [], 2 * TIMEOUT)[0] == []  # the time of a blocked step passes
            process.send_signal(signal.SIGCONT)
            assert select.select([process.stderr], [], [], TIMEOUT / 2)[0] == []
        _, said = process.communicate("\n", timeout=30)
    assert (process.returncode, said) == (0, "")
