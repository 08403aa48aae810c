"""Starts many short-lived processes of one program quickly: imports it once, then forks a child for each request.

A child is the program itself from its first line on, in a session of its own; only the time that imports take is saved. Requests
and answers are JSON lines on stdin and on a duplicate of stdout: `{"arguments", "environment", "directory", "log", "passes"}`
gives `{"pid"}` at once and `{"status"}` at the child's end (negative: the signal that ended it). One child at a time.

Run as `python -m penstock.testing._forkserver MODULE:FUNCTION MODULE…`: the program, and what to import.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

from penstock.faults import Faults


def main() -> None:
    """Serve until stdin ends; in a child, run the program."""
    target, *modules = sys.argv[1:]
    for module in modules:
        import_module(module)
    module, _, function = target.partition(":")
    program: Callable[[], Any] = getattr(import_module(module), function)
    answers = os.dup(1)
    os.set_inheritable(answers, False)
    request = _serve(answers)
    if request is not None:
        _become(request, answers)
        sys.exit(program())


def _serve(answers: int) -> dict[str, Any] | None:
    """None when there are no more requests; in a child, its request."""
    while line := _read_line():
        pid = os.fork()
        if pid == 0:
            return dict(json.loads(line))
        _answer(answers, {"pid": pid})
        _, status = os.waitpid(pid, 0)
        _answer(answers, {"status": os.waitstatus_to_exitcode(status)})
    return None


def _read_line() -> bytes:
    """Unbuffered, so that a child inherits nothing that was read ahead."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line


def _answer(answers: int, message: dict[str, int]) -> None:
    os.write(answers, json.dumps(message).encode() + b"\n")


def _become(request: dict[str, Any], answers: int) -> None:
    """Environment, directory, streams and arguments as a process has them that was started anew."""
    os.setsid()
    os.close(answers)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream, descriptor in ((0, null), (1, log), (2, log)):
        os.dup2(descriptor, stream)
    os.close(null)
    os.close(log)
    sys.argv = ["pipe", *request["arguments"]]
    if request["passes"]:
        record_passes(request["passes"])


def record_passes(path: str) -> None:
    """Write to `path`, after each fault point, how often each one was passed: tells the harness where it can strike."""
    passed: Counter[str] = Counter()

    def hit(self: Faults, name: str) -> None:
        passed[name] += 1
        with open(path, "w") as file:  # noqa: PTH123  # small, and often
            json.dump(passed, file)

    Faults.hit = hit  # type: ignore[method-assign]  # in a process that counts, and injects nothing


if __name__ == "__main__":
    main()
