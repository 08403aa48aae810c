"""With workers, an event that never ends, takes all memory or ends its process costs itself and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bad_input_parts import Project

STEPS = """
import os, sys, asyncio

def naughty(data):
    match data["do"]:
        case "loop":
            while True:
                pass
        case "memory":
            bomb = []
            while True:
                bomb.append(bytearray(1 << 20))
        case "exit":
            os._exit(0)
        case "signal":
            os.kill(os.getpid(), 11)
        case "read":
            return {"do": "read", "n": data["n"], "line": input()}
        case "print":
            sys.stdout.write("frames" * 1000)
            print("and more", flush=True)
        case "environment":
            return {**data, "environment": dict(os.environ)}
    return data

async def waits(data):
    if data["do"] == "loop":
        await asyncio.Event().wait()
    return data
"""
JQ_LOOP = 'def f: if .do == "loop" then f else . end; f'
JQ_BOMB = 'if .do == "memory" then [range(1e10)] else . end'
JQ_DEEP = 'if .do == "deep" then reduce range(300000) as $i (0; [.]) else . end'
GUILTY = {
    "jq endless loop": (f"jq: '{JQ_LOOP}'", "loop", "worker.timeout"),
    "jq memory bomb": (f"jq: '{JQ_BOMB}'", "memory", "worker.died"),
    "jq stack overflow": (f"jq: '{JQ_DEEP}'", "deep", "worker.died"),
    "python endless loop": ("python: worker_limit_steps:naughty", "loop", "worker.timeout"),
    "python endless await": ("python: worker_limit_steps:waits", "loop", "worker.timeout"),
    "python memory bomb": ("python: worker_limit_steps:naughty", "memory", "worker.died"),
    "python os._exit": ("python: worker_limit_steps:naughty", "exit", "worker.died"),
    "python signal": ("python: worker_limit_steps:naughty", "signal", "worker.died"),
    "python reads stdin": ("python: worker_limit_steps:naughty", "read", "python.raised"),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "worker_limit_steps.py").write_text(STEPS)
    return Project(tmp_path)


def records(guilty: str, *, count: int = 3, at: int = 1) -> list[bytes]:
    return [b'{"do":"%s","n":%d}' % ((guilty if n == at else "nothing").encode(), n) for n in range(count)]


def limited(step: str, more: str = "", *, timeout: str = "400ms") -> str:
    return (
        f"source: {{file: in.jsonl}}\ntransforms:\n  - {step}\nsink: {{file: out.jsonl}}\n"
        f"workers: 1\ntransform_timeout: {timeout}\nworker_memory: 64MiB\n{more}"
    )


@pytest.mark.parametrize("case", GUILTY)
async def test_only_the_guilty_event_becomes_a_dead_letter(project: Project, case: str) -> None:
    step, guilty, code = GUILTY[case]
    # What ends by itself is given the time for it, on a busy machine too.
    project.pipeline(limited(step, timeout="400ms" if code == "worker.timeout" else "30s"))
    written = records(guilty)
    project.write("in.jsonl", *written)

    summary = await project.run()

    assert (summary.counts.delivered, summary.counts.dead_lettered) == (2, 1)
    assert project.lines() == [written[0], written[2]]
    (letter,) = await project.letters()
    assert (letter.code, letter.event_id, letter.original) == (code, f"0-{len(written[0]) + 1}", written[1])
    if code != "python.raised":
        assert letter.attempts == 2


async def test_two_guilty_events_of_one_batch_are_told_apart(project: Project) -> None:
    project.pipeline(limited("python: worker_limit_steps:naughty"))
    written = records("exit", count=12, at=3)
    written[9] = b'{"do":"signal","n":9}'
    project.write("in.jsonl", *written)

    await project.run()

    assert [letter.original for letter in await project.letters()] == [written[3], written[9]]
    assert project.lines() == [line for n, line in enumerate(written) if n not in (3, 9)]


async def test_what_a_step_prints_goes_between_no_frames_and_the_environment_is_empty(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN", "canary")
    project.pipeline(limited("python: worker_limit_steps:naughty"))
    project.write("in.jsonl", *records("print"), b'{"do":"environment"}')

    await project.run()

    last = project.values()[-1]
    assert project.lines()[:-1] == records("print")
    assert set(last["environment"]) <= {"LC_CTYPE"}  # which Python itself sets
    assert "canary" not in str(last)
    said = capfd.readouterr()
    assert said.out == ""
    assert "and more" in said.err


async def test_no_worker_outlives_its_run(project: Project) -> None:
    project.pipeline(limited("python: worker_limit_steps:naughty"))
    project.write("in.jsonl", *records("exit"))

    await project.run()

    assert children() == set()


def children() -> set[int]:
    """Worker processes of this one that are still there."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid() and b"penstock.engine.worker" in command:
            found.add(int(status.parent.name))
    return found
