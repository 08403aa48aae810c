"""`pipe backfill` in processes of its own: killed, interrupted, beside a live run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from backfill_command_parts import EVENTS, begun, jobs
from bad_input_parts import Project
from process_parts import ended
from waiting import until

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


@pytest.mark.parametrize(("stop", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_stopped_in_the_middle_it_is_gone_on_with(project: Project, stop: signal.Signals, status: int) -> None:
    assert project.call("run", "--once", "orders.yaml")[0] == 0
    slow = project.pipe("backfill", "orders.yaml", *RANGE, "--rate", "400/s", "--json")
    until(lambda: begun(project), slow)
    slow.send_signal(stop)
    assert ended(slow)[0] == status
    (job,) = jobs(project)
    assert 0 < job["done"] < EVENTS
    status, out, said = project.call("backfill", "resume", job["id"], "--concurrency", "0", "--json")
    report = json.loads(out)
    assert (status, report["state"], report["read"], report["delivered"]) == (0, "done", EVENTS, EVENTS), said


def test_a_paused_one_rests_and_another_process_cannot_take_a_live_one(project: Project) -> None:
    assert project.call("run", "--once", "orders.yaml")[0] == 0
    slow = project.pipe("backfill", "orders.yaml", *RANGE, "--rate", "300/s", "--json")
    until(lambda: begun(project), slow)
    (job,) = jobs(project)
    status, _, said = project.call("backfill", "resume", job["id"])
    assert (status, "error[job.held]" in said, str(slow.pid) in said) == (3, True, True)
    assert project.call("backfill", "pause", job["id"])[0] == 0
    status, out, _ = ended(slow)
    rested = json.loads(out)
    assert (status, rested["state"], 0 < rested["read"] < EVENTS) == (0, "paused", True)
    assert project.call("backfill", "cancel", job["id"])[0] == 0
    assert jobs(project)[0]["state"] == "cancelled"


def test_beside_a_live_run_it_reads_what_is_committed(project: Project) -> None:
    project.pipeline(PIPELINE.format(follow="true"))
    live = project.pipe("run", "orders.yaml")
    try:
        until(lambda: (project.root / "out.jsonl").exists() and _lines(project) == EVENTS, live)
        status, out, _ = project.call("backfill", "orders.yaml", *RANGE, "--mode", "shadow", "--fail-on-diff", "--json")
        report = json.loads(out)
        assert (status, report["verdict"], report["comparison"]["identical"]) == (0, "clean", report["read"])
        assert report["read"] == EVENTS
    finally:
        os.kill(live.pid, signal.SIGTERM)
        assert ended(live)[0] == 0


def _lines(project: Project) -> int:
    return len((project.root / "out.jsonl").read_bytes().splitlines())
