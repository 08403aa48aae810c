"""One crash round of parked lanes: lines fail, the lines of their keys behind them wait, somebody mends, replays and discards
while the input grows, and runs and commands are struck.

A story is told twice, undisturbed and struck; in the end each output has every row once, and those of a key in order.
Collaborators: `replay_rounds`, `park_verdict`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.testing.oracle import Kind, Oracle
from penstock.testing.park_verdict import count_unsettled, has_state, judge_lanes
from penstock.testing.processes import Launcher, ProcessOverdue
from penstock.testing.replay_rounds import FILE, Story, tell_twice
from penstock.testing.replay_scenario import draw_settings, refusing_table
from penstock.testing.rounds import RUN_TIMEOUT, RoundResult
from penstock.testing.scenario import Output, Scenario, Settings, file_output, write_pipeline
from penstock.testing.strikes import Strike

WEIGHTS: Mapping[Kind, int] = {
    "plain": 74, "split": 8, "none": 2, "filtered": 8, "error": 2, "refused": 4, "refused_part": 2,
}  # fmt: skip
"""All of them have a key: what has none ends the run when it fails."""
DISCARD = ["dlq", "discard", FILE, "--step", "split", "--status", "open", "--yes"]
DISCARDING = 0.4
"""How likely somebody discards instead of replaying."""
MOST_TIMES = 60
"""How often what is left is discarded in the end: each time frees the next lines of every lane."""


@dataclass(frozen=True, slots=True)
class ParkScenario:
    """Outputs under one name; the first is a table that refuses rows until it is mended."""

    name: str
    outputs: Sequence[Output]


PARK_SCENARIOS: Mapping[str, ParkScenario] = {
    "park": ParkScenario("park", [refusing_table()]),
    "park_both": ParkScenario("park_both", [refusing_table(), file_output()]),
}
"""By the ledgers they have: the sink's own, and that of the state store beside it."""


@contextmanager
def park_rounds(scenario: ParkScenario, commands: Launcher) -> Iterator[Callable[[int, Path, Launcher], RoundResult]]:
    """:param commands: starts the commands beside the run."""
    yield lambda seed, directory, launcher: run_park_round(scenario, seed, directory, launcher, commands)


def run_park_round(
    scenario: ParkScenario,
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
    settings = replace(settings, plan=replace(settings.plan, weights=WEIGHTS))

    def story(name: str, tale: random.Random, planned: list[Strike], result: RoundResult) -> ParkStory:
        return ParkStory(scenario, settings, directory, name, launcher, commands, tale, planned, result)

    def judge(project: Path, oracle: Oracle, result: RoundResult, when: str) -> None:
        judge_lanes(scenario.outputs, project, oracle, result, when=when)

    return tell_twice(RoundResult(scenario.name, seed), directory, rng, settings, story, judge, strikes)


@dataclass(slots=True)
class ParkStory(Story):
    """The input grows, lines fail and are parked behind others, somebody mends, replays and discards."""

    scenario: ParkScenario  # type: ignore[assignment]  # instead of one of replays

    def _write_file(self) -> None:
        """The pipeline's: lanes are parked, and what failed is retried by itself, too."""
        write_park_pipeline(self.project, self.scenario, self.settings)

    def _replay(self, *, alone: bool) -> None:
        """What the story of replays does here: sometimes what can never be delivered is given up instead."""
        if not alone and self.rng.random() < DISCARDING:
            self._discard()
        else:
            Story._replay(self, alone=alone)

    def _end(self) -> None:
        """As of any story; then what the steps refuse is given up, which frees lane after lane."""
        Story._end(self)
        Story._replay(self, alone=False)
        self._once()
        for _ in range(MOST_TIMES):
            if self.result.problems or not count_unsettled(self.project):
                return
            self._discard()
            self._once()
        if not self.result.problems:
            self._problem("lanes", f"{count_unsettled(self.project)} dead letters are not settled in the end")

    def _discard(self) -> None:
        if self.result.problems or not has_state(self.project):
            return
        process = self.commands.start(list(DISCARD), self.project, self._log())
        try:
            status = process.wait(RUN_TIMEOUT)
        except ProcessOverdue:
            process.end()
            status = -1
        if status != 0:
            self._problem("exit_status", f"discarding ended with {status}")


def write_park_pipeline(project: Path, scenario: ParkScenario, settings: Settings) -> None:
    """The pipeline file: that of other scenarios, over files that it follows, with a lane for each key."""
    path = write_pipeline(project, Scenario(scenario.name, scenario.outputs), settings)
    pipeline: dict[str, Any] = json.loads(path.read_text())
    pipeline["source"]["file"]["follow"] = True
    pipeline["source"]["event"] = {"partition_key": ".key"}
    pipeline["dead_letter"] = {"lane": "park", "retry": ["300ms", "1s"]}
    path.write_text(json.dumps(pipeline, indent=2))
