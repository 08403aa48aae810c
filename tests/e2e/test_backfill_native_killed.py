"""`pipe backfill --source native` in processes of its own: killed while it copies, while the job goes on; beside a live run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from backfill_command_parts import EVENTS, begun, jobs
from bad_input_parts import Project
from process_parts import ended
from waiting import until

MANY = 150_000
PIPELINE = """\
source: {file: in.jsonl, event: {time: .at}}
transforms:
  - {name: total, jq: '{n: .n, total: (.n * 2)}'}
sinks:
  - {name: first, file: {path: out/first.jsonl}}
"""
FRESH = "  - {name: fresh, file: {path: out/fresh.jsonl}}\n"
RANGE = ("--from", "2026-01-01T00:00Z", "--to", "2026-02-01T00:00Z", "--source", "native")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.pipeline(PIPELINE)
    write(project, EVENTS)
    return project


def write(project: Project, count: int) -> None:
    project.write("in.jsonl", *(b'{"n":%d,"at":"2026-01-%02dT00:00:00Z"}' % (n, 1 + n % 28) for n in range(count)))


def copies(project: Project) -> list[Path]:
    return list((project.root / ".penstock/ranges/orders").glob("*"))


def numbers(project: Project, name: str) -> list[int]:
    return [json.loads(line)["n"] for line in (project.root / f"out/{name}.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize(("stop", "status", "left"), [(signal.SIGKILL, -signal.SIGKILL, 1), (signal.SIGINT, 130, 0)])
def test_stopped_while_it_copies_it_leaves_no_job_and_the_next_one_clears_up(
    project: Project, stop: signal.Signals, status: int, left: int
) -> None:
    write(project, MANY)
    copying = project.pipe("backfill", "orders.yaml", *RANGE, "--json")
    until(lambda: any(path.stat().st_size for copy in copies(project) for path in copy.glob("*.zst")), copying)
    copying.send_signal(stop)
    assert ended(copying)[:2] == (status, "")
    assert (jobs(project), len(copies(project))) == ([], left)
    write(project, EVENTS)
    status, out, said = project.call("backfill", "orders.yaml", *RANGE, "--json")
    report = json.loads(out)
    assert (status, report["read"], report["native"]["unknown"], copies(project)) == (0, EVENTS, EVENTS, []), said


def test_killed_while_the_job_goes_on_it_reads_on_in_its_copy_whatever_became_of_the_source(project: Project) -> None:
    slow = project.pipe("backfill", "orders.yaml", *RANGE, "--rate", "250/s", "--concurrency", "0", "--json")
    until(lambda: begun(project), slow)
    slow.kill()
    assert ended(slow)[0] == -signal.SIGKILL
    (project.root / "in.jsonl").unlink()
    (job,) = jobs(project)
    status, out, said = project.call("backfill", "resume", job["id"], "--concurrency", "0", "--json")
    report = json.loads(out)
    assert (status, report["state"], report["read"], report["delivered"]) == (0, "done", EVENTS, EVENTS), said
    assert copies(project) == []


def test_a_live_one_that_is_killed_doubles_and_loses_nothing(project: Project) -> None:
    assert project.call("run", "--once", "orders.yaml")[0] == 0
    project.pipeline(PIPELINE + FRESH + "journal: off\n")
    options = (*RANGE, "--mode", "live", "--sink", "fresh", "--json")
    status, _, said = project.call("backfill", "orders.yaml", *options)
    assert (status, "backfill.unknown_deliveries" in said, "3,000 of 3,000" in said, copies(project)) == (2, True, True, [])
    slow = project.pipe("backfill", "orders.yaml", *options, "--redeliver", "--rate", "1000/s")
    until(lambda: begun(project), slow)
    slow.kill()
    assert ended(slow)[0] == -signal.SIGKILL
    assert 0 < len(numbers(project, "fresh")) < EVENTS
    (job,) = jobs(project)
    status, _, said = project.call("backfill", "resume", job["id"])
    assert (status, jobs(project)[0]["state"], copies(project)) == (0, "done", []), said
    assert (sorted(numbers(project, "fresh")), numbers(project, "first")) == (list(range(EVENTS)), list(range(EVENTS)))


def test_a_run_that_is_alive_carries_a_live_one_out_from_the_copy(project: Project) -> None:
    assert project.call("run", "--once", "orders.yaml")[0] == 0
    project.pipeline(PIPELINE.replace("file: in.jsonl", "file: {paths: in.jsonl, follow: true}") + FRESH)
    live = project.pipe("run", "orders.yaml")
    try:
        until(lambda: (project.root / "out/fresh.jsonl").exists(), live)
        status, _, said = project.call("backfill", "orders.yaml", *RANGE, "--mode", "live")
        assert (status, "3,000 delivered" in said, copies(project)) == (0, True, []), said
    finally:
        live.send_signal(signal.SIGTERM)
        assert ended(live)[0] == 0
    assert (numbers(project, "fresh"), numbers(project, "first")) == (list(range(EVENTS)), list(range(EVENTS)))


def test_sources_that_keep_nothing_are_refused_before_anything_is_made(project: Project) -> None:
    project.pipeline(PIPELINE.replace("{file: in.jsonl, event: {time: .at}}", "{stdin: {}}"))
    status, _, said = project.call("backfill", "orders.yaml", *RANGE)
    assert (status, "error[backfill.no_native]" in said, copies(project)) == (2, True, [])
