"""One crash round: an undisturbed run, runs that are struck until one drains the source, and the verdict.

Collaborators: `oracle` (input and expectation), `scenario` (pipeline and remains), `strikes` (what is done), `processes`.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from penstock.testing.journal_check import journal_findings
from penstock.testing.oracle import Oracle, write_input
from penstock.testing.processes import Launcher, Process, ProcessOverdue
from penstock.testing.scenario import (
    JOURNAL,
    PIPELINE,
    SOURCE,
    Output,
    Remains,
    Scenario,
    Settings,
    Unreadable,
    copy_input,
    has_concluded,
    read_remains,
    write_pipeline,
)
from penstock.testing.strikes import Strike, plan_strikes

RUN_TIMEOUT = 60.0
"""Seconds after which a run counts as hanging."""

MINIMUM_ROWS = 100
"""An output with fewer rows proves nothing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A violation: `kind` says of what (`missing`, `duplicate`, `totals`, `leftovers`, …)."""

    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


@dataclass(slots=True)
class RoundResult:
    """What became of one round.

    :ivar strikes: what was done, each with the run's exit status.
    :ivar killed_at: names of the fault points that killed a run; `moment` for a plain SIGKILL.
    :ivar passed: how often the undisturbed run passed each fault point.
    """

    scenario: str
    seed: int
    problems: list[Problem] = field(default_factory=list)
    strikes: list[tuple[str, int]] = field(default_factory=list)
    killed_at: Counter[str] = field(default_factory=Counter)
    passed: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    seconds: float = 0.0

    def report(self) -> str:
        """For a person: what went wrong, what was done, how to do it again."""
        lines = [f"scenario {self.scenario}, seed {self.seed}: {len(self.problems)} violations"]
        lines += [f"  {problem}" for problem in self.problems[:12]]
        lines += [f"  run {n}: {strike or 'undisturbed'} -> {status}" for n, (strike, status) in enumerate(self.strikes, 1)]
        lines.append(
            f"  again: python -m penstock.testing.crash --scenario {self.scenario} --seed {self.seed} --rounds 1 --keep DIRECTORY"
        )
        return "\n".join(lines)


@dataclass(slots=True)
class Round:
    """One round under way: `world` makes projects, `one` runs, `check` and `compare` judge; what they find goes to `result`."""

    scenario: Scenario
    seed: int
    directory: Path
    launcher: Launcher
    settings: Settings
    rng: random.Random
    oracle: Oracle
    result: RoundResult

    def run(self, strikes: Sequence[Strike] = ()) -> None:
        """The undisturbed run, the disturbed ones, the verdict."""
        calm, took = self.undisturbed()
        if calm is None:
            return
        self.check(self.directory / "undisturbed", calm, "undisturbed: ")
        project = self._strike_until_drained(strikes or plan_strikes(self.rng, self.seed, self.result.passed, took))
        if self.result.problems:
            return
        remains = read_remains(project)
        self.check(project, remains, "")
        self.compare(project, remains, calm)

    # ---- running

    def world(self, name: str) -> Path:
        project = self.directory / name
        project.mkdir()
        copy_input(self.directory / "input", project)
        write_pipeline(project, self.scenario, self.settings)
        return project

    def undisturbed(self) -> tuple[Remains | None, float]:
        project = self.world("undisturbed")
        passes = self.directory / "passes.json"
        started = time.monotonic()
        status = self.one(project, Strike(), passes=str(passes))
        took = time.monotonic() - started
        if status != 0:
            self.problem("exit_status", f"the undisturbed run ended with {status}: {self.log_tail(project)}")
            return None, took
        if passes.exists():
            self.result.passed = json.loads(passes.read_text())
        return read_remains(project), took

    def _strike_until_drained(self, strikes: Sequence[Strike]) -> Path:
        """Strike after strike; the last run is left alone. Where the first strike came too late, a surer one is tried."""
        first, *others = strikes
        point = first.fault.partition(":")[0] or "after_read"
        for attempt, strike in enumerate([first, Strike(f"{point}:1:kill"), Strike("before_sink_write:1:kill")]):
            project = self.world(f"disturbed-{attempt}")
            self.result.strikes.clear()
            if self.one(project, strike) == -signal.SIGKILL or self.result.problems:
                break
        else:
            self.problem("no_kill", "no strike hit a run: nothing is proved")
        for strike in others:
            if self.result.problems or (self.one(project, strike) == 0 and strike.signal != signal.SIGTERM):
                break
        if not self.result.problems and (status := self.one(project, Strike())) != 0:
            self.problem("exit_status", f"a run that nobody disturbed ended with {status}: {self.log_tail(project)}")
        return project

    def one(self, project: Path, strike: Strike, *, passes: str = "") -> int:
        """One run under one strike; its exit status."""
        environment = {"PENSTOCK_FAULT": strike.fault} if strike.fault else {}
        arguments = ["run", "--once", f"{PIPELINE}.yaml"]
        process = self.launcher.start(arguments, project, self.log(project), environment=environment, passes=passes)
        try:
            status = self._let_run(process, strike)
        except ProcessOverdue as error:
            process.end()
            self.problem("hangs", f"{error} under {strike}: {self.log_tail(project)}")
            return -signal.SIGKILL
        self.result.strikes.append((str(strike), status))
        self._judge_end(project, strike, status)
        if left := process.left_behind():
            self.problem("leftovers", f"processes {left} outlive the run under {strike}")
        if status == -signal.SIGKILL and strike.tear:
            self._tear(project, strike.tear)
        return status

    def _let_run(self, process: Process, strike: Strike) -> int:
        if strike.delay is not None:
            try:
                return process.wait(strike.delay)
            except ProcessOverdue:
                process.send(strike.signal)
        return process.wait(RUN_TIMEOUT)

    def _judge_end(self, project: Path, strike: Strike, status: int) -> None:
        if status == -signal.SIGKILL:
            kills = [part.partition(":")[0] for part in strike.fault.split(",") if part.endswith(":kill")]
            self.result.killed_at[kills[0] if kills and strike.delay is None else "moment"] += 1
        elif strike.signal == signal.SIGTERM and strike.delay is not None:
            if status not in (0, 143, -signal.SIGTERM):
                self.problem("exit_status", f"{status} after SIGTERM: {self.log_tail(project)}")
        elif status != 0 and not strike.may_fail:
            self.problem("exit_status", f"{status} under {strike or 'no strike'}: {self.log_tail(project)}")

    def _tear(self, project: Path, torn: bytes) -> None:
        for output in self.scenario.outputs:
            path = project / output.appends_to if output.appends_to else None
            if path is not None and path.exists() and path.stat().st_size and not has_concluded(project):
                with path.open("ab") as file:
                    file.write(torn)

    # ---- judging

    def check(self, project: Path, remains: Remains, when: str) -> None:
        """Against the oracle."""
        for output in self.scenario.outputs:
            try:
                rows = output.rows(project)
            except Unreadable as error:
                self.problem("unreadable", f"{when}{error}")
                continue
            findings = self.oracle.judge(rows, refuses=output.refuses)
            if not findings.clean:
                self.problem("rows", f"{when}{output.name}: {findings}")
            if len(rows) < MINIMUM_ROWS:
                self.problem("idle", f"{when}{output.name}: only {len(rows)} rows")
            self.result.rows += len(rows)
        totals = asdict(self.oracle.totals(refuses=self.scenario.refuses))
        counted = {name: remains.totals.get(name) for name in totals}
        if counted != totals:
            self.problem("totals", f"{when}{_differences(counted, totals)}")
        self._check_letters(remains, when)
        for finding in journal_findings(
            project / ".penstock" / JOURNAL, remains.totals, [each["id"] for each in remains.letters]
        ):
            self.problem("journal", f"{when}{finding}")

    def _check_letters(self, remains: Remains, when: str) -> None:
        expected = self.oracle.dead_letters(refuses=self.scenario.refuses)
        found = Counter((str(letter["source"]).removeprefix(SOURCE), letter["original_digest"]) for letter in remains.letters)
        if found != Counter(expected):
            missing, extra = Counter(expected.keys()) - found, found - Counter(expected.keys())
            if missing or extra:
                self.problem("dead_letters", f"{when}{_some(missing)} missing, {_some(extra)} too many")
        for letter in remains.letters:
            place = (str(letter["source"]).removeprefix(SOURCE), letter["original_digest"])
            if letter["status"] != "open":
                self.problem("dead_letters", f"{when}{letter['event_id']} is {letter['status']}")
            elif letter["repeats"] != expected.get(place, letter["repeats"]):
                self.problem(
                    "repeats", f"{when}{letter['event_id']} counts {letter['repeats']} repetitions instead of {expected[place]}"
                )
        if remains.provisional:
            self.problem("dead_letters", f"{when}{remains.provisional} are provisional still")

    def compare(self, project: Path, remains: Remains, calm: Remains) -> None:
        """Against the undisturbed run."""
        for output in self.scenario.outputs:
            if self._content(output, project) != self._content(output, self.directory / "undisturbed"):
                self.problem("not_identical", f"{output.name} differs from that of the undisturbed run")
        if remains.totals != calm.totals:
            self.problem("totals", f"{_differences(remains.totals, calm.totals)} (undisturbed)")
        if remains.checkpoint != calm.checkpoint:
            self.problem("checkpoint", f"{remains.checkpoint} instead of {calm.checkpoint}")
        if list(remains.letters) != list(calm.letters):
            pairs = [(a, b) for a, b in zip(remains.letters, calm.letters, strict=False) if a != b]
            shown = _differences(*pairs[0]) if pairs else "their number"
            self.problem("dead_letters", f"{len(pairs)} differ from those of the undisturbed run: {shown}")
        if set(remains.files) != set(calm.files):
            self.problem("leftovers", f"files {sorted(set(remains.files) ^ set(calm.files))}")

    @staticmethod
    def _content(output: Output, project: Path) -> bytes | None:
        try:
            return output.content(project)
        except Unreadable:  # `check` has said so
            return None

    def problem(self, kind: str, detail: str) -> None:
        self.result.problems.append(Problem(kind, detail))

    def log(self, project: Path) -> Path:
        return self.directory / f"{project.name}.log"

    def log_tail(self, project: Path) -> str:
        log = self.log(project)
        return log.read_text(errors="replace")[-1500:].strip() if log.exists() else "(no output)"


def _differences(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return ", ".join(f"{name} is {one.get(name)!r} instead of {other.get(name)!r}" for name in names)


def _some(counted: Counter[tuple[str, str]]) -> str:
    return f"{sum(counted.values())} {sorted(counted)[:3] if counted else ''}".strip()


def prepare_round(scenario: Scenario, seed: int, directory: Path, launcher: Launcher) -> Round:
    """Draw the settings of a seed and write its input. `directory` must be empty, and keeps everything for a look afterwards."""
    rng = random.Random(f"{scenario.name}/{seed}")
    settings = Settings.draw(rng)
    record = directory / "oracle.jsonl"
    write_input(directory / "input", record, rng, settings.plan)
    return Round(scenario, seed, directory, launcher, settings, rng, Oracle.load(record), RoundResult(scenario.name, seed))


def run_round(
    scenario: Scenario, seed: int, directory: Path, launcher: Launcher, *, strikes: Sequence[Strike] = ()
) -> RoundResult:
    """One whole round.

    :param strikes: instead of those that the seed draws.
    """
    started = time.monotonic()
    round_ = prepare_round(scenario, seed, directory, launcher)
    round_.run(strikes)
    round_.result.seconds = time.monotonic() - started
    return round_.result
