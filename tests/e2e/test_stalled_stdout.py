"""A run whose standard output nobody reads ends when it is told to."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from process_parts import PIPE, environment
from waiting import until

SECONDS = 10.0


@contextmanager
def unread_run(directory: Path, shutdown_timeout: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run that waits for whoever reads its standard output."""
    pipeline = {"pipeline": "p", "source": "generate", "sink": "stdout", "shutdown_timeout": shutdown_timeout}
    (directory / "p.yaml").write_text(json.dumps(pipeline))
    reader, writer = os.pipe()
    process = subprocess.Popen([*PIPE, "run", "p.yaml"], cwd=directory, env=environment(), stdout=writer, stderr=subprocess.PIPE)
    try:
        until(lambda: not select.select([], [writer], [], 0)[1], process)
        yield process
    finally:
        process.kill()
        process.communicate()
        os.close(reader)
        os.close(writer)


def test_it_ends_within_its_shutdown_timeout(tmp_path: Path) -> None:
    with unread_run(tmp_path, "100ms") as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=SECONDS)
        assert (process.returncode, b"shutdown.timeout" in said) == (0, True)


def test_a_second_signal_ends_it(tmp_path: Path) -> None:
    with unread_run(tmp_path, "1h") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGTERM)
        assert b"run.stopping" in process.stderr.readline()
        process.send_signal(signal.SIGINT)  # another one, because the same one at once would be an echo of the first
        assert process.wait(SECONDS) == 128 + signal.SIGINT
