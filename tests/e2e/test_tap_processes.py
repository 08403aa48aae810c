"""`pipe tap` beside real runs: what it shows, when it ends, and that a run does not know of it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from process_parts import ended, started
from waiting import until

from penstock.journal.reader import JournalReader

PIPELINE = """\
pipeline: load
source: { generate: { rate: 500/s } }
transforms:
  - { name: even, filter: .n % 2 == 0 }
  - { name: doubled, jq: '{n, twice: (.n * 2), at: now}' }
sink: { file: out.jsonl }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "load.yaml").write_text(PIPELINE)
    return tmp_path


def stop(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    process.send_signal(signal.SIGINT)
    return ended(process)


def committed(project: Path) -> int:
    return JournalReader(project / ".penstock/journal/load").extent().lines


def test_a_tap_shows_events_of_the_live_run_with_every_step(project: Path) -> None:
    with started(project, "run", "load.yaml") as run, started(project, "tap", "load.yaml", "--limit", "4", "--json") as tap:
        status, out, err = ended(tap)
        assert run.poll() is None
    events: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert (status, len(events)) == (0, 4), err
    for event in events:
        n = event["event"]["data"]["n"]
        steps = {step["step"]: step["outputs"] for step in event["steps"]}
        if n % 2:
            assert (event["outcome"], steps) == ("filtered", {"even": []})
        else:
            assert [output["data"]["twice"] for output in steps["doubled"]] == [n * 2]
            assert event["outcome"] == event["recomputed"]["outcome"] == "delivered"
    assert "4 shown (--sample 5/s)" in err


def test_a_tap_of_one_step_shows_what_got_there_and_ends_by_ctrl_c(project: Path) -> None:
    arguments = ("tap", "load.yaml.doubled", "--sample", "50/s", "--where", ".data.n % 4 == 0")
    with started(project, "run", "load.yaml") as run, started(project, *arguments) as tap:
        assert tap.stdout is not None
        lines = [tap.stdout.readline() for _ in range(12)]
        status, out, err = stop(tap)
        assert run.poll() is None
    assert status == 0
    shown = "".join(lines) + out
    assert "  out {" in shown
    ins = [json.loads(line.partition("in  ")[2]) for line in shown.splitlines() if line.startswith("  in  ")]
    assert ins
    assert all(each["n"] % 4 == 0 for each in ins)
    assert "  even  " not in shown
    assert "shown (--sample 50/s)" in err


def test_a_tap_waits_for_a_run_tells_of_its_end_and_follows_the_next_version(project: Path) -> None:
    arguments = ("tap", "load.yaml", "--json", "--sample", "1000/s")
    with (project / "shown").open("w") as shown, started(project, *arguments, out=shown) as tap:
        assert tap.stderr is not None
        assert tap.stderr.readline() == "load is not running: waiting for a run (Ctrl-C ends)\n"
        for factor in (2, 3):
            (project / "load.yaml").write_text(PIPELINE.replace("* 2", f"* {factor}"))
            with started(project, "run", "load.yaml", "--max-events", "50") as run:
                assert ended(run)[0] == 0
            assert tap.stderr.readline() == "load: the run has ended; waiting for the next one (Ctrl-C ends)\n"
        assert stop(tap)[0] == 0
    factors = set()
    for line in (project / "shown").read_text().splitlines():
        event = json.loads(line)
        if event["outcome"] == "delivered" and event["event"]["data"]["n"]:
            factors.add(event["steps"][-1]["outputs"][0]["data"]["twice"] / event["event"]["data"]["n"])
    assert factors == {2.0, 3.0}


def test_once_ends_with_the_run(project: Path) -> None:
    with started(project, "tap", "load.yaml", "--once") as tap:
        assert tap.stderr is not None
        assert "is not running" in tap.stderr.readline()
        with started(project, "run", "load.yaml", "--max-events", "20") as run:
            assert ended(run)[0] == 0
        status, _, err = ended(tap)
    assert status == 0
    assert err.splitlines()[0] == "load: the run has ended"
    assert "20 events came by" in err


def test_a_tap_that_hangs_holds_no_run_up(project: Path) -> None:
    with started(project, "run", "load.yaml") as run, started(project, "tap", "load.yaml") as tap:
        assert tap.stdout is not None
        tap.stdout.readline()
        tap.send_signal(signal.SIGSTOP)
        before = committed(project)
        until(lambda: committed(project) > before + 500, run)
        run.send_signal(signal.SIGTERM)
        assert ended(run)[0] == 0
        tap.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("load.yaml.doubeld",), "tap.unknown_step"),
        (("load.yaml", "--sample", "5"), "usage.invalid"),
        (("load.yaml", "--where", ".data["), "jq.syntax"),
        (("silent.yaml",), "journal.off"),
        (("nothing",), "usage.unknown_pipeline"),
    ],
)
def test_what_cannot_be_tapped_is_told_at_once(project: Path, arguments: tuple[str, ...], code: str) -> None:
    (project / "silent.yaml").write_text(PIPELINE.replace("load", "silent") + "journal: off\n")
    with started(project, "tap", *arguments) as tap:
        status, out, err = ended(tap)
    assert (status, out) == (2, "")
    assert err.startswith(f"error[{code}]")
