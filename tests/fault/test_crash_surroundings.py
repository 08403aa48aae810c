"""Signals, torn writes, a full disk and a jumping clock: the run goes on, or the next one does, and nothing shows."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.testing.crash import run_rounds
from penstock.testing.processes import Launcher, Program
from penstock.testing.rounds import Round, prepare_round
from penstock.testing.scenario import PIPELINE, SCENARIOS, Remains, read_remains
from penstock.testing.strikes import Strike

HERE = str(Path(__file__).parent)
RUN = ["run", "--once", "--json", f"{PIPELINE}.yaml"]
ENVIRONMENT = 3


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with Launcher() as launcher:
        yield launcher


def calm_round(name: str, seed: int, directory: Path, launcher: Launcher) -> tuple[Round, Remains]:
    directory.mkdir()
    round_ = prepare_round(SCENARIOS[name], seed, directory, launcher)
    round_.settings = replace(round_.settings, count=10, in_flight=200, workers=0)
    calm, _ = round_.undisturbed()
    assert calm is not None, round_.result.report()
    return round_, calm


def assert_as_undisturbed(round_: Round, project: Path, calm: Remains) -> None:
    remains = read_remains(project)
    round_.check(project, remains, "")
    round_.compare(project, remains, calm)
    assert not round_.result.problems, round_.result.report()


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.mark.parametrize("name", ["sqlite", "both"])
@pytest.mark.parametrize("point", ["after_read:20", "before_commit:2", "after_note:1"])
def test_sigterm_under_load_drains_and_the_next_run_reads_nothing_twice(
    name: str, point: str, tmp_path: Path, launcher: Launcher
) -> None:
    round_, calm = calm_round(name, 11, tmp_path / "round", launcher)
    project = round_.world("terminated")
    process = launcher.start(RUN, project, tmp_path / "first.log", environment={"PENSTOCK_FAULT": f"{point}:stop"})
    process.wait_until_stopped(30)
    process.send(signal.SIGTERM)
    process.send(signal.SIGCONT)
    assert process.wait(30) == 0, (tmp_path / "first.log").read_text()
    first = json.loads((tmp_path / "first.log").read_text().splitlines()[-1])
    assert 0 < first["received"] < calm.totals["received"]
    assert launcher.start(RUN, project, tmp_path / "second.log").wait(30) == 0
    second = json.loads((tmp_path / "second.log").read_text().splitlines()[-1])
    assert second["reread"] == 0
    assert first["received"] + second["received"] == calm.totals["received"]
    assert_as_undisturbed(round_, project, calm)


def committed_length(project: Path) -> int:
    with closing(sqlite3.connect(project / ".penstock" / f"{PIPELINE}.db")) as database:
        (state,) = database.execute("SELECT state FROM penstock_sink_states").fetchone()
    return int(json.loads(state)["committed"])


@pytest.mark.parametrize("name", ["file", "gzip"])
def test_a_write_torn_at_any_byte_is_cut_off_by_the_next_run(name: str, tmp_path: Path, launcher: Launcher) -> None:
    round_, calm = calm_round(name, 3, tmp_path / "round", launcher)
    killed = round_.world("killed")
    assert round_.one(killed, Strike("after_sink_write:3:kill")) == -signal.SIGKILL
    path = round_.scenario.outputs[0].appends_to
    assert path is not None
    committed, written = committed_length(killed), (killed / path).stat().st_size
    assert written > committed > 0
    lengths = {committed, committed + 1, written - 1, *(round_.rng.randrange(committed, written) for _ in range(6))}
    for length in sorted(lengths):
        project = killed.with_name(f"torn-{length}")
        shutil.copytree(killed, project)
        with (project / path).open("r+b") as file:
            file.truncate(length)
        assert round_.one(project, Strike()) == 0, round_.log_tail(project)
        assert_as_undisturbed(round_, project, calm)


def test_a_file_shorter_than_what_was_committed_stops_the_run_and_is_left_alone(tmp_path: Path, launcher: Launcher) -> None:
    round_, _ = calm_round("file", 3, tmp_path / "round", launcher)
    project = round_.world("cut")
    assert round_.one(project, Strike("after_note:3:kill")) == -signal.SIGKILL
    output = project / "out/events.jsonl"
    shorter = output.read_bytes()[: committed_length(project) - 1]
    output.write_bytes(shorter)
    assert launcher.start(RUN, project, tmp_path / "log").wait(30) == ENVIRONMENT
    assert "sink.file_shorter" in (tmp_path / "log").read_text()
    assert output.read_bytes() == shorter


@pytest.mark.parametrize("name", ["sqlite", "file"])
def test_a_full_disk_pauses_the_run_which_goes_on_by_itself_when_there_is_room(
    name: str, tmp_path: Path, launcher: Launcher
) -> None:
    round_, calm = calm_round(name, 5, tmp_path / "round", launcher)
    project = round_.world("full")
    with Launcher(Program("odd_surroundings:full_disk", (HERE,))) as full:
        process = full.start(RUN, project, tmp_path / "log")
        try:
            wait_for((project / "full").exists)
            assert process.send(signal.SIGCONT), "the run ended instead of waiting"
            (project / "space").touch()
            assert process.wait(60) == 0, (tmp_path / "log").read_text()
        finally:
            process.end()
    for marker in ("full", "space"):
        (project / marker).unlink()
    assert_as_undisturbed(round_, project, calm)


def test_a_wall_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    program = Program("odd_surroundings:jumping_clock", (HERE,))
    results = run_rounds(SCENARIOS["both"], range(4), program=program, jobs=1, spawn_every=0, keep=tmp_path)
    assert not any(result.problems for result in results), "\n".join(result.report() for result in results)
