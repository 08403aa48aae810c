"""The processes of one PostgreSQL server: crash them all at once, and end what a process that died left of its servers.

Run as `python -m penstock.testing._postgres_processes HOME`, this is a server's keeper: it waits until its stdin ends, which is
when the process that started the server ends, however that happens. What is left then is ended and removed. A keeper is used
rather than a parent-death signal, because that one is also sent when the thread ends that started the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SECONDS = 30.0
PATIENCE = 10.0
"""Twice what a postmaster gives its own children before it kills them."""
_PAUSE = 0.005


def is_ready(data: Path, postmaster: int) -> bool:
    """Whether this postmaster accepts connections. Its file in the data directory says so, as pg_ctl knows it too: line 1 has the
    process id, line 8 the state."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[0] == str(postmaster) and lines[7].strip() == "ready"


def crash(postmaster: int) -> None:
    """Kill a postmaster, which must be a child of this process, and all its children; return when they have ended.

    It is stopped first: then it neither forks nor reaps, and the ids of its children stay theirs.

    :raises TimeoutError: where one has not ended in time.
    """
    os.kill(postmaster, signal.SIGSTOP)
    deadline = time.monotonic() + SECONDS
    while _stat(postmaster)[:1] not in (["T"], ["Z"]):
        _pause(deadline, "the postmaster did not stop")
    with contextlib.ExitStack() as stack:
        handles = [_handle(pid, stack) for pid in _children(postmaster)]
        os.kill(postmaster, signal.SIGKILL)
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:
            if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("a process of the server did not end")


def end_all(home: Path, patience: float = PATIENCE) -> None:
    """Shut down every server and initdb that works below `home`; return when they have ended.

    :param patience: seconds that one has for shutting down. Then it is killed: one that is only just starting loses the request
        where it was started with SIGQUIT ignored, as by a shell in the background.
    :raises TimeoutError: where one has not ended in time.
    """
    deadline = time.monotonic() + SECONDS
    asked: dict[int, float] = {}
    while found := set(_working_below(home)):
        now = time.monotonic()
        for pid in found - set(asked):
            _send(pid, signal.SIGQUIT)
            asked[pid] = now
        for pid in found:
            if now - asked[pid] > patience:
                _send(pid, signal.SIGKILL)
        _pause(deadline, f"processes {sorted(found)} did not end")


def remove_shared_memory(data: Path) -> None:
    """Remove the shared memory segment that a killed server left, as its postmaster.pid names it (line 7: key and id).

    A server that starts on the same data directory does so itself.
    """
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return
    if len(lines) > 6 and lines[6].split():
        ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), 0, None)  # 0 is IPC_RMID


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _pause(deadline: float, overdue: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(overdue)
    time.sleep(_PAUSE)


def _handle(pid: int, stack: contextlib.ExitStack) -> int:
    handle = os.pidfd_open(pid)
    stack.callback(os.close, handle)
    return handle


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, …; empty where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _children(pid: int) -> list[int]:
    return [child for child in _pids() if _stat(child)[1:2] == [str(pid)]]


def _working_below(home: Path) -> Iterator[int]:
    """Known by their arguments, which everybody may read and which hold a directory that is nobody else's."""
    for pid in _pids():
        try:
            program, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if Path(program).name in ("postgres", "initdb") and any(one.startswith(f"{home}/") for one in arguments):
            yield pid


def main() -> None:
    """Keep: wait for the end of stdin, then leave nothing of HOME."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.read(0, 1)
    home = Path(sys.argv[1])
    if home.exists():
        end_all(home)
        remove_shared_memory(home / "data")
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
