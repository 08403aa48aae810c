"""One crash round of replays beside live work: input that grows, letters that are mended and replayed while the run lives, runs
and commands that are struck, and the verdict.

A story is told twice, undisturbed and struck. Collaborators: `oracle`, `replay_scenario`, `replay_verdict`, `strikes`,
`processes`.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from penstock.faults import JOB_POINTS
from penstock.testing.oracle import Oracle, write_input
from penstock.testing.processes import Launcher, Process, ProcessOverdue
from penstock.testing.replay_scenario import ReplayScenario, draw_settings, mend, write_replay_pipeline
from penstock.testing.replay_verdict import judge_replays, refused, still_open
from penstock.testing.rounds import RUN_TIMEOUT, Problem, RoundResult
from penstock.testing.scenario import PIPELINE, Settings
from penstock.testing.strikes import MOST_STRIKES, Strike, plan_strikes

CHUNKS = 14
"""In how many pieces the input comes."""
REPLAYING = 0.45
"""How likely a replay is asked for after a piece."""
FILE = f"{PIPELINE}.yaml"
UNDISTURBED, DISTURBED = "undisturbed", "disturbed"
REPLAY = ["dlq", "replay", FILE, "--all"]
_PAUSES = (0.02, 0.3)


@contextmanager
def replay_rounds(scenario: ReplayScenario, commands: Launcher) -> Iterator[Callable[[int, Path, Launcher], RoundResult]]:
    """:param commands: starts the commands beside the run."""
    yield lambda seed, directory, launcher: run_replay_round(scenario, seed, directory, launcher, commands)


def run_replay_round(
    scenario: ReplayScenario,
    seed: int,
    directory: Path,
    launcher: Launcher,
    commands: Launcher,
    *,
    strikes: Sequence[Strike] = (),
) -> RoundResult:
    """One whole round in `directory`, which must be empty.

    :param launcher: starts the runs; `commands` what comes beside them.
    :param strikes: instead of those that the seed draws.
    """
    rng = random.Random(f"{scenario.name}/{seed}")
    settings = draw_settings(rng)

    def story(name: str, tale: random.Random, planned: list[Strike], result: RoundResult) -> Story:
        return Story(scenario, settings, directory, name, launcher, commands, tale, planned, result)

    def judge(project: Path, oracle: Oracle, result: RoundResult, when: str) -> None:
        judge_replays(scenario, project, oracle, result, when=when)

    return tell_twice(RoundResult(scenario.name, seed), directory, rng, settings, story, judge, strikes)


MakeStory = Callable[[str, random.Random, list[Strike], RoundResult], "Story"]
"""Of a name, the chance that the tale is told with, its strikes, and where problems go."""
Judge = Callable[[Path, Oracle, RoundResult, str], None]
"""Of a project, what was written, where problems go, and which telling it was."""


def tell_twice(
    result: RoundResult,
    directory: Path,
    rng: random.Random,
    settings: Settings,
    make: MakeStory,
    judge: Judge,
    strikes: Sequence[Strike] = (),
) -> RoundResult:
    """A story over one input, undisturbed and then struck; what is found goes to the result.

    :param strikes: instead of those that the seed draws.
    """
    started = time.monotonic()
    write_input(directory / "input", directory / "oracle.jsonl", rng, settings.plan)
    oracle, tale = Oracle.load(directory / "oracle.jsonl"), rng.randrange(1 << 30)

    def told(name: str, planned: Sequence[Strike]) -> Story:
        story = make(name, random.Random(tale), list(planned), result)
        story.tell()
        if not result.problems:
            judge(story.project, oracle, result, "" if planned else "undisturbed: ")
        return story

    calm = told(UNDISTURBED, ())
    if not result.problems:
        passes = directory / "passes.json"
        result.passed = json.loads(passes.read_text()) if passes.exists() else {}
        result.strikes.clear()
        told(DISTURBED, strikes or job_strikes(rng, result.seed, result.passed, calm.took))
        if not result.problems and not result.killed_at:
            result.problems.append(Problem("no_kill", "no strike hit a run: nothing is proved"))
    result.seconds = time.monotonic() - started
    return result


def job_strikes(rng: random.Random, seed: int, passed: Mapping[str, int], took: float) -> list[Strike]:
    """Each second one kills in a job, the first of them at the point whose turn it is."""
    points = [JOB_POINTS[seed % len(JOB_POINTS)], *rng.choices(JOB_POINTS, k=MOST_STRIKES)]
    in_jobs = [Strike(f"{point}:{rng.randrange(1, 4)}:kill") for point in points]
    others = plan_strikes(rng, seed, passed, took)
    return [strike for pair in zip(in_jobs, others, strict=False) for strike in pair]


@dataclass(slots=True)
class Story:
    """The input grows, somebody replays, mends, replays; whatever dies is started again."""

    scenario: ReplayScenario
    settings: Settings
    directory: Path
    name: str
    launcher: Launcher
    commands: Launcher
    rng: random.Random
    strikes: list[Strike]
    result: RoundResult
    took: float = 0.0
    _run: Process | None = None
    _strike: Strike = field(default_factory=Strike)
    _begun: float = 0.0
    _terminated: bool = False

    @property
    def project(self) -> Path:
        return self.directory / self.name

    def tell(self) -> None:
        """From the first piece of the input to the end of the last job."""
        started, rng = time.monotonic(), self.rng
        self.project.mkdir()
        (self.project / "in").mkdir()
        self._write_file()
        mending = rng.randrange(CHUNKS // 2, CHUNKS - 1)
        for number in range(CHUNKS):
            self._add(number)
            self._keep_alive()
            if number == mending:
                self._see_refusals()
                mend(self.project)
            if number and rng.random() < REPLAYING:
                self._replay(alone=False)
            time.sleep(rng.uniform(*_PAUSES))
            if self.result.problems:
                break
        self._end()
        self.took = time.monotonic() - started

    def _write_file(self) -> None:
        """The pipeline's."""
        write_replay_pipeline(self.project, self.scenario, self.settings)

    def _see_refusals(self) -> None:
        """What is mended has been refused before: a run that comes late, on a loaded machine, would find nothing amiss."""
        deadline = time.monotonic() + RUN_TIMEOUT
        while not refused(self.project) and time.monotonic() < deadline and not self.result.problems:
            self._keep_alive()
            time.sleep(_PAUSES[0])

    def _add(self, number: int) -> None:
        """The next piece of every file; lines may be torn between two of them."""
        for path in sorted((self.directory / "input").iterdir()):
            text = path.read_bytes()
            start, end = (len(text) * n // CHUNKS for n in (number, number + 1))
            with (self.project / "in" / path.name).open("ab") as file:
                file.write(text[start:end])

    # ---- the run

    def _keep_alive(self) -> None:
        """Start the run, under the next strike, where none is alive; before that, sometimes, a replay without one."""
        if self._run is not None and not self._struck():
            return
        if self._run is not None and self.rng.random() < 0.3:
            self._replay(alone=True)
        self._run, self._begun = self._start(["run", FILE]), time.monotonic()

    def _start(self, arguments: list[str]) -> Process:
        self._strike, self._terminated = self.strikes.pop(0) if self.strikes else Strike(), False
        environment = {"PENSTOCK_FAULT": self._strike.fault} if self._strike.fault else {}
        passes = str(self.directory / "passes.json") if self.name == UNDISTURBED else ""
        return self.launcher.start(arguments, self.project, self._log(), environment=environment, passes=passes)

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
        strike = self._strike
        self.result.strikes.append((str(strike), status))
        if status == -signal.SIGKILL:
            kills = [part.partition(":")[0] for part in strike.fault.split(",") if part.endswith(":kill")]
            self.result.killed_at[kills[0] if kills and strike.delay is None else "moment"] += 1
        elif self._terminated and status in (143, -signal.SIGTERM):  # it had not even begun to listen
            return
        elif status not in (0, 4) and not strike.may_fail:
            self._problem("exit_status", f"{status} under {strike or 'no strike'}")

    def _end(self) -> None:
        """All of the input is there: drain, replay all that is open once more, and end every job."""
        run = self._run
        if run is not None and not self._struck():
            self._send(run, signal.SIGTERM)
            if not self._ended(run, RUN_TIMEOUT):
                self._problem("hangs", "the run did not end on SIGTERM")
                run.end()
        struck = self.name == DISTURBED
        while self.strikes and not self.result.problems:
            if self.rng.random() < REPLAYING:
                self._replay(alone=False)
            self._once()
        if struck and not self.result.killed_at:  # none of them came in time; what the steps refuse is always there to replay
            self._replay(alone=False)
            self.strikes.append(Strike(f"{JOB_POINTS[2]}:1:kill"))
            self._once()
        for _ in range(2):  # drain, then what is open by then
            self._strike = Strike()
            self._once()
            self._replay(alone=False)
        self._once()
        if (left := still_open(self.project)) and not self.result.problems:
            self._problem("jobs", f"{left} have not ended")

    def _once(self) -> None:
        if self.result.problems:
            return
        process = self._start(["run", "--once", FILE])
        self._begun = time.monotonic()
        if self._strike.delay is not None:
            try:
                process.wait(self._strike.delay)
            except ProcessOverdue:
                self._send(process, self._strike.signal)
        if not self._ended(process, RUN_TIMEOUT):
            process.end()
            self._problem("hangs", f"a run under {self._strike or 'no strike'}")

    # ---- beside it

    def _replay(self, *, alone: bool) -> None:
        """Make a replay of all that is open; without a run, the command carries it out, under the next strike."""
        if self.result.problems:
            return
        if alone:
            process = self._start(list(REPLAY))
            if not self._ended(process, RUN_TIMEOUT):
                process.end()
                self._problem("hangs", f"a replay under {self._strike or 'no strike'}")
            return
        rate = ["--rate", "200/s"] if self.rng.random() < 0.3 else []
        process = self.commands.start([*REPLAY, "--no-wait", *rate], self.project, self._log())
        try:
            status = process.wait(RUN_TIMEOUT)
        except ProcessOverdue:
            process.end()
            status = -1
        if status != 0:
            self._problem("exit_status", f"making a replay ended with {status}")

    def _log(self) -> Path:
        return self.directory / f"{self.name}.log"

    def _problem(self, kind: str, detail: str) -> None:
        tail = self._log().read_text(errors="replace")[-1500:].strip() if self._log().exists() else "(no output)"
        self.result.problems.append(Problem(kind, f"{self.name}: {detail}: {tail}"))
