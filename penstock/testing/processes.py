"""Processes that a crash harness starts, kills and watches, without ever touching one that it did not start.

`Launcher` starts one process at a time: as a fresh `python -m`, which is the real thing, or as a fork of a server that has
imported everything, which takes a tenth of the time. Each process leads a session of its own, so that what it leaves behind can
be found.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

PRELOADED = (
    "penstock.config.loader",
    "penstock.engine.run",
    "penstock.engine.worker",
    "connectors.sources.file",
    "connectors.sources.postgres_cdc",
    "connectors.sinks.file",
    "connectors.sinks.postgres",
    "connectors.sinks.sqlite",
    "transforms.expressions",
    "transforms.filter",
    "transforms.jq",
    "transforms.set",
    "registry.files",
    "dlq.fingerprint",
)


class ProcessOverdue(Exception):
    """A process did not end, or not do what was waited for, within its time."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: a function without arguments that reads `sys.argv`, and directories to find it in."""

    target: str = "penstock.cli.main:main"
    path: Sequence[str] = ()


@dataclass(slots=True)
class Process:
    """One process that was started. `wait` gives its exit status, negative where a signal ended it."""

    pid: int
    popen: subprocess.Popen[bytes] | None
    server: subprocess.Popen[bytes] | None = None
    status: int | None = None

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False where the process has ended already."""
        if self.status is not None or (self.popen is not None and self.popen.poll() is not None):
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait(self, seconds: float) -> int:
        """:raises ProcessOverdue: where it is still running then."""
        if self.status is None:
            self.status = self._wait(seconds)
        return self.status

    def _wait(self, seconds: float) -> int:
        if self.popen is not None:
            try:
                return self.popen.wait(seconds)
            except subprocess.TimeoutExpired as error:
                raise ProcessOverdue(f"process {self.pid} runs after {seconds:g} s") from error
        assert self.server is not None
        return int(_answer(self.server, seconds)["status"])

    def wait_until_stopped(self, seconds: float) -> None:
        """Wait until the process has been stopped by a signal (its own, at a fault point).

        :raises ProcessOverdue: where it ended instead, or runs on.
        """
        deadline = time.monotonic() + seconds
        while _state(self.pid) != "T":
            if time.monotonic() > deadline or _state(self.pid) in ("Z", ""):
                raise ProcessOverdue(f"process {self.pid} did not stop at its fault point")
            time.sleep(0.002)

    def end(self) -> None:
        """Kill it where it still runs."""
        self.send(signal.SIGKILL)
        self.wait(30)

    def left_behind(self, seconds: float = 5.0) -> list[int]:
        """Processes of its session that outlive it for so long: after a clean end there is none."""
        deadline = time.monotonic() + seconds
        while left := _session(self.pid):
            if time.monotonic() > deadline:
                return left
            time.sleep(0.01)
        return []


@dataclass(slots=True)
class Launcher:
    """Starts processes of one program, one at a time. A context manager: leaving it ends the server."""

    program: Program = field(default_factory=Program)
    fork: bool = True
    _server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        server, self._server = self._server, None
        if server is not None:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.close()
            server.stdout.close()
            server.terminate()
            server.wait(30)

    def start(
        self,
        arguments: Sequence[str],
        directory: Path,
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        passes: str = "",
    ) -> Process:
        """Start the program in `directory`, its output appended to `log`.

        :param environment: besides a small one that every process gets.
        :param passes: a file to write the passes of fault points to.
        """
        given = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": self._path(), "NO_COLOR": "1", **(environment or {})}
        if self.fork:
            return self._forked(arguments, directory, log, given, passes)
        module, _, function = self.program.target.partition(":")
        count = f"from penstock.testing._forkserver import record_passes; record_passes({passes!r}); " if passes else ""
        boot = f"import sys; {count}from {module} import {function}; sys.argv[0] = 'pipe'; sys.exit({function}())"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [sys.executable, "-c", boot, *arguments],
                cwd=directory,
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return Process(popen.pid, popen)

    def _forked(
        self, arguments: Sequence[str], directory: Path, log: Path, environment: Mapping[str, str], passes: str
    ) -> Process:
        if self._server is None:
            module = self.program.target.partition(":")[0]
            self._server = subprocess.Popen(
                [sys.executable, "-m", "penstock.testing._forkserver", self.program.target, module, *PRELOADED],
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": self._path()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        request = {
            "arguments": list(arguments),
            "directory": str(directory),
            "log": str(log),
            "environment": dict(environment),
            "passes": passes,
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        return Process(_answer(self._server, 60)["pid"], None, self._server)

    def _path(self) -> str:
        home = str(Path(__file__).resolve().parents[2])
        return os.pathsep.join([*self.program.path, home])


def _answer(server: subprocess.Popen[bytes], seconds: float) -> dict[str, int]:
    assert server.stdout is not None
    ready, _, _ = select.select([server.stdout], [], [], seconds)
    if not ready:
        raise ProcessOverdue(f"no answer of the process server within {seconds:g} s")
    line = server.stdout.readline()
    if not line:
        raise ProcessOverdue(f"the process server ended, with status {server.wait(10)}")
    return dict(json.loads(line))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, group, session, …; empty where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _state(pid: int) -> str:
    return (_stat(pid) or [""])[0]


def _session(session: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if (fields := _stat(pid)) and fields[3] == str(session) and fields[0] != "Z"]
