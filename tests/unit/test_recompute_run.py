from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from config_parts import BASE, Project
from recompute_parts import AT, line, line_of

from penstock.engine.answers import data_digest, key_digest
from penstock.engine.recompute import Recompute, alike
from penstock.event import Event, encode

SINKS = """\
sinks:
  - name: small
    when: .n < 10
    stdout: {}
  - name: even
    when: .n % 2 == 0
    stdout: {}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "recompute_steps", raising=False)
    return Project(tmp_path)


def recompute(project: Project, steps: str, *, base: str = BASE) -> Recompute:
    return Recompute(project.load(base + steps))


async def results(recompute: Recompute, datas: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Outcome, then step or data and sinks of each output."""
    made = await recompute.run([line(data, identity=str(n)) for n, data in enumerate(datas)])
    return [
        (result.outcome, *([(o.event.id, o.event.data, list(o.sinks)) for o in result.outputs] or [result.step]))
        for result in made.results()
    ]


async def test_every_event_gets_the_outcome_that_the_steps_decide(project: Project) -> None:
    steps = "transforms:\n  - { name: odd, filter: .n != 2 }\n  - { name: parts, jq: 'range(.k // 1) as $i | {n} | .i = $i' }\n"
    steps += "  - { name: weigh, jq: 'if .n == 5 then error(\"too heavy\") else . end' }\n"
    base = BASE.replace("sink: stdout\n", SINKS)
    made = await results(recompute(project, steps, base=base), [{"n": 1}, {"n": 2}, {"n": 4, "k": 2}, {"n": 5}, {"n": 11}])
    assert made == [
        ("delivered", ("0", {"n": 1, "i": 0}, ["small"])),
        ("filtered", "odd"),
        ("delivered", ("2-0", {"n": 4, "i": 0}, ["small", "even"]), ("2-1", {"n": 4, "i": 1}, ["small", "even"])),
        ("dead_lettered", "weigh"),
        ("filtered", "sinks"),
    ]


async def test_a_batch_is_counted_as_the_live_run_counts_it(project: Project) -> None:
    steps = "transforms:\n  - { name: odd, filter: .n != 2 }\n  - { name: twice, jq: '., .' }\n"
    made = await recompute(project, steps).run([line({"n": n}, identity=str(n)) for n in (1, 2, 3)])
    assert dict(made.tally.steps) == {("odd", "filtered"): 1}
    assert made.tally.derived == 4
    assert [event.data for event in made.for_sink(0)] == [{"n": 1}, {"n": 1}, {"n": 3}, {"n": 3}]


async def test_programs_see_the_time_of_receipt_as_now(project: Project) -> None:
    made = await results(recompute(project, "transforms:\n  - jq: '{at: now}'\n"), [{}])
    assert made == [("delivered", ("0", {"at": 1772366400.25}, ["stdout"]))]


async def test_numbers_beyond_53_bits_stay_exact(project: Project) -> None:
    made = await results(recompute(project, "transforms:\n  - jq: '{n}'\n"), [b'{"n": 9007199254740993, "x": 1}'])
    assert made == [("delivered", ("0", {"n": 9007199254740993}, ["stdout"]))]


async def test_event_is_made_again_from_what_the_source_gave(project: Project) -> None:
    event = Event("shop-1", "file:a.jsonl", "order", raw=b'{"id":1}')
    base = BASE.replace("a.jsonl}", "a.jsonl, event: {id: '.after.id | tostring', type: other}}")
    recorded = line_of(event, given={"id": "0-1", "type": "file.record"}, record={"after": {"id": 7}})
    made = await recompute(project, "", base=base).run([recorded])
    assert (made.received[0].id, made.received[0].type) == ("0-1", "file.record")
    assert (made.filled[0].id, made.filled[0].type, made.filled[0].source) == ("7", "other", "file:a.jsonl")


async def test_without_event_it_is_the_envelope_that_the_source_gave(project: Project) -> None:
    recorded = line_of(Event("shop-1", "file:a.jsonl", "order", raw=b"{}"), given={"id": "0-1", "type": "file.record"})
    [result] = (await recompute(project, "").run([recorded])).results()
    assert [(output.event.id, output.event.type) for output in result.outputs] == [("0-1", "file.record")]


async def test_what_was_no_event_is_none_again(project: Project) -> None:
    event = Event("0-1", "file:a.jsonl", "file.record")
    lines = [
        line_of(event, outcome="dead_lettered", step="decode", letter="abc", original=b64encode(b"{oops").decode()),
        line_of(event, outcome="dead_lettered", step="source", letter="def", original=b64encode(b"x").decode()),
        line({"n": 1}),
    ]
    first, second, third = (await recompute(project, "").run(lines)).results()
    assert first.failure is not None
    assert (first.outcome, first.step, first.failure.error.code) == ("dead_lettered", "decode", "decode.invalid_json")
    assert second.failure is not None
    assert (second.outcome, second.step, second.failure.error.help) == ("dead_lettered", "source", "pipe dlq show def says why")
    assert third.outcome == "delivered"


