"""Parked lanes behind a step with effects, struck at every point of a run and of a job: each row once, in order within its lane,
with the answer that was kept; a build that asks again about what was parked is caught."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.testing.crash import run_rounds, summary
from penstock.testing.park_effects_rounds import PARK_EFFECTS_SCENARIOS
from penstock.testing.processes import Launcher, Program
from penstock.testing.stories import run_story_round

HERE = str(Path(__file__).parent)
ROUNDS = max(1, int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "20")) // 20)
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PARK_EFFECTS_SCENARIOS)
def test_what_is_parked_keeps_its_answers_however_runs_and_commands_die(name: str) -> None:
    results = run_rounds(PARK_EFFECTS_SCENARIOS[name], range(ROUNDS), jobs=JOBS)
    print(summary(name, results))
    assert not any(result.problems for result in results), "\n".join(r.report() for r in results if r.problems)
    assert all(sum(result.killed_at.values()) >= 1 for result in results)


@pytest.mark.timeout(600)
def test_a_build_that_forgets_the_answers_to_parked_events_is_caught(tmp_path: Path) -> None:
    with Launcher(Program("broken_builds:answers_of_parked_events_forgotten", (HERE,))) as runs, Launcher() as commands:
        result = run_story_round(PARK_EFFECTS_SCENARIOS["park_effects_both"], 0, tmp_path, runs, commands)
    assert "asked_again" in {problem.kind for problem in result.problems}, result.report()
