"""Parked lanes beside live work, struck at every point of a run and of a job: each row once, and in order within its lane; builds
that break this are caught."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.testing.crash import run_rounds, summary
from penstock.testing.park_rounds import PARK_SCENARIOS
from penstock.testing.processes import Launcher, Program
from penstock.testing.rounds import RoundResult
from penstock.testing.stories import draw_settings, run_story_round
from penstock.testing.strikes import Strike

HERE = str(Path(__file__).parent)
PARK = PARK_SCENARIOS["park"]
ROUNDS = max(2, int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "20")) // 10)
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PARK_SCENARIOS)
def test_parked_lanes_lose_double_and_misorder_nothing_however_runs_and_commands_die(name: str) -> None:
    scenario = PARK_SCENARIOS[name]
    results = run_rounds(scenario, range(ROUNDS // 2 if scenario.server else ROUNDS), jobs=JOBS)
    print(summary(name, results))
    assert not any(result.problems for result in results), "\n".join(r.report() for r in results if r.problems)
    assert all(sum(result.killed_at.values()) >= 1 for result in results)


@contextmanager
def launchers(build: str) -> Iterator[tuple[Launcher, Launcher]]:
    program = Program(f"broken_builds:{build}", (HERE,))
    with Launcher(program) as runs, Launcher() as commands:
        yield runs, commands


def in_process(count: int) -> list[int]:
    """Seeds of pipelines without workers, which would not be broken."""
    seeds = (seed for seed in range(1000) if draw_settings(random.Random(f"{PARK.name}/{seed}")).workers == 0)
    return [next(seeds) for _ in range(count)]


def shows(result: RoundResult) -> bool:
    """Whether rows came in the wrong order."""
    return any(problem.kind == "order" for problem in result.problems)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("build", ["lanes_held_for_one_group", "letters_taken_up_past_others", "lanes_forgotten_at_a_claim"])
def test_a_build_that_lets_events_pass_the_head_of_their_lane_is_caught(build: str, tmp_path: Path) -> None:
    strikes = [Strike(f"after_note:{nth}:kill") for nth in (9, 7, 5, 4)]
    results = []
    with launchers(build) as (runs, commands):
        for seed in in_process(6):
            directory = tmp_path / str(seed)
            directory.mkdir()
            results.append(run_story_round(PARK, seed, directory, runs, commands, strikes=strikes))
            if shows(results[-1]):
                return
    pytest.fail("\n".join(result.report() for result in results))
