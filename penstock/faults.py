"""Named fault points: places where a test makes the process die, stop or fail, on purpose and reproducibly.

`PENSTOCK_FAULT=name:nth:action[,name:nth:action…]` arms them: the nth time that the point is passed, the action happens. Without
it, passing a point costs one comparison. Points are passed once a batch or a group, never once an event.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.errors import Fatal, Transient, UsageError

POINTS = (
    "after_read",
    "after_process",
    "before_sink_write",
    "inside_sink_write",
    "after_sink_write",
    "inside_journal",
    "after_journal",
    "before_dead_letters",
    "mid_dead_letters",
    "before_commit",
    "inside_commit",
    "between_ledgers",
    "before_note",
    "after_note",
    "before_ack",
    "after_ack",
    "mid_claim",
    "mid_migration",
)
"""Every fault point of a run, in the order in which an event passes them."""

JOB_POINTS = ("after_take_up", "before_job_commit", "before_job_note", "after_job_note", "after_job_end")
"""Those that only jobs pass: letters are taken up by a replay; the commit and the note of a job's group, as those of all
groups; its end is stored, its records are still there."""

STEP_POINTS = ("before_answers", "after_answers")
"""Those that only steps with an idempotency key pass: the world has answered, the state store keeps the answers.

A name that is in none of these lists is a usage error."""


def _kill(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(name: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _transient(name: str) -> None:
    raise Transient("fault.injected", f"a transient fault was injected at {name}")


def _fatal(name: str) -> None:
    raise Fatal("fault.injected", f"a fatal fault was injected at {name}")


_ACTIONS: dict[str, Callable[[str], None]] = {"kill": _kill, "stop": _stop, "transient": _transient, "fatal": _fatal}


@dataclass(slots=True)
class Faults:
    """The armed fault points of one process. `Faults()` has none."""

    armed: dict[str, list[tuple[int, Callable[[str], None]]]] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_environment(cls) -> Faults:
        """:raises UsageError: `fault.unknown`, where `PENSTOCK_FAULT` names no known point or action."""
        faults, points = cls(), (*POINTS, *JOB_POINTS, *STEP_POINTS)
        for text in filter(None, os.environ.get("PENSTOCK_FAULT", "").split(",")):
            name, _, rest = text.partition(":")
            nth, _, action = rest.partition(":")
            if name not in points or not nth.isdigit() or action not in _ACTIONS:
                raise UsageError(
                    "fault.unknown",
                    f"PENSTOCK_FAULT has no meaning: {text!r}",
                    help=f"NAME:NTH:ACTION with a name of {', '.join(points)} and an action of {', '.join(_ACTIONS)}",
                )
            faults.armed.setdefault(name, []).append((int(nth), _ACTIONS[action]))
        return faults

    def hit(self, name: str) -> None:
        """Pass the point `name`."""
        if not self.armed:
            return
        count = self.passed[name] = self.passed.get(name, 0) + 1
        for nth, action in self.armed.get(name, ()):
            if nth == count:
                action(name)
