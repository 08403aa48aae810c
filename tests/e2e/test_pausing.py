"""`pipe pause`, `pipe resume` and `pipe signal` with real runs, over both kinds of state store: nothing is lost, doubled, or
delivered meanwhile, whatever ends the run."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from process_parts import pipe, started
from waiting import until

from penstock.testing.servers import Database

PIPELINE = """\
pipeline: load
source: { generate: { rate: 2000/s } }
sink: { file: out.jsonl }
"""


class Project:
    """A pipeline under load, and the command in its directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def running(self, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
        return started(self.root, *arguments)

    def pipe(self, *arguments: str) -> tuple[int, str, str]:
        return pipe(self.root, *arguments)

    def status(self) -> dict[str, Any]:
        [item] = json.loads(self.pipe("status", "load", "--json")[1])["items"]
        assert isinstance(item, dict)
        return item

    def delivered(self) -> list[int]:
        file = self.root / "out.jsonl"
        return [json.loads(line)["n"] for line in file.read_text().splitlines()] if file.exists() else []

    def more_than(self, count: int, *alive: subprocess.Popen[str]) -> None:
        until(lambda: len(self.delivered()) > count, *alive)


@pytest.fixture(params=["sqlite", "postgres"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    (tmp_path / "pipelines").mkdir()
    state = ""
    if request.param == "postgres":
        database: Database = request.getfixturevalue("database")
        state = f"state: {json.dumps(database.dsn)}\n"
    (tmp_path / "pipelines/load.yaml").write_text(PIPELINE + state)
    return Project(tmp_path)


def stop(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The run's incidents, once it has ended well."""
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return [json.loads(line) for line in err.splitlines() if line.startswith("{")]


def test_a_pause_under_load_holds_through_a_kill_and_loses_and_doubles_nothing(project: Project) -> None:
    with project.running("run", "load") as first:
        project.more_than(100, first)
        status, _, said = project.pipe("pause", "load", "--why", "the sink moves")
        assert (status, "paused; everything that was read is committed" in said) == (0, True)
        count = len(project.delivered())
        standing = project.status()
        assert (standing["pid"], standing["paused"]["why"], standing["delivered"]) == (first.pid, "the sink moves", count)
        assert len(project.delivered()) == count
        first.send_signal(signal.SIGKILL)
        first.wait()
    with project.running("run", "load", "--http", "127.0.0.1:0") as second:
        assert second.stderr is not None
        base = json.loads(second.stderr.readline())["message"].split(" ")[0]
        paused = json.loads(second.stderr.readline())
        assert (paused["code"], paused["help"]) == ("run.paused", "pipe resume load")
        assert "(the sink moves): waits to be resumed" in paused["message"]
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{base}/readyz", timeout=10)
        with caught.value as refused:
            assert refused.read().decode().startswith("load: paused since 20")
        with urllib.request.urlopen(f"{base}/metrics", timeout=10) as answer:
            assert 'penstock_paused{pipeline="load"} 1.0' in answer.read().decode()
        again = project.pipe("pause", "load")
        assert (again[0], "was paused already" in again[2]) == (0, True)
        assert len(project.delivered()) == count
        status, _, said = project.pipe("resume", "load")
        assert (status, said) == (0, "load: reads again\n")
        project.more_than(count + 100, second)
        assert [one["code"] for one in stop(second)] == ["run.resumed", "run.stopping"]
    lines = project.delivered()
    assert lines == list(range(len(lines)))
    standing = project.status()
    assert (standing["delivered"], standing["paused"], standing["pid"]) == (len(lines), None, None)


def test_a_paused_run_is_stopped_like_any_other_and_resumed_without_a_run(project: Project) -> None:
    assert "no run is alive" in project.pipe("pause", "load")[2]
    with project.running("run", "load") as process:
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["code"] == "run.paused"
        assert [one["code"] for one in stop(process)] == ["run.stopping"]
    assert project.delivered() == []
    status, _, said = project.pipe("run", "--once", "load")
    assert (status, "ends here, for it was to run once" in said) == (0, True)
    assert project.pipe("resume", "load")[2] == "load: no longer paused; no run is alive\n"
    assert project.pipe("run", "--max-events", "50", "load")[0] == 0
    assert project.delivered() == list(range(50))


def test_signals_are_answered_in_order_and_a_refusal_is_an_exit_status(project: Project) -> None:
    with project.running("run", "load") as process:
        project.more_than(0, process)
        status, _, said = project.pipe("signal", "load", "snapshot", "public.orders")
        assert (status, "signal.refused" in said) == (1, True)
        assert "the source generate takes no signals; every pipeline takes pause and resume" in said
        for arguments in (("pause",), ("snapshot", "a b")):
            assert project.pipe("signal", "load", *arguments, "--no-wait")[0] == 0
        status, out, _ = project.pipe("signal", "load", "resume", "--json")
        assert (status, json.loads(out)["state"]) == (0, "accepted")
        count = len(project.delivered())
        project.more_than(count, process)
        stop(process)
    listed = json.loads(project.pipe("signal", "load", "--json")[1])["items"]
    assert [(one["kind"], one["arguments"], one["state"]) for one in reversed(listed)] == [
        ("snapshot", ["public.orders"], "refused"),
        ("pause", [], "accepted"),
        ("snapshot", ["a b"], "refused"),
        ("resume", [], "accepted"),
    ]
    for kinds in (("pause", "resume"), ("snapshot",)):  # these two do not wait for each other
        decided = [one["decided_at"] for one in reversed(listed) if one["kind"] in kinds]
        assert decided == sorted(decided)
    lines = project.delivered()
    assert lines == list(range(len(lines)))
