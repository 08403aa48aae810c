from __future__ import annotations

import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from config_parts import BASE, Project
from recompute_parts import line, line_of

from penstock.engine.agreement import Agreement, agreement
from penstock.engine.recompute import Recompute
from penstock.engine.trace import Trace, trace
from penstock.event import Event
from penstock.journal.lines import Line

STEPS = """\
transforms:
  - { name: same, jq: . }
  - { name: sold, filter: .n != 2 }
  - { name: pair, split: '.items // [.]' }
  - { name: odd, filter: .n % 2 == 1 }
  - { name: grade, jq: 'if .n == 5 then error("no grade") else .g = 1 end', on_error: skip }
  - { name: weigh, jq: 'if .n == 7 then error("too heavy") else . end' }
  - { name: whole, jq: 'if .n == 9 then error("no") else . end', on_error: stop }
  - { name: mark, when: .n == 1, set: { type: one } }
sinks:
  - { name: small, when: 'if .n == 11 then error("odd") else .n < 10 end', stdout: {} }
  - { name: all, stdout: {} }
"""
SINKLESS = BASE.replace("sink: stdout\n", "")


@pytest.fixture
def recompute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recompute:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return Recompute(Project(tmp_path).load(SINKLESS + STEPS), doubts={"grade": "it changed"})


def told(found: Trace) -> list[tuple[Any, ...]]:
    return [
        (step.name, step.happened, len(step.inputs), [event.data for event in step.outputs])
        for step in found.steps
        if step.happened != "unchanged"
    ]


async def test_a_step_that_changes_splits_or_filters(recompute: Recompute) -> None:
    found = await trace(recompute, line({"items": [{"n": 1}, {"n": 2}]}))
    assert told(found) == [
        ("pair", "split", 1, [{"n": 1}, {"n": 2}]),
        ("odd", "filtered", 2, [{"n": 1}]),
        ("grade", "changed", 1, [{"n": 1, "g": 1}]),
        ("mark", "changed", 1, [{"n": 1, "g": 1}]),
    ]
    assert [step.name for step in found.steps] == ["same", "sold", "pair", "odd", "grade", "weigh", "whole", "mark"]
    assert [(route.sink, route.kind, route.when is None, list(route.taken)) for route in found.routes] == [
        ("small", "stdout", False, [0]),
        ("all", "stdout", True, [0]),
    ]
    assert [step.doubt for step in found.steps if step.doubt] == ["it changed"]
    assert all(step.seconds >= 0 for step in found.steps)
    assert {step.kind for step in found.steps} == {"jq", "filter", "split", "set"}


async def test_a_filtered_event_ends_there(recompute: Recompute) -> None:
    found = await trace(recompute, line({"n": 2}))
    assert told(found) == [("sold", "filtered", 1, [])]
    assert (found.result.outcome, found.result.step, [list(route.taken) for route in found.routes]) == (
        "filtered",
        "sold",
        [[], []],
    )


@pytest.mark.parametrize(
    ("n", "step", "happened", "outcome"),
    [
        (5, "grade", "skipped", "delivered"),
        (7, "weigh", "failed", "dead_lettered"),
        (9, "whole", "stopped", "stopped"),
        (11, "small.when", "failed", "dead_lettered"),
    ],
)
async def test_a_step_that_fails_says_why(recompute: Recompute, n: int, step: str, happened: str, outcome: str) -> None:
    found = await trace(recompute, line({"n": n}))
    [at] = [each for each in found.steps if each.error is not None]
    assert (at.name, at.happened, found.result.outcome) == (step, happened, outcome)
    assert at.error is not None
    assert at.error.message == {5: "no grade", 7: "too heavy", 9: "no", 11: "odd"}[n]
    assert found.result.failure is None or found.routes == []


async def test_what_comes_before_the_steps_is_told(recompute: Recompute, tmp_path: Path) -> None:
    base = SINKLESS.replace("a.jsonl}", "a.jsonl, event: {type: .kind}}")
    other = Recompute(Project(tmp_path).load(base + "dedup: { window: 1h, key: .data.k }\nsink: stdout\n"))
    assert told(await trace(other, line({"kind": "x", "k": 1}))) == [("event", "changed", 1, [{"kind": "x", "k": 1}])]
    assert told(await trace(other, line({"k": 1}))) == [("event", "failed", 1, [])]
    assert told(await trace(other, line({"kind": "x"}))) == [("dedup", "failed", 1, [])]
    unread = line_of(Event("0-1", "s", "t"), outcome="dead_lettered", step="decode", original=b64encode(b"{").decode())
    found = await trace(other, unread)
    assert told(found) == [("decode", "failed", 1, [])]
    assert (found.result.outcome, found.result.step) == ("dead_lettered", "decode")


async def judged(recompute: Recompute, recorded: Line) -> Agreement:
    found = await trace(recompute, recorded)
    return agreement(recorded, found.made, 0, found.result)


async def test_what_differs_is_told(recompute: Recompute) -> None:
    assert await judged(recompute, line({"n": 1}, outcome="filtered")) == Agreement(
        "different", "it was filtered; now it is delivered"
    )
    assert await judged(recompute, line({"n": 1}, outcome="dead_lettered", step="weigh")) == Agreement(
        "different", "it was dead-lettered at weigh; now it is delivered"
    )
    assert await judged(recompute, line({"n": 7}, outcome="dead_lettered", step="grade")) == Agreement(
        "different", "it was dead-lettered at grade; now it is dead-lettered at weigh"
    )
    assert await judged(recompute, line({"n": 1}, outputs=["00", "01"])) == Agreement(
        "different", "it had 2 outputs; now it has 1"
    )
    assert await judged(recompute, line({"n": 1}, outputs=["00"])) == Agreement(
        "different", "its output, or where it goes, is another than was recorded"
    )


async def test_whole_outputs_are_compared_with_the_sinks_that_took_them(recompute: Recompute) -> None:
    event = {"specversion": "1.0", "id": "0-1", "source": "file:a.jsonl", "type": "one", "data": {"g": 1, "n": 1}}
    assert await judged(recompute, line({"n": 1}, outputs=[event])) == Agreement("same")
    assert await judged(recompute, line({"n": 1}, outputs=[event], routes=[3])) == Agreement("same")
    other = Agreement("different", "its output, or where it goes, is another than was recorded")
    assert await judged(recompute, line({"n": 1}, outputs=[event], routes=[1])) == other
    assert await judged(recompute, line({"n": 1}, outputs=[{**event, "type": "two"}])) == other
    assert await judged(recompute, line({"n": 1}, outputs=[None])) == other


async def test_what_is_no_matter_of_the_steps_is_told(recompute: Recompute) -> None:
    assert (await judged(recompute, line({"n": 1}, outcome="dead_lettered", step="all"))) == Agreement(
        "beyond", "all refused it, behind the steps"
    )
    assert (await judged(recompute, line({"n": 2}, outcome="dead_lettered", step="all"))) == Agreement(
        "different", "it was dead-lettered at all; now it is filtered at sold"
    )
    assert (await judged(recompute, line({"n": 1}))).why == ("its outputs, which the journal does not keep, are not compared")
