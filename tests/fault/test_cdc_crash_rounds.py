"""Seeded rounds over a changing database: writers at work while runs, servers and connections are struck.

`make test` does a few rounds; `make soak` sets PENSTOCK_SOAK_ROUNDS. A round that fails prints its seed and its command.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.testing.cdc_scenario import CDC_SCENARIOS
from penstock.testing.crash import run_rounds, summary

SOAK = int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "0"))
JOBS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


FEW = {"cdc_both": 1, "cdc_postgres16": 1}
"""Rounds in `make test`: between them they hold what the others do."""


@pytest.mark.soak
@pytest.mark.parametrize("name", CDC_SCENARIOS if SOAK else FEW)
def test_killed_with_its_servers_a_pipeline_gives_every_committed_change_once_and_in_order(name: str, tmp_path: Path) -> None:
    rounds = SOAK or FEW[name]
    results = run_rounds(CDC_SCENARIOS[name], range(2, 2 + rounds), jobs=min(JOBS, rounds), keep=tmp_path)
    print(summary(name, results))
    assert not any(result.problems for result in results), "\n".join(r.report() for r in results if r.problems)
    assert len(results) == rounds
    assert sum(sum(result.killed_at.values()) for result in results) >= rounds
