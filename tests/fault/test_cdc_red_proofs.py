"""Red proofs: builds that break change data capture on purpose are caught by rounds that find nothing wrong with the real one."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.testing.cdc_rounds import run_cdc_round
from penstock.testing.cdc_scenario import CDC_SCENARIOS, CdcSettings
from penstock.testing.cdc_strikes import CdcStrike
from penstock.testing.processes import Launcher, Program
from penstock.testing.strikes import Strike

HERE = str(Path(__file__).parent)
SCENARIO = replace(CDC_SCENARIOS["cdc_postgres"], mirrored=False, version=16)
"""A copy by key would hide what is written twice, so there is none. A server of version 18 that has fallen behind leaves out by
itself what was rolled back meanwhile; 16 sends it, and its end."""

SETTINGS = CdcSettings(transactions=24, writers=3, full=False, count=20, in_flight=60, dedup=False, bodies=2000, bulk=40)
"""Transactions of a hundred rows, which are streamed in progress: nearly every commit is one in their middle."""

FAR_AHEAD = replace(SETTINGS, in_flight=500)
"""What is read is several transactions ahead of what is written."""

MANY = replace(FAR_AHEAD, transactions=50)
"""Some of them take rows back to a savepoint."""


def kill(fault: str) -> CdcStrike:
    """Killed at the fault point, however long the run takes to get there."""
    return CdcStrike(Strike(f"{fault}:kill", delay=10.0, signal=signal.SIGKILL))


@pytest.mark.parametrize(
    ("build", "fault", "kind", "finding", "settings"),
    [
        ("confirms_what_was_read", "before_commit", "exit_status", "slot.ahead", FAR_AHEAD),
        ("resumes_behind_the_transaction", "after_note", "rows", "missing", SETTINGS),
        ("rows_apart_from_checkpoint", "inside_sink_write", "rows", "duplicate", SETTINGS),
        ("keeps_what_was_rolled_back", "after_read", "rows", "phantom", MANY),
    ],
)
def test_a_build_that_breaks_change_data_capture_is_caught(
    build: str, fault: str, kind: str, finding: str, settings: CdcSettings, tmp_path: Path
) -> None:
    reports = []
    with SCENARIO.servers() as servers, Launcher(Program(f"broken_cdc_builds:{build}", (HERE,))) as launcher:
        for seed in range(1, 9):
            directory = tmp_path / str(seed)
            directory.mkdir()
            strikes = [kill(f"{fault}:{nth}") for nth in (2, 3, 4)]
            result = run_cdc_round(SCENARIO, servers, seed, directory, launcher, strikes=strikes, settings=settings)
            reports.append(result.report())
            if any(problem.kind == kind and finding in problem.detail for problem in result.problems):
                print(reports[-1])
                return
    pytest.fail("\n".join(reports))
