"""A world that forgets nothing is asked by runs and replays, struck around its answers and everywhere else: each answer arrives
once, and nothing is asked again that rule 14 forbids; builds that break this are caught."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.testing.crash import run_rounds, summary
from penstock.testing.effects_rounds import EFFECTS_SCENARIOS
from penstock.testing.processes import Launcher, Program
from penstock.testing.stories import run_story_round
from penstock.testing.strikes import Strike

HERE = str(Path(__file__).parent)
ROUNDS = max(1, int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "20")) // 20)
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", EFFECTS_SCENARIOS)
def test_the_world_is_asked_no_more_than_it_has_to_be_however_runs_and_commands_die(name: str) -> None:
    results = run_rounds(EFFECTS_SCENARIOS[name], range(ROUNDS), jobs=JOBS)
    print(summary(name, results))
    assert not any(result.problems for result in results), "\n".join(r.report() for r in results if r.problems)
    assert all(sum(result.killed_at.values()) >= 1 for result in results)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("build", "point", "kind"),
    [("answers_not_looked_for", "before_sink_write", "asked_again"), ("one_answer_kept_of_many", "between_ledgers", "answers")],
)
def test_a_build_that_asks_again_what_was_answered_is_caught(build: str, point: str, kind: str, tmp_path: Path) -> None:
    strikes = [Strike(f"{point}:{nth}:kill") for nth in (3, 2, 4, 3, 2)]
    with Launcher(Program(f"broken_builds:{build}", (HERE,))) as runs, Launcher() as commands:
        result = run_story_round(EFFECTS_SCENARIOS["effects_both"], 0, tmp_path, runs, commands, strikes=strikes)
    assert kind in {problem.kind for problem in result.problems}, result.report()
