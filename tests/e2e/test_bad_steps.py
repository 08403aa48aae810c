"""Whatever a function of the user's raises or returns costs its own event, with a reason, in this process and in a worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input_parts import Project

STEPS = """
import asyncio, dataclasses

@dataclasses.dataclass
class Total:
    amount: float

class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")

def step(data):
    match data.get("do"):
        case "surrogate":
            raise ValueError(b"caf\\xe9".decode(errors="surrogateescape"))
        case "speechless":
            raise Speechless
        case "cancelled":
            raise asyncio.CancelledError("something I waited for")
        case "generator":
            raise GeneratorExit
        case "exit":
            raise SystemExit(3)
        case "recursion":
            return step(data)
        case "nul":
            raise ValueError("a\\0b")
        case "nan":
            return {"total": float("nan")}
        case "hidden nan":
            return {"total": Total(float("nan"))}
        case "infinite set":
            return {"totals": {float("inf")}}
        case "lone surrogate":
            return {"text": "\\ud800"}
        case "deep":
            deep = None
            for _ in range(5000):
                deep = [deep]
            return deep
        case "fine":
            return {"total": Total(1.5), "none": None}
    return data

async def waits(data):
    if data.get("do") == "cancelled":
        task = asyncio.ensure_future(asyncio.Event().wait())
        asyncio.get_running_loop().call_soon(task.cancel)
        await task
    return data
"""
CANNOT = "bad_steps:step returned dict, which cannot be written as JSON"
OUTCOMES = {
    "surrogate": ("python.raised", "ValueError: caf\\udce9"),
    "speechless": ("python.raised", "Speechless: (its text cannot be made: RuntimeError)"),
    "cancelled": ("python.raised", "CancelledError: something I waited for"),
    "generator": ("python.raised", "GeneratorExit: "),
    "exit": ("python.raised", "SystemExit: 3"),
    "recursion": ("python.raised", "RecursionError: maximum recursion depth exceeded"),
    "nul": ("python.raised", "ValueError: a\0b"),
    "nan": ("python.bad_result", CANNOT),
    "hidden nan": ("python.bad_result", CANNOT),
    "infinite set": ("python.bad_result", CANNOT),
    "lone surrogate": ("python.bad_result", CANNOT),
    "deep": ("python.bad_result", "bad_steps:step returned list, which cannot be written as JSON"),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "bad_steps", raising=False)
    (tmp_path / "bad_steps.py").write_text(STEPS)
    return Project(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
async def test_each_event_has_its_own_reason_and_the_others_go_on(project: Project, workers: int) -> None:
    project.pipeline(
        f"source: {{file: in.jsonl}}\ntransforms: [{{python: bad_steps:step}}]\nsink: {{file: out.jsonl}}\nworkers: {workers}\n"
    )
    project.write("in.jsonl", b'{"n":1}', *(b'{"do":"%s"}' % do.encode() for do in OUTCOMES), b'{"do":"fine"}')

    summary = await project.run()

    assert summary.counts.delivered == 2
    assert project.lines() == [b'{"n":1}', b'{"total":{"amount":1.5},"none":null}']
    letters = await project.letters()
    assert [(letter.code, letter.message) for letter in letters] == [*OUTCOMES.values()]
    assert all(letter.step == "python-1" for letter in letters)


@pytest.mark.parametrize("workers", [0, 1])
async def test_a_cancellation_inside_an_async_step_is_its_events_failure_not_the_runs_end(project: Project, workers: int) -> None:
    project.pipeline(
        f"source: {{file: in.jsonl}}\ntransforms: [{{python: bad_steps:waits}}]\nsink: {{file: out.jsonl}}\nworkers: {workers}\n"
    )
    project.write("in.jsonl", b'{"n":1}', b'{"do":"cancelled"}', b'{"n":2}')

    await project.run()

    assert project.lines() == [b'{"n":1}', b'{"n":2}']
    assert [(letter.code, letter.message) for letter in await project.letters()] == [("python.raised", "CancelledError: ")]
