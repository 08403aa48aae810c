"""The command as a process of its own: signals, several pipelines, HTTP, speed, pipes, terminals."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from process_parts import PIPE, environment, pipe, started
from waiting import until

ENDLESS = "pipeline: {name}\nsource: {{ generate: {{ rate: 200/s }} }}\nsink: {{ file: out/{name}.jsonl }}\n"
FAILING = """\
pipeline: failing
source: { generate: { rate: 200/s } }
transforms: [{ jq: 'if .n > 20 then error("boom") else . end', on_error: stop }]
sink: drop
"""
HOLD = """\
import asyncio
from pathlib import Path

async def hold(data):
    if data["n"] >= 20 and Path("hold").exists():
        await asyncio.Event().wait()
    return data
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(ENDLESS.format(name=name))
    (tmp_path / "failing.yaml").write_text(FAILING)
    return tmp_path


def wait_for_lines(process: subprocess.Popen[str], file: Path, count: int = 1) -> None:
    until(lambda: file.exists() and file.read_bytes().count(b"\n") >= count, process)


def delivered(file: Path) -> list[int]:
    return [json.loads(line)["n"] for line in file.read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_delivers_commits_and_ends_with_0(project: Path, number: int) -> None:
    with started(project, "run", "--json", "one.yaml", "two.yaml") as process:
        for name in ("one", "two"):
            wait_for_lines(process, project / f"out/{name}.jsonl", 20)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert [json.loads(line)["code"] for line in err.splitlines()] == ["run.stopping"]
    summaries = {summary["pipeline"]: summary for summary in map(json.loads, out.splitlines())}
    for name in ("one", "two"):
        lines = delivered(project / f"out/{name}.jsonl")
        assert lines == list(range(summaries[name]["delivered"]))
        assert summaries[name]["received"] == summaries[name]["delivered"]


def test_the_second_signal_stops_now_and_nothing_is_lost(project: Path) -> None:
    (project / "held.yaml").write_text(
        "pipeline: held\nsource: { generate: { rate: 500/s } }\ntransforms: [{ python: { call: 'steps:hold' } }]\n"
        "sink: { file: out/held.jsonl }\nbatching: { count: 5 }\n"
    )
    (project / "steps.py").write_text(HOLD)
    (project / "hold").touch()
    with started(project, "run", "held.yaml") as process:
        wait_for_lines(process, project / "out/held.jsonl", 2)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert "run.stopping" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run.interrupted" in err
    assert "Traceback" not in err
    (project / "hold").unlink()
    assert pipe(project, "run", "--max-events", "30", "held.yaml")[0] == 0
    lines = delivered(project / "out/held.jsonl")
    assert len(lines) > 20
    assert lines == list(range(len(lines)))


def test_a_failing_pipeline_leaves_the_others_running_and_decides_the_exit_status(project: Path) -> None:
    with started(project, "run", "--http", "127.0.0.1:0", "failing.yaml", "one.yaml") as process:
        assert process.stderr is not None
        listening = json.loads(process.stderr.readline())
        failed = json.loads(process.stderr.readline())
        assert (listening["code"], failed["pipeline"], failed["message"]) == ("http.listening", "failing", "boom")
        base = listening["message"].split(" ")[0]
        before = len(delivered(project / "out/one.jsonl"))
        wait_for_lines(process, project / "out/one.jsonl", before + 40)
        with urllib.request.urlopen(f"{base}/healthz", timeout=10) as answer:
            assert answer.read() == b"ok\n"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{base}/readyz", timeout=10)
        with caught.value as refused:
            assert (refused.code, refused.read()) == (503, b"failing: failed\n")
        with urllib.request.urlopen(f"{base}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        assert 'penstock_ready{pipeline="one"} 1.0' in page
        assert 'penstock_ready{pipeline="failing"} 0.0' in page
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 1


def test_two_runs_of_one_pipeline_are_refused_with_the_process_that_holds_it(project: Path) -> None:
    with started(project, "run", "one.yaml") as process:
        wait_for_lines(process, project / "out/one.jsonl")
        status, _, said = pipe(project, "run", "--once", "one.yaml")
        standing = json.loads(pipe(project, "status", "one.yaml", "--json")[1])["items"][0]
    incident = json.loads(said.splitlines()[0])
    assert (status, incident["code"]) == (3, "state.held")
    assert str(process.pid) in incident["message"]
    assert standing["pid"] == process.pid


def test_help_is_there_at_once(project: Path) -> None:
    """By the processor's time: a machine that is busy with something else proves nothing."""
    pipe(project, "--help")
    took = []
    for _ in range(5):
        begun = processor_time()
        assert pipe(project, "--help")[0] == 0
        took.append(processor_time() - begun)
    assert min(took) < 0.15


def processor_time() -> float:
    """Seconds that the processes which this one has waited for took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_reader_that_has_seen_enough_is_no_error(project: Path) -> None:
    with started(project, "schema", "config") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 0
    process.stdout = None


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_caller_that_closed_a_stream_gets_the_work_done_all_the_same(project: Path, number: int) -> None:
    command = [*PIPE, "run", "--max-events", "5", "one.yaml"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, preexec_fn=lambda: os.close(number), check=False)
    assert (done.returncode, delivered(project / "out" / "one.jsonl")) == (0, [0, 1, 2, 3, 4])
    assert (done.stdout, "received 5" in done.stderr) == ("", number != 2)


def test_on_a_terminal_there_is_a_bar_and_a_summary(project: Path) -> None:
    (project / "few.yaml").write_text("pipeline: few\nsource: { generate: { count: 300, rate: 600/s } }\nsink: drop\n")
    shown = on_a_terminal(project, "run", "--once", "few.yaml")
    assert "\x1b[?25l" in shown
    assert shown.index("received = delivered + filtered + deduplicated + dead-lettered") > shown.index("events")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "pipe status few" in shown


def on_a_terminal(project: Path, *arguments: str) -> str:
    """Everything that a terminal of 100 columns is sent."""
    child, descriptor = pty.fork()
    if child == 0:
        os.chdir(project)
        variables = environment(TERM="xterm-256color", COLUMNS="100")
        variables.pop("NO_COLOR", None)
        os.execve(PIPE[0], [*PIPE, *arguments], variables)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline and select.select([descriptor], [], [], 60)[0]:
        try:
            block = os.read(descriptor, 65536)
        except OSError:
            break
        if not block:
            break
        shown += block
    os.close(descriptor)
    assert os.waitpid(child, 0)[1] == 0
    return shown.decode()
