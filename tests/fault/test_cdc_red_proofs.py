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
SETTINGS = CdcSettings(transactions=120, writers=3, full=False, count=3, in_flight=1000, dedup=False, bodies=2000)

LARGE = replace(SETTINGS, bodies=20_000)
"""Many transactions are streamed in progress."""


def kill(fault: str, delay: float = 0.8) -> CdcStrike:
    return CdcStrike(Strike(fault, delay=delay, signal=signal.SIGKILL))


@pytest.mark.parametrize(
    ("build", "fault", "finding"),
    [
        ("confirms_what_was_read", "before_commit:4:kill", "slot.ahead"),
        ("resumes_behind_the_transaction", "after_note:6:kill", "missing"),
        ("rows_apart_from_checkpoint", "inside_sink_write:6:kill", "duplicate"),
        ("keeps_what_was_rolled_back", "after_read:6:kill", "phantom"),
    ],
)
def test_a_build_that_breaks_change_data_capture_is_caught(build: str, fault: str, finding: str, tmp_path: Path) -> None:
    scenario = CDC_SCENARIOS["cdc_postgres"]
    reports = []
    with scenario.servers() as servers, Launcher(Program(f"broken_cdc_builds:{build}", (HERE,))) as launcher:
        for seed in range(1, 9):
            directory = tmp_path / str(seed)
            directory.mkdir()
            strikes = [kill(fault), kill(fault)]
            settings = LARGE if build == "keeps_what_was_rolled_back" else SETTINGS
            result = run_cdc_round(scenario, servers, seed, directory, launcher, strikes=strikes, settings=settings)
            reports.append(result.report())
            if any(problem.kind in ("rows", "exit_status") and finding in problem.detail for problem in result.problems):
                print(reports[-1])
                return
    pytest.fail("\n".join(reports))
