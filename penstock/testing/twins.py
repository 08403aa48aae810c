"""Twin rounds: a run is stopped (SIGSTOP), a twin takes the pipeline over, then the stopped one goes on and must change nothing.

What the twin may do depends on the outputs: where all of them can be fenced it drains the source; where one is a file, which only
its holder may write, it is refused after it has fenced the other (exit status 3). In both cases the stopped run ends with status
3 once it wakes, and the next run leaves exactly what an undisturbed one leaves.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from penstock.testing.processes import Launcher, ProcessOverdue
from penstock.testing.rounds import RUN_TIMEOUT, Round, RoundResult, prepare_round
from penstock.testing.scenario import PIPELINE, Scenario, read_remains

STOPPABLE = (
    "before_sink_write",
    "after_sink_write",
    "before_commit",
    "between_ledgers",
    "before_note",
    "after_note",
    "before_ack",
    "after_ack",
)
"""Fault points at which no transaction is open: there a stopped run keeps nobody waiting."""

ENVIRONMENT = 3
RUN = ["run", "--once", f"{PIPELINE}.yaml"]


def run_twin_round(scenario: Scenario, seed: int, directory: Path, launcher: Launcher, twin_launcher: Launcher) -> RoundResult:
    """One round in `directory`, which must be empty. The seed chooses the fault point and everything else."""
    started = time.monotonic()
    round_ = prepare_round(scenario, seed, directory, launcher)
    calm, _ = round_.undisturbed()
    if calm is not None:
        project = round_.world("disturbed-0")
        try:
            _overtake(round_, project, twin_launcher)
        except ProcessOverdue as error:
            round_.problem("hangs", f"{error}: {round_.log_tail(project)}")
        if not round_.result.problems:
            remains = read_remains(project)
            round_.check(project, remains, "")
            round_.compare(project, remains, calm)
    round_.result.seconds = time.monotonic() - started
    return round_.result


def _overtake(round_: Round, project: Path, twin_launcher: Launcher) -> None:
    passed = {point: count for point, count in round_.result.passed.items() if point in STOPPABLE} or {"before_commit": 1}
    point = round_.rng.choice(sorted(passed))
    nth = 1 + round_.rng.randrange(max(1, passed[point] // 4))  # how many groups a run makes differs from run to run
    fault = f"{point}:{nth}:stop"
    first = round_.launcher.start(RUN, project, round_.log(project), environment={"PENSTOCK_FAULT": fault})
    try:
        first.wait_until_stopped(RUN_TIMEOUT)
        twin = twin_launcher.start([*RUN, "--take-over"], project, round_.log(project))
        try:
            status = twin.wait(RUN_TIMEOUT)
        finally:
            twin.end()
        round_.result.strikes.append((f"the twin, after {fault}", status))
        first.send(signal.SIGCONT)
        woken = first.wait(RUN_TIMEOUT)
        round_.result.strikes.append(("the stopped run, woken", woken))
    finally:
        first.end()
    _judge(round_, project, status, woken)


def _judge(round_: Round, project: Path, status: int, woken: int) -> None:
    held = any(output.appends_to for output in round_.scenario.outputs)
    expected = ENVIRONMENT if held else 0
    if status != expected:
        round_.problem("exit_status", f"the twin ended with {status} instead of {expected}: {round_.log_tail(project)}")
    if woken != ENVIRONMENT:
        round_.problem("not_fenced", f"the stopped run ended with {woken} instead of {ENVIRONMENT}: {round_.log_tail(project)}")
    last = round_.launcher.start(RUN, project, round_.log(project))
    if (end := last.wait(RUN_TIMEOUT)) != 0:
        round_.problem("exit_status", f"the run afterwards ended with {end}: {round_.log_tail(project)}")
