"""`pipe backfill` in processes of its own: killed, interrupted, beside a live run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bad_input_parts import Project
from waiting import until

PATIENCE = 60.0
EVENTS = 3000
PIPELINE = """\
source: {{file: {{paths: in.jsonl, follow: {follow}}}}}
transforms:
  - {{name: total, jq: '{{n: .n, total: (.n * 2)}}'}}
sink: {{file: {{path: out.jsonl}}}}
"""
RANGE = ("--from", "2000-01-01", "--to", "2100-01-01", "--concurrency", "0")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.pipeline(PIPELINE.format(follow="false"))
    project.write("in.jsonl", *(b'{"n":%d}' % n for n in range(EVENTS)))
    return project


def finish(command: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, said = command.communicate(timeout=PATIENCE)
    return command.returncode, out.decode(), said.decode()


def call(project: Project, *arguments: str) -> tuple[int, str, str]:
    return finish(project.pipe(*arguments))


def jobs(project: Project) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(call(project, "backfill", "ls", "--json")[1])["items"]
    return found


def begun(project: Project) -> bool:
    """Whether some events are counted, and not all."""
    return any(0 < job["done"] < EVENTS for job in jobs(project))


@pytest.mark.parametrize(("stop", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_stopped_in_the_middle_it_is_gone_on_with(project: Project, stop: signal.Signals, status: int) -> None:
    assert call(project, "run", "--once", "orders.yaml")[0] == 0
    slow = project.pipe("backfill", "orders.yaml", *RANGE, "--rate", "400/s", "--json")
    until(lambda: begun(project), slow)
    slow.send_signal(stop)
    assert finish(slow)[0] == status
    (job,) = jobs(project)
    assert 0 < job["done"] < EVENTS
    ended, out, said = call(project, "backfill", "resume", job["id"], "--concurrency", "0", "--json")
    report = json.loads(out)
    assert (ended, report["state"], report["read"], report["delivered"]) == (0, "done", EVENTS, EVENTS), said


def test_a_paused_one_rests_and_another_process_cannot_take_a_live_one(project: Project) -> None:
    assert call(project, "run", "--once", "orders.yaml")[0] == 0
    slow = project.pipe("backfill", "orders.yaml", *RANGE, "--rate", "300/s", "--json")
    until(lambda: begun(project), slow)
    (job,) = jobs(project)
    status, _, said = call(project, "backfill", "resume", job["id"])
    assert (status, "error[job.held]" in said, str(slow.pid) in said) == (3, True, True)
    assert call(project, "backfill", "pause", job["id"])[0] == 0
    status, out, _ = finish(slow)
    rested = json.loads(out)
    assert (status, rested["state"], 0 < rested["read"] < EVENTS) == (0, "paused", True)
    assert call(project, "backfill", "cancel", job["id"])[0] == 0
    assert jobs(project)[0]["state"] == "cancelled"


def test_beside_a_live_run_it_reads_what_is_committed(project: Project) -> None:
    project.pipeline(PIPELINE.format(follow="true"))
    live = project.pipe("run", "orders.yaml")
    try:
        until(lambda: (project.root / "out.jsonl").exists() and _lines(project) == EVENTS, live)
        status, out, _ = call(project, "backfill", "orders.yaml", *RANGE, "--mode", "shadow", "--fail-on-diff", "--json")
        report = json.loads(out)
        assert (status, report["verdict"], report["comparison"]["identical"]) == (0, "clean", report["read"])
        assert report["read"] == EVENTS
    finally:
        os.kill(live.pid, signal.SIGTERM)
        assert finish(live)[0] == 0


def _lines(project: Project) -> int:
    return len((project.root / "out.jsonl").read_bytes().splitlines())
