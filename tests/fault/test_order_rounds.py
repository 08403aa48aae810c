"""Late deliveries beside live work into tables with `order_by`, struck at every point of a run and of a job: each row ends as the
newest event of its key says; builds that break this are caught."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.testing.crash import run_rounds, summary
from penstock.testing.order_rounds import ORDER_SCENARIOS
from penstock.testing.processes import Launcher, Program
from penstock.testing.stories import run_story_round

HERE = str(Path(__file__).parent)
ROUNDS = max(1, int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "20")) // 20)
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ORDER_SCENARIOS)
def test_the_newest_event_of_each_key_stands_in_the_end_however_runs_and_commands_die(name: str) -> None:
    results = run_rounds(ORDER_SCENARIOS[name], range(ROUNDS), jobs=JOBS)
    print(summary(name, results))
    assert not any(result.problems for result in results), "\n".join(r.report() for r in results if r.problems)
    assert all(sum(result.killed_at.values()) >= 1 for result in results)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("build", ["older_rows_over_newer_ones", "deletions_forgotten"])
def test_a_build_that_lets_older_events_win_is_caught(build: str, tmp_path: Path) -> None:
    with Launcher(Program(f"broken_builds:{build}", (HERE,))) as runs, Launcher() as commands:
        result = run_story_round(ORDER_SCENARIOS["order_by"], 0, tmp_path, runs, commands)
    assert "order" in {problem.kind for problem in result.problems}, result.report()
