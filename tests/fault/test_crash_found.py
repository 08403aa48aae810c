"""Schedules of crashes that once broke a promise, each as short as it can be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.testing.processes import Launcher
from penstock.testing.rounds import prepare_round, run_round
from penstock.testing.scenario import PIPELINE, SCENARIOS, read_remains
from penstock.testing.strikes import Strike


def run(name: str, seed: int, directory: Path, *faults: str) -> None:
    with Launcher() as launcher:
        result = run_round(SCENARIOS[name], seed, directory, launcher, strikes=[Strike(fault) for fault in faults])
    assert not result.problems, result.report()


@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.parametrize("name", ["both", "tables"])
def test_a_failed_commit_of_a_group_that_is_redone_larger_is_not_taken_for_done(name: str, seed: int, tmp_path: Path) -> None:
    with Launcher() as launcher:
        round_ = prepare_round(SCENARIOS[name], seed, tmp_path, launcher)
        round_.settings = replace(round_.settings, count=3, in_flight=3, workers=0)
        calm, _ = round_.undisturbed()
        assert calm is not None, round_.result.report()
        project = round_.world("disturbed")
        round_.one(project, Strike("between_ledgers:1:kill"))
        file = project / f"{PIPELINE}.yaml"
        pipeline = json.loads(file.read_text())
        pipeline["batching"]["count"], pipeline["limits"]["in_flight_events"] = 300, 1000
        file.write_text(json.dumps(pipeline))
        round_.one(project, Strike("inside_commit:1:transient,after_note:1:kill"))
        assert round_.one(project, Strike()) == 0
        remains = read_remains(project)
        round_.check(project, remains, "")
        round_.compare(project, remains, calm)
        assert not round_.result.problems, round_.result.report()


@pytest.mark.parametrize("seed", [0, 8])
def test_an_event_refused_by_one_ledger_stays_a_dead_letter_when_the_other_takes_it_after_a_crash(
    seed: int, tmp_path: Path
) -> None:
    run("both", seed, tmp_path, "between_ledgers:1:kill", "before_note:1:kill")


@pytest.mark.parametrize("seed", [10, 49])
def test_counts_after_a_crash_know_what_the_last_ledger_refused(seed: int, tmp_path: Path) -> None:
    run("tables", seed, tmp_path, "before_note:1:kill", "before_note:2:kill")


@pytest.mark.parametrize("seed", [8, 24])
def test_repetitions_of_refused_events_are_counted_once_whatever_crashes(seed: int, tmp_path: Path) -> None:
    run("sqlite", seed, tmp_path, "before_note:1:kill", "before_note:2:kill")


@pytest.mark.parametrize("action", ["fatal", "transient"])
def test_a_fault_behind_processing_ends_the_run_instead_of_hanging_it(action: str, tmp_path: Path) -> None:
    run("file", 1, tmp_path, "after_read:1:kill", f"after_process:1:{action}")


@pytest.mark.parametrize("seed", [214, 231])
def test_the_first_dead_letter_of_a_pipeline_is_known_to_the_batch_that_repeats_its_event(seed: int, tmp_path: Path) -> None:
    run("sqlite", seed, tmp_path, "mid_claim:1:kill")
