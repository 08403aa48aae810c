"""Red proofs: builds that are broken on purpose are caught by the harness that finds nothing wrong with the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.testing.crash import run_rounds
from penstock.testing.processes import Launcher, Program
from penstock.testing.rounds import RoundResult
from penstock.testing.scenario import Scenario, file_output, table_output
from penstock.testing.twins import run_twin_round

HERE = str(Path(__file__).parent)
TABLE = Scenario("table", [table_output(refuses=False)])
FILE = Scenario("file", [file_output()])
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


def broken(build: str) -> Program:
    return Program(f"broken_builds:{build}", (HERE,))


def shows(result: RoundResult, finding: str) -> bool:
    """Whether the output itself is wrong, in a run that was struck: not a crash of the broken build, nor its undisturbed run."""
    rows = [problem.detail for problem in result.problems if problem.kind == "rows"]
    return any(finding in detail and not detail.startswith("undisturbed") for detail in rows)


@pytest.mark.parametrize("scenario", [TABLE, FILE], ids=lambda scenario: scenario.name)
@pytest.mark.parametrize(
    ("build", "finding"),
    [
        ("checkpoint_before_delivery", "missing"),
        ("dedup_key_before_delivery", "missing"),
        ("delivery_apart_from_checkpoint", "duplicate"),
    ],
)
def test_a_build_that_breaks_the_order_of_the_commit_is_caught(
    build: str, finding: str, scenario: Scenario, tmp_path: Path
) -> None:
    results = run_rounds(
        scenario,
        range(30),
        program=broken(build),
        jobs=JOBS,
        spawn_every=0,
        keep=tmp_path,
        until=lambda result: shows(result, finding),
    )
    caught = [result.report() for result in results if shows(result, finding)]
    assert caught, "\n".join(result.report() for result in results)
    print(caught[0])


def test_a_build_without_fencing_is_caught_when_a_stopped_run_wakes_up(tmp_path: Path) -> None:
    caught = []
    with Launcher(broken("no_fencing")) as launcher, Launcher(broken("no_fencing")) as twin:
        for seed in range(10):
            directory = tmp_path / str(seed)
            directory.mkdir()
            result = run_twin_round(TABLE, seed, directory, launcher, twin)
            if {"not_fenced", "rows"} & {problem.kind for problem in result.problems}:
                caught.append(result.report())
                break
    assert caught
