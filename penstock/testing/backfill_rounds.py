"""One crash round of live backfills beside live work: a sink is added while the input grows, somebody asks again and again for
what it did not have, and runs and commands are struck.

A story is told twice, undisturbed and struck; in the end both sinks must have every row once. Collaborators: `replay_rounds`,
`backfill_verdict`.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.testing.backfill_verdict import judge_backfills
from penstock.testing.oracle import Oracle
from penstock.testing.processes import Launcher, ProcessOverdue
from penstock.testing.replay_rounds import CHUNKS, FILE, Story, tell_twice
from penstock.testing.replay_scenario import draw_settings
from penstock.testing.rounds import RUN_TIMEOUT, RoundResult
from penstock.testing.scenario import Output, Scenario, Unreadable, file_output, table_output, write_pipeline
from penstock.testing.strikes import Strike

ASKING = 0.4
"""How likely a backfill is asked for after a piece, once the sink is there."""
_RANGE = ["--from", "2000-01-01", "--to", "2100-01-01"]
_PAUSES = (0.02, 0.3)


@dataclass(frozen=True, slots=True)
class BackfillScenario:
    """A sink that is there from the beginning, and one that comes late; whether one ledger is that of both."""

    name: str
    first: Output
    late: Output
    one_ledger: bool = False


BACKFILL_SCENARIOS: Mapping[str, BackfillScenario] = {
    "backfill_beside": BackfillScenario("backfill_beside", table_output("table", refuses=False), file_output("late")),
    "backfill_beside_table": BackfillScenario("backfill_beside_table", file_output("lines"), table_output("late", refuses=False)),
    "backfill_beside_one": BackfillScenario(
        "backfill_beside_one", file_output("lines"), file_output("late", suffix=".zst"), True
    ),
}
"""By the ledgers they have: a sink's own and then the state store's, the other way round, and the state store's for both."""


@contextmanager
def backfill_rounds(scenario: BackfillScenario, commands: Launcher) -> Iterator[Callable[[int, Path, Launcher], RoundResult]]:
    """:param commands: starts the commands beside the run."""
    yield lambda seed, directory, launcher: run_backfill_round(scenario, seed, directory, launcher, commands)


def run_backfill_round(
    scenario: BackfillScenario,
    seed: int,
    directory: Path,
    launcher: Launcher,
    commands: Launcher,
    *,
    strikes: Sequence[Strike] = (),
) -> RoundResult:
    """One whole round in `directory`, which must be empty.

    :param strikes: instead of those that the seed draws.
    """
    rng = random.Random(f"{scenario.name}/{seed}")
    settings = draw_settings(rng)
    exact = scenario.one_ledger or not settings.plan.repetitions

    def story(name: str, tale: random.Random, planned: list[Strike], result: RoundResult) -> BackfillStory:
        return BackfillStory(scenario, settings, directory, name, launcher, commands, tale, planned, result)

    def judge(project: Path, oracle: Oracle, result: RoundResult, when: str) -> None:
        judge_backfills(scenario.first, scenario.late, project, oracle, result, when, exact=exact)

    return tell_twice(RoundResult(scenario.name, seed), directory, rng, settings, story, judge, strikes)


@dataclass(slots=True)
class BackfillStory(Story):
    """The input grows, a sink is added, somebody backfills it; whatever dies is started again."""

    scenario: BackfillScenario  # type: ignore[assignment]  # instead of one of replays
    _added: bool = False

    def tell(self) -> None:
        """From the first piece of the input to the end of the last job."""
        started, rng = time.monotonic(), self.rng
        self.project.mkdir()
        (self.project / "in").mkdir()
        self._write([self.scenario.first])
        adding = rng.randrange(CHUNKS // 4, CHUNKS - 3)
        for number in range(CHUNKS):
            self._add(number)
            if number == adding:
                self._add_sink()
            self._keep_alive()
            if self._added and rng.random() < ASKING:
                self._ask(alone=False)
            time.sleep(rng.uniform(*_PAUSES))
            if self.result.problems:
                break
        self._end()
        self.took = time.monotonic() - started

    def _write(self, outputs: Sequence[Output]) -> None:
        """The pipeline with these sinks."""
        path = write_pipeline(self.project, Scenario(self.scenario.name, outputs), self.settings)
        pipeline: dict[str, Any] = json.loads(path.read_text())
        pipeline["source"]["file"]["follow"] = True
        path.write_text(json.dumps(pipeline, indent=2))

    def _add_sink(self) -> None:
        """Between two runs, once the first sink has something: the next one has the late sink, too."""
        deadline = time.monotonic() + RUN_TIMEOUT
        while not self._has_rows() and not self.result.problems:
            self._keep_alive()
            time.sleep(_PAUSES[0])
            if time.monotonic() > deadline:
                self._problem("idle", "nothing is delivered")
        run = self._run
        if run is not None and not self._struck():
            self._send(run, signal.SIGTERM)
            if not self._ended(run, RUN_TIMEOUT):
                self._problem("hangs", "the run did not end on SIGTERM")
                run.end()
        self._run, self._added = None, True
        self._write([replace(self.scenario.first, prepare=lambda project: None), self.scenario.late])

    def _has_rows(self) -> bool:
        try:
            return bool(self.scenario.first.rows(self.project))
        except (OSError, Unreadable):  # not there yet, or torn just now
            return False

    def _replay(self, *, alone: bool) -> None:
        """What the story of replays does here."""
        if self._added:
            self._ask(alone=alone)

    def _ask(self, *, alone: bool) -> None:
        """For all that the late sink did not have; without a run, the command carries it out, under the next strike."""
        if self.result.problems:
            return
        wanted = ["backfill", FILE, "--mode", "live", *_RANGE]
        if alone:
            process = self._start(wanted)
            if not self._ended(process, RUN_TIMEOUT):
                process.end()
                self._problem("hangs", f"a backfill under {self._strike or 'no strike'}")
            return
        more = ["--rate", "300/s"] if self.rng.random() < 0.3 else []
        more += ["--sink", self.scenario.late.name] if self.rng.random() < 0.5 else []
        process = self.commands.start([*wanted, "--no-wait", *more], self.project, self._log())
        try:
            status = process.wait(RUN_TIMEOUT)
        except ProcessOverdue:
            process.end()
            status = -1
        if status != 0:
            self._problem("exit_status", f"making a backfill ended with {status}")
