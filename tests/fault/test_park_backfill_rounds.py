"""Parked lanes beside live work and live backfills, struck at every point of a run and of a job: both sinks have each row once,
and in order within its lane; a build that breaks this is caught."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.testing.crash import run_rounds, summary
from penstock.testing.park_backfill_rounds import PARK_BACKFILL_SCENARIOS
from penstock.testing.processes import Launcher, Program
from penstock.testing.stories import run_story_round

HERE = str(Path(__file__).parent)
ROUNDS = max(1, int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "20")) // 20)
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PARK_BACKFILL_SCENARIOS)
def test_lanes_and_backfills_lose_double_and_misorder_nothing_however_runs_and_commands_die(name: str) -> None:
    results = run_rounds(PARK_BACKFILL_SCENARIOS[name], range(ROUNDS), jobs=JOBS)
    print(summary(name, results))
    assert not any(result.problems for result in results), "\n".join(r.report() for r in results if r.problems)
    assert all(sum(result.killed_at.values()) >= 1 for result in results)


@pytest.mark.timeout(600)
def test_a_build_whose_backfills_go_past_held_lanes_is_caught(tmp_path: Path) -> None:
    """It is, where the late sink refuses past lines."""
    scenario, results = PARK_BACKFILL_SCENARIOS["park_backfill_table"], []
    with Launcher(Program("broken_builds:past_events_go_past_held_lanes", (HERE,))) as runs, Launcher() as commands:
        for seed in range(4):
            directory = tmp_path / str(seed)
            directory.mkdir()
            results.append(run_story_round(scenario, seed, directory, runs, commands))
            if any(problem.kind == "order" for problem in results[-1].problems):
                return
    pytest.fail("\n".join(result.report() for result in results))