async def test_a_custom_key_that_fails_is_a_dead_letter_again(project: Project) -> None:
    made = await results(recompute(project, "dedup: { window: 1h, key: .data.k }\n"), [{"k": 1}, {}])
    assert made == [("delivered", ("0", {"k": 1}, ["stdout"])), ("dead_lettered", "dedup")]


async def test_an_event_that_would_stop_the_run_stops_no_other(project: Project) -> None:
    steps = "transforms:\n  - { name: odd, filter: .n != 2 }\n"
    steps += "  - { name: whole, jq: 'if .n == 3 then error(\"no\") else . end', on_error: stop }\n"
    datas = [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}]
    assert await results(recompute(project, steps), datas) == [
        ("delivered", ("0", {"n": 1}, ["stdout"])),
        ("filtered", "odd"),
        ("stopped", "whole"),
        ("delivered", ("3", {"n": 4}, ["stdout"])),
    ]


ASKS = "def ask(data):\n    raise AssertionError('a past event is computed without asking')\n"


def answer(data: Any, *made: Any, key: str | None = None, **changed: Any) -> dict[str, Any]:
    """What the journal keeps of an answer."""
    asked = data_digest(Event("0", "s", "t", raw=encode(data))) if key is None else key_digest(key)
    return {"asked": asked, "made": [{**changed, "data": each} for each in made]}


@pytest.mark.parametrize("effects", ["read", "write"])
@pytest.mark.parametrize("when", ["", ", when: .n > 1"])
async def test_steps_with_effects_are_given_the_answers_that_were_kept(project: Project, when: str, effects: str) -> None:
    (project.root / "recompute_steps.py").write_text(ASKS)
    steps = f"transforms:\n  - {{ name: ask, python: 'recompute_steps:ask', effects: {effects}{when} }}\n"
    failed = {"asked": answer({"n": 4})["asked"], "error": {"code": "pay.declined", "message": "no money"}}
    kept = [
        line({"n": 1}, identity="0"),
        line({"n": 2}, identity="1", answers={"ask": [answer({"n": 2}, {"rate": 1.5}, type="rated")], "other": []}),
        line({"n": 3}, identity="2", answers={"ask": [answer({"n": 3}, [3], None)]}),
        line({"n": 4}, identity="3", answers={"ask": [failed]}),
        line({"n": 5}, identity="4", answers={"ask": [answer({"n": 5})]}),
        line({"n": 6}, identity="5", answers={"ask": [answer({"n": 7}, {})]}),
    ]
    made = await recompute(project, steps).run(kept)
    outcomes = [(result.outcome, result.step) for result in made.results()]
    first = ("delivered", None) if when else ("unanswered", "ask")
    rest = [("delivered", None), ("delivered", None), ("dead_lettered", "ask"), ("filtered", "ask"), ("unanswered", "ask")]
    assert outcomes == [first, *rest]
    events = [(event.id, event.type, event.data) for event in made.outputs if event.origin]
    assert events == [("1", "rated", {"rate": 1.5}), ("2-0", "file.record", [3]), ("2-1", "file.record", None)]
    assert made.tally.failures[3].error.code == "pay.declined"


async def test_parts_of_an_event_are_given_their_own_answers(project: Project) -> None:
    (project.root / "recompute_steps.py").write_text(ASKS)
    steps = "transforms:\n  - jq: 'range(.k) | {i: .}'\n  - { name: ask, python: 'recompute_steps:ask', effects: write"
    steps += ", idempotency_key: .i % 2 }\n"
    answers = [answer(None, {"at": at}, key=key) for at, key in [("a", "0"), ("b", "1"), ("c", "0")]]
    made = await recompute(project, steps).run([line({"k": 3}, answers={"ask": answers})])
    assert [(event.id, event.data) for event in made.outputs] == [
        ("0-1-0", {"at": "a"}),
        ("0-1-1", {"at": "b"}),
        ("0-1-2", {"at": "c"}),
    ]


def test_lines_of_one_moment_go_together() -> None:
    later = AT.replace("12:", "13:")
    lines = [line(1), line(2, corrects="0-1"), line(3), line(4, at=later), line(5, at=later, version="1" * 16), line(6, at=later)]
    groups = [[recorded.received().data for recorded in group] for group in alike(lines)]
    assert groups == [[1, 3], [4], [5], [6]]
    assert [len(group) for group in alike([line(n) for n in range(5)], 2)] == [2, 2, 1]
