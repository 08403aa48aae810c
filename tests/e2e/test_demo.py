"""`make demo`: what people see, both sides the same in the end, and nothing left behind."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAME = re.compile(r"✓ ([\d,]+) orders, the same on both sides \(checksum [0-9a-f]{8}\)")


SEEN = [
    re.compile(r"#[\d,]+ +(\w+) +→ +\1 +\d+ ms"),
    re.compile(r"changes +\d+/s in the shop"),
    re.compile(r"latency +p50 \d+ ms, p99 \d+ ms"),
]
"""On a terminal, once rows have arrived: one of them on either side, how many come, how long they took."""


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where the servers of the demonstration put their data."""
    directory = Path(tempfile.mkdtemp(prefix="penstock-demo-", dir=tempfile.gettempdir()))
    directory.chmod(0o755)
    return directory


def demo(scratch: Path, *arguments: str, **streams: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "demo", "--seed", "7", "--rate", "200", *arguments]
    environment = {**os.environ, "TMPDIR": str(scratch), "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE, **streams)


def plain(shown: bytes) -> str:
    """Without what moves the cursor and chooses colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="replace"))


def leftovers(scratch: Path) -> list[str]:
    found = [str(path) for path in scratch.iterdir()]
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    found += [line for line in processes.splitlines() if str(scratch) in line]
    scratch.rmdir() if not found else None
    return found


def test_interrupted_it_compares_both_sides_and_leaves_nothing_behind(scratch: Path) -> None:
    process = demo(scratch, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(r"delivered [1-9]", line):
            break
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    same = SAME.search(rest)
    assert same is not None, rest + errors
    assert int(same[1].replace(",", "")) >= 1_500
    assert (process.returncode, errors) == (0, "")
    assert leftovers(scratch) == []


def test_on_a_terminal_a_row_is_seen_on_either_side(scratch: Path) -> None:
    ours, theirs = pty.openpty()
    process = demo(scratch, stdout=theirs)
    os.close(theirs)
    shown, interrupted = b"", False
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not interrupted and all(one.search(plain(shown)) for one in SEEN):
            process.send_signal(signal.SIGINT)
            interrupted = True
    _, errors = process.communicate(timeout=60)
    os.close(ours)
    assert (interrupted, process.returncode, errors) == (True, 0, "")
    assert SAME.search(plain(shown))
    assert leftovers(scratch) == []
