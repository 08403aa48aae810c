"""One telling of a crash story: the input grows, a run lives beside it and is started again whenever it dies, somebody asks for
something, and in the end everything is drained.

What is asked for, what else happens, and what must be there in the end, is said by subclasses: `_write`, `_turn`, `_ask`,
`_settle` and `check`.
"""

from __future__ import annotations

import json
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.faults import JOB_POINTS
from penstock.testing.oracle import Oracle
from penstock.testing.processes import Process, ProcessOverdue
from penstock.testing.rounds import RUN_TIMEOUT
from penstock.testing.scenario import Output, Scenario, write_pipeline
from penstock.testing.strikes import Strike
from penstock.testing.telling import DISTURBED, FILE, UNDISTURBED, Telling

CHUNKS = 14
"""In how many pieces the input comes."""
ASKING = 0.45
"""How likely something is asked for after a piece."""
DISTURBING = 0.5
"""How likely connections are disturbed after a piece, or before a run in the end."""
VERIFY = ("verify", FILE, "--from", "2000-01-01", "--to", "2100-01-01")
PAUSES = (0.02, 0.3)
"""Seconds between two pieces."""
LONGEST = 1.0
"""Where the run is to be killed at a fault point."""


@dataclass(slots=True)
class Story(ABC):
    """The input grows, somebody asks for something; whatever dies is started again."""

    told: Telling
    took: float = 0.0
    _run: Process | None = None
    _strike: Strike = field(default_factory=Strike)
    _begun: float = 0.0
    _terminated: bool = False
    _commanding: bool = False
    _disturbances: list[str] = field(default_factory=list)

    def tell(self) -> None:
        """From the first piece of the input to the end of the last job."""
        started, told = time.monotonic(), self.told
        told.project.mkdir()
        (told.project / "in").mkdir()
        self._write()
        try:
            self._grow()
            self._end()
            if not told.result.problems:
                self._settle()
        finally:
            if self._run is not None:
                self._run.end()
        self.took = time.monotonic() - started

    def _grow(self) -> None:
        """Piece after piece, with whatever happens between them."""
        told = self.told
        for number in range(CHUNKS):
            self._add(number)
            self._keep_alive()
            self._turn(number)
            if number and told.rng.random() < ASKING:
                self._ask(alone=False)
            self._disturb()
            self._linger(told.rng.uniform(*PAUSES))
            if told.result.problems:
                return

    # ---- what subclasses say

    @abstractmethod
    def _write(self) -> None:
        """The pipeline file."""

    def _turn(self, number: int) -> None:  # noqa: B027  # most stories have nothing to say here
        """What happens once, after this piece."""

    @abstractmethod
    def _ask(self, *, alone: bool) -> None:
        """Ask for something beside the run, or, without one, in its stead: `_command` does it."""

    def _settle(self) -> None:  # noqa: B027  # as above
        """What is left to do when all input was read, and every job has ended."""

    @abstractmethod
    def check(self, oracle: Oracle, when: str) -> None:
        """The verdict; what is found goes to the telling's result.

        :param when: begins what is said of it.
        """

    def verify(self) -> None:
        """What `pipe verify` says, once `check` has found nothing: it must see what is there, and miss nothing that is not."""
        self._command("a verification", VERIFY, alone=False)

    # ---- the input

    def _write_for(self, name: str, outputs: Sequence[Output], change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """The pipeline file of other scenarios, over files that it follows."""
        told = self.told
        path = write_pipeline(told.project, Scenario(name, outputs), told.settings)
        pipeline: dict[str, Any] = json.loads(path.read_text()) | told.state.lines
        pipeline["source"]["file"]["follow"] = True
        change(pipeline)
        path.write_text(json.dumps(pipeline, indent=2))

    def _add(self, number: int) -> None:
        """The next piece of every file; lines may be torn between two of them."""
        for path in sorted((self.told.directory / "input").iterdir()):
            text = path.read_bytes()
            start, end = (len(text) * n // CHUNKS for n in (number, number + 1))
            with (self.told.project / "in" / path.name).open("ab") as file:
                file.write(text[start:end])

    # ---- the run

    def _keep_alive(self) -> None:
        """Start the run, under the next strike, where none is alive; before that, sometimes, a command in its stead."""
        if self._run is not None and not self._struck():
            return
        if self._run is not None and self.told.rng.random() < 0.3:
            self._ask(alone=True)
        self._run, self._begun = self._start(["run", *self.told.state.taking_over, FILE]), time.monotonic()

    def _linger(self, pause: float) -> None:
        """A run that is to die is given time to come to it, while there is something to do: it may start late."""
        deadline = time.monotonic() + (LONGEST if self._strike.fault else pause)
        while self._run is not None and time.monotonic() < deadline:
            try:
                self._run.wait(PAUSES[0])
                return
            except ProcessOverdue:
                continue

    def _keep_alive_until(self, true: Callable[[], bool], otherwise: str) -> None:
        """What comes next would else come too early, where a run is slow on a loaded machine."""
        deadline = time.monotonic() + RUN_TIMEOUT
        while not true() and not self.told.result.problems:
            self._keep_alive()
            time.sleep(PAUSES[0])
            if time.monotonic() > deadline:
                self.told.problem("idle", otherwise)

    def _start(self, arguments: Sequence[str]) -> Process:
        told = self.told
        self._strike, self._terminated = told.strikes.pop(0) if told.strikes else Strike(), False
        environment = {"PENSTOCK_FAULT": self._strike.fault} if self._strike.fault else {}
        passes = str(told.directory / "passes.json") if told.name == UNDISTURBED else ""
        given = {**environment, **told.state.environment(through=True)}
        return told.launcher.start(arguments, told.project, told.log, environment=given, passes=passes)

    def _struck(self) -> bool:
        """Whether the run has ended; one whose time has come is sent its signal."""
        run, strike = self._run, self._strike
        assert run is not None
        if strike.delay is not None and time.monotonic() - self._begun >= strike.delay:
            self._send(run, strike.signal)
            return self._ended(run, RUN_TIMEOUT)
        return self._ended(run, 0.0)

    def _send(self, process: Process, number: signal.Signals) -> None:
        self._terminated = number == signal.SIGTERM
        process.send(number)

    def _ended(self, process: Process, seconds: float) -> bool:
        try:
            status = process.wait(seconds)
        except ProcessOverdue:
            return False
        self._judge(status)
        return True

    def _judge(self, status: int) -> None:
        strike, result = self._strike, self.told.result
        result.strikes.append((", ".join(filter(None, [str(strike), *self._disturbances])), status))
        self._disturbances.clear()
        if status == -signal.SIGKILL:
            kills = [part.partition(":")[0] for part in strike.fault.split(",") if part.endswith(":kill")]
            result.killed_at[kills[0] if kills and strike.delay is None else "moment"] += 1
        elif self._terminated and status in (143, -signal.SIGTERM):  # it had not even begun to listen
            return
        elif status not in (0, 4) and not strike.may_fail and not (self._commanding and self._is_disturbed()):
            self.told.problem("exit_status", f"{status} under {strike or 'no strike'}")

    def _stop(self) -> None:
        """As somebody does who wants to restart it, or is done."""
        run = self._run
        if run is not None and not self._struck():
            self._send(run, signal.SIGTERM)
            if not self._ended(run, RUN_TIMEOUT):
                self.told.problem("hangs", "the run did not end on SIGTERM")
                run.end()
        self._run = None

    def _is_disturbed(self) -> bool:
        return self.told.name == DISTURBED and self.told.state.database is not None

    def _disturb(self) -> None:
        if self._is_disturbed() and self.told.rng.random() < DISTURBING:
            self._disturbances.append(self.told.state.disturb(self.told.rng))

    # ---- the end

    def _end(self) -> None:
        """All of the input is there: drain, ask for what is left once more, and end every job."""
        told = self.told
        self._stop()
        while told.strikes and not told.result.problems:
            if told.rng.random() < ASKING:
                self._ask(alone=False)
            self._disturb()
            self._once()
        if told.name == DISTURBED and not told.result.killed_at:  # none came in time; there is always something left to do
            self._ask(alone=False)
            told.strikes.append(Strike(f"{JOB_POINTS[2]}:1:kill"))
            self._once()
        for _ in range(2):  # drain, then what is open by then
            self._once()
            self._ask(alone=False)
        self._once()
        left = told.asks("SELECT id, kind, state FROM jobs WHERE ended_at IS NULL")
        if left and not told.result.problems:
            told.problem("jobs", f"{left} have not ended")

    def _once(self) -> None:
        if self.told.result.problems:
            return
        process = self._start(["run", "--once", *self.told.state.taking_over, FILE])
        self._begun = time.monotonic()
        if self._strike.delay is not None:
            try:
                process.wait(self._strike.delay)
            except ProcessOverdue:
                self._send(process, self._strike.signal)
        if not self._ended(process, RUN_TIMEOUT):
            process.end()
            self.told.problem("hangs", f"a run under {self._strike or 'no strike'}")

    # ---- beside it

    def _command(self, what: str, arguments: Sequence[str], *more: str, alone: bool) -> None:
        """Carried out in a run's stead, under the next strike; or made, with these options more, and left to the run."""
        told = self.told
        if told.result.problems or not told.asks("SELECT 1 FROM epochs LIMIT 1"):  # the first run has not even begun
            return
        if alone:
            self._commanding = True  # what follows a job gives up where its connection is lost: the job is there for the next run
            process = self._start(arguments)
            if not self._ended(process, RUN_TIMEOUT):
                process.end()
                told.problem("hangs", f"{what} under {self._strike or 'no strike'}")
            self._commanding = False
            return
        direct = told.state.environment(through=False)
        process = told.commands.start([*arguments, *more], told.project, told.log, environment=direct)
        try:
            status = process.wait(RUN_TIMEOUT)
        except ProcessOverdue:
            process.end()
            status = -1
        if status != 0:
            told.problem("exit_status", f"{what} ended with {status}")
