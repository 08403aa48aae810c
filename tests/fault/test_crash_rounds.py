"""Seeded crash rounds over every ledger: nothing lost, doubled, out of order, changed or left behind.

`make test` does 20 rounds a ledger; `make soak` sets PENSTOCK_SOAK_ROUNDS. A round that fails prints its seed and its command.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from penstock.testing.crash import ENOUGH_ROUNDS, LEDGERS, run_rounds, summary, unstruck_points
from penstock.testing.scenario import SCENARIOS

ROUNDS = int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "20"))
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", LEDGERS)
def test_killed_at_every_fault_point_a_pipeline_ends_as_if_nothing_had_happened(name: str) -> None:
    results = run_rounds(SCENARIOS[name], range(ROUNDS), jobs=JOBS)
    print(summary(name, results))
    assert not any(result.problems for result in results), "\n".join(r.report() for r in results if r.problems)
    assert len(results) == ROUNDS
    assert all(sum(result.killed_at.values()) >= 1 for result in results)
    if ROUNDS >= ENOUGH_ROUNDS:
        assert unstruck_points(results) == set()


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["tables", "gzip", "zstd"])
def test_two_ledgers_of_sinks_and_compressed_files_survive_the_same(name: str, tmp_path: Path) -> None:
    seeds = range(1000, 1000 + max(4, ROUNDS // 5))
    results = run_rounds(SCENARIOS[name], seeds, jobs=JOBS)
    print(summary(name, results))
    kinds = Counter(problem.kind for result in results for problem in result.problems)
    assert not kinds, "\n".join(r.report() for r in results if r.problems)
