"""One crash round over a changing database: writers at work, runs and servers that are struck, a last run, and the verdict.

There is no undisturbed run to compare with: what has to be there is what the writers committed. Collaborators: `cdc_writer`,
`cdc_scenario` (pipeline, servers), `cdc_strikes` (what is done), `cdc_verdict` (what is wrong), `processes`.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.testing.cdc_oracle import Begin
from penstock.testing.cdc_scenario import (
    SLOT,
    CdcScenario,
    CdcSettings,
    Servers,
    World,
    write_cdc_pipeline,
)
from penstock.testing.cdc_strikes import CdcStrike, disturb, plan_cdc_strikes
from penstock.testing.cdc_verdict import Verdict
from penstock.testing.cdc_writer import Writers
from penstock.testing.processes import Launcher, Process, ProcessOverdue
from penstock.testing.rounds import RUN_TIMEOUT, Problem, RoundResult
from penstock.testing.scenario import PIPELINE

ENVIRONMENT = 3

SIGNALS = 0.3
"""How likely another snapshot is asked for between two runs."""

_PAUSE = 0.005


@contextmanager
def cdc_rounds(scenario: CdcScenario) -> Iterator[Callable[[int, Path, Launcher], RoundResult]]:
    """The servers of many rounds; what it gives runs one after the other."""
    with scenario.servers() as servers:
        yield lambda seed, directory, launcher: run_cdc_round(scenario, servers, seed, directory, launcher)


def run_cdc_round(
    scenario: CdcScenario,
    servers: Servers,
    seed: int,
    directory: Path,
    launcher: Launcher,
    *,
    strikes: Sequence[CdcStrike] = (),
    settings: CdcSettings | None = None,
) -> RoundResult:
    """One whole round in `directory`, which must be empty.

    :param strikes: instead of those that the seed draws; `settings` likewise.
    """
    started = time.monotonic()
    rng = random.Random(f"{scenario.name}/{seed}")
    drawn = CdcSettings.draw(rng)
    settings = settings or drawn
    result = RoundResult(scenario.name, seed)
    project = directory / "project"
    project.mkdir()
    with servers.world(f"round_{seed}", settings) as world:
        write_cdc_pipeline(project, scenario, world, settings)
        writing = {"count": settings.writers, "bodies": settings.bodies, "bulk": settings.bulk}
        with Writers(world.source, f"{scenario.name}/{seed}", **writing) as writers:
            round_ = CdcRound(scenario, seed, project, launcher, settings, rng, world, writers, result)
            round_.run(strikes or plan_cdc_strikes(rng, seed))
    result.seconds = time.monotonic() - started
    return result


@dataclass(slots=True)
class CdcRound:
    """One round under way; what it finds goes to `result`."""

    scenario: CdcScenario
    seed: int
    project: Path
    launcher: Launcher
    settings: CdcSettings
    rng: random.Random
    world: World
    writers: Writers
    result: RoundResult
    allowed: int = 0
    slot: bool = False
    begin: Begin = Begin()
    signals: int = 0

    def run(self, strikes: Sequence[CdcStrike]) -> None:
        """The disturbed runs, the last one, the verdict."""
        self._before()
        for number, strike in enumerate(strikes):
            self._one(strike, number, len(strikes))
            if self.result.problems:
                return
            if self.slot and self.settings.snapshot and self.rng.random() < SIGNALS:
                self._ask_for_snapshot()
        if not self._has_slot():
            self._last("so that there is a slot")
        self._allow(self.settings.transactions)
        self.writers.settle()
        self._last("the last run")
        self.writers.record.write(self.project.with_name("record.jsonl"))
        if not self.result.problems:
            self._judge()

    # ---- running

    def _before(self) -> None:
        """Rows that are there before the first run, where it takes a snapshot; others are on their way."""
        if self.settings.snapshot:
            self._allow(self.settings.transactions // 3)
            self.writers.settle()
            self.begin = Begin(self._ticket(), self._ticket())
            self._allow(self.settings.transactions // 2)

    def _ask_for_snapshot(self) -> None:
        arguments = ["signal", PIPELINE, "snapshot", "public.items", "--no-wait"]
        process = self.launcher.start(arguments, self.project, self.log)
        if (status := process.wait(RUN_TIMEOUT)) != 0:
            self.problem("exit_status", f"{status} of pipe signal: {self.log_tail()}")
        self.signals += 1

    def _ticket(self) -> int:
        ((last,),) = self.world.source.execute("SELECT last FROM tickets")
        return int(last)

    def _one(self, strike: CdcStrike, number: int, of: int) -> None:
        environment = {"PENSTOCK_FAULT": strike.end.fault} if strike.end.fault else {}
        process = self._start(["run", f"{PIPELINE}.yaml"], environment)
        try:
            if self._wait_for_slot(process):
                self._allow(self.settings.transactions * (number + 1) // of)
            status = self._let_run(process, strike)
        except ProcessOverdue as error:
            process.end()
            self.problem("hangs", f"{error} under {strike}: {self.log_tail()}")
            return
        self.result.strikes.append((str(strike), status))
        self._judge_end(strike, status)
        self._look_for_leftovers(process, str(strike))

    def _let_run(self, process: Process, strike: CdcStrike) -> int:
        """The run's exit status, which is the strike's doing or its own."""
        started = time.monotonic()
        for each in strike.disturbances:
            status = self._wait(process, started + each.after)
            disturb(self.world, each.name, self.rng)
            if status is not None:
                return status
        status = self._wait(process, started + (strike.end.delay or 0.0))
        if status is not None:
            return status
        process.send(strike.end.signal)
        return process.wait(RUN_TIMEOUT)

    @staticmethod
    def _wait(process: Process, until: float) -> int | None:
        try:
            return process.wait(max(0.0, until - time.monotonic()))
        except ProcessOverdue:
            return None

    def _judge_end(self, strike: CdcStrike, status: int) -> None:
        end = strike.end
        if status == -signal.SIGKILL:
            self.result.killed_at[end.fault.partition(":")[0] or "moment"] += 1
        elif end.signal == signal.SIGTERM and status in (0, 143, -signal.SIGTERM):
            return
        elif status != ENVIRONMENT or not strike.disturbances:  # a server that is away when a run begins may end it
            self.problem("exit_status", f"{status} under {strike}: {self.log_tail()}")

    def _last(self, what: str) -> None:
        process = self._start(["run", "--once", "--json", f"{PIPELINE}.yaml"], {})
        try:
            status = process.wait(RUN_TIMEOUT)
        except ProcessOverdue as error:
            process.end()
            self.problem("hangs", f"{what}: {error}: {self.log_tail()}")
            return
        if status != 0:
            self.problem("exit_status", f"{what} ended with {status}: {self.log_tail()}")
        self.result.strikes.append((what, status))
        self._look_for_leftovers(process, what)

    def _start(self, arguments: Sequence[str], environment: dict[str, str]) -> Process:
        return self.launcher.start(arguments, self.project, self.log, environment=environment)

    def _look_for_leftovers(self, process: Process, when: str) -> None:
        if left := process.left_behind():
            self.problem("leftovers", f"processes {left} outlive the run under {when}")

    def _wait_for_slot(self, process: Process) -> bool:
        """Without a snapshot, nothing is written before there is a slot: it would not be seen."""
        while not self._has_slot():
            if self._wait(process, time.monotonic() + _PAUSE) is not None:
                return self._has_slot()
        return True

    def _has_slot(self) -> bool:
        if self.slot:
            return True
        asked = "SELECT slot_name FROM pg_replication_slots WHERE slot_name = %s AND confirmed_flush_lsn IS NOT NULL"
        self.slot = bool(self.world.source.execute(asked, (SLOT,)))
        if self.slot:
            self.begin = Begin(self.begin.least, self._ticket() if self.settings.snapshot else 0)
        return self.slot

    def _allow(self, so_far: int) -> None:
        if so_far > self.allowed:
            self.writers.allow(so_far - self.allowed)
            self.allowed = so_far

    def _judge(self) -> None:
        """The verdict; and another run reads nothing."""
        record = self.writers.record
        Verdict(self.scenario, self.settings, self.world, self.project, record, self.begin, self.result).check()
        before = len(self.log.read_text().splitlines())
        self._last("a run that has nothing to do")
        summary = json.loads(self.log.read_text().splitlines()[before:][-1])
        if summary["received"] or summary["reread"]:
            self.problem("slot", f"a run that has nothing to do reads {summary}")

    def problem(self, kind: str, detail: str) -> None:
        self.result.problems.append(Problem(kind, detail))

    @property
    def log(self) -> Path:
        return self.project.with_name("log")

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:].strip() if self.log.exists() else "(no output)"
