"""Replays beside live work, struck at every point of a job: each row once, each letter resolved once; builds that break this are
caught."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.testing.crash import run_rounds, summary
from penstock.testing.processes import Launcher, Program
from penstock.testing.replay_rounds import REPLAY_SCENARIOS
from penstock.testing.rounds import RoundResult
from penstock.testing.stories import draw_settings, run_story_round
from penstock.testing.strikes import Strike

HERE = str(Path(__file__).parent)
BESIDE = REPLAY_SCENARIOS["replay_beside"]
ROUNDS = max(2, int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "20")) // 10)
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", REPLAY_SCENARIOS)
def test_replays_beside_live_work_lose_and_double_nothing_however_runs_and_commands_die(name: str) -> None:
    scenario = REPLAY_SCENARIOS[name]
    results = run_rounds(scenario, range(ROUNDS // 2 if scenario.server else ROUNDS), jobs=JOBS)
    print(summary(name, results))
    assert not any(result.problems for result in results), "\n".join(r.report() for r in results if r.problems)
    assert all(sum(result.killed_at.values()) >= 1 for result in results)


@contextmanager
def launchers(build: str) -> Iterator[tuple[Launcher, Launcher]]:
    program = Program(f"broken_builds:{build}", (HERE,))
    with Launcher(program) as runs, Launcher() as commands:
        yield runs, commands


def undeduplicated(count: int) -> list[int]:
    """Seeds whose pipelines have no dedup, which would keep the second delivery from showing."""
    seeds = (seed for seed in range(1000) if draw_settings(random.Random(f"{BESIDE.name}/{seed}")).dedup is None)
    return [next(seeds) for _ in range(count)]


def shows(result: RoundResult, finding: str) -> bool:
    """Whether the rows themselves are wrong, in runs that were struck."""
    return any(p.kind == "rows" and finding in p.detail and not p.detail.startswith("undisturbed") for p in result.problems)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("build", "point", "finding"),
    [
        ("job_records_forgotten_before_the_note", "before_job_note", "duplicate"),
        ("job_noted_before_the_commit", "before_job_commit", "missing"),
    ],
)
def test_a_build_that_breaks_what_a_job_commits_is_caught(build: str, point: str, finding: str, tmp_path: Path) -> None:
    strikes = [Strike(f"{point}:{nth}:kill") for nth in (4, 3, 3, 2, 2, 1, 1, 1)]
    results = []
    with launchers(build) as (runs, commands):
        for seed in undeduplicated(6):
            directory = tmp_path / str(seed)
            directory.mkdir()
            results.append(run_story_round(BESIDE, seed, directory, runs, commands, strikes=strikes))
            if shows(results[-1], finding):
                print(results[-1].report())
                return
    pytest.fail("\n".join(result.report() for result in results))
