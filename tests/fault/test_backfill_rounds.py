"""Live backfills beside live work, struck at every point of a job: both sinks have each row once; builds that break this are
caught."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.testing.backfill_rounds import BACKFILL_SCENARIOS
from penstock.testing.crash import run_rounds, summary
from penstock.testing.processes import Launcher, Program
from penstock.testing.stories import run_story_round
from penstock.testing.strikes import Strike

HERE = str(Path(__file__).parent)
LATE_TABLE = BACKFILL_SCENARIOS["backfill_beside_table"]
ROUNDS = max(2, int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "20")) // 10)
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BACKFILL_SCENARIOS)
def test_backfills_beside_live_work_lose_and_double_nothing_however_runs_and_commands_die(name: str) -> None:
    scenario = BACKFILL_SCENARIOS[name]
    results = run_rounds(scenario, range(ROUNDS // 2 if scenario.server else ROUNDS), jobs=JOBS)
    print(summary(name, results))
    assert not any(result.problems for result in results), "\n".join(r.report() for r in results if r.problems)


@pytest.mark.timeout(600)
def test_a_build_that_forgets_what_a_ledger_took_of_a_backfill_is_caught(tmp_path: Path) -> None:
    """Struck in a job again and again, for a portion may have nothing for the late sink. A build that loses a portion is not: the
    next backfill brings it."""
    strikes = [Strike(f"before_job_note:{nth}:kill") for nth in (2, 1, 1, 2, 1, 1, 1, 1)]
    results = []
    with Launcher(Program("broken_builds:job_records_forgotten_before_the_note", (HERE,))) as runs, Launcher() as commands:
        for seed in range(6):
            directory = tmp_path / str(seed)
            directory.mkdir()
            results.append(run_story_round(LATE_TABLE, seed, directory, runs, commands, strikes=strikes))
            found = [
                problem.detail for problem in results[-1].problems if problem.kind == "rows" and "duplicate" in problem.detail
            ]
            if any(not detail.startswith("undisturbed") for detail in found):
                print(results[-1].report())
                return
    pytest.fail("\n".join(result.report() for result in results))
