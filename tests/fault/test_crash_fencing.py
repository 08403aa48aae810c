"""A run that was stopped past its take-over wakes up and changes nothing (rule 1, Invariant 6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.testing.processes import Launcher
from penstock.testing.scenario import SCENARIOS
from penstock.testing.twins import run_twin_round


@pytest.mark.parametrize(("name", "rounds"), [("sqlite", 6), ("file", 3), ("both", 3), ("tables", 3)])
def test_a_stopped_run_that_was_taken_over_is_fenced_when_it_wakes(name: str, rounds: int, tmp_path: Path) -> None:
    with Launcher() as launcher, Launcher() as twin:
        for seed in range(rounds):
            directory = tmp_path / str(seed)
            directory.mkdir()
            result = run_twin_round(SCENARIOS[name], seed, directory, launcher, twin)
            print(f"seed {seed}: {result.strikes}")
            assert not result.problems, result.report()
