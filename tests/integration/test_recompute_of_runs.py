"""Real runs, and every event of their journals computed again."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.engine.agreement import Agreement, agreement
from penstock.engine.recompute import Recompute, Recomputed, Result, alike
from penstock.engine.trace import trace
from penstock.journal.lines import Line
from penstock.journal.reader import JournalReader

PIPELINE = """\
pipeline: shop
source:
  file: { paths: [in.jsonl] }
  event: { type: order, subject: '.id | tostring', time: .at }
validate: order@1
dedup: { window: 1h, key: .data.id }
transforms:
  - { name: sold, filter: .n != 3 }
  - { name: lines, split: .items, when: .items != null }
  - { name: weigh, jq: 'if .n == 5 then error("too heavy") else . + {seen: now, big: .big} end' }
  - { name: grade, python: recomputed_steps:grade, on_error: skip }
  - { name: last, jq: '. + {graded: $steps.grade.grade}', set: { type: done } }
sinks:
  - { name: small, when: 'if .n == 7 then error("odd") else .n < 10 end', file: { path: out/small.jsonl } }
  - { name: even, when: .n % 2 == 0, file: { path: out/even.jsonl } }
"""
STEPS = """\
def grade(data):
    if data["n"] == 6:
        raise ValueError("no grade")
    return {**data, "grade": data["n"] * 2}
"""
AT = "2026-03-01T10:00:00Z"


def records() -> list[str]:
    """Of every fate, in an order that is always the same."""
    chance = random.Random(7)
    made = []
    for n in range(400):
        kind = chance.randrange(14)
        items = ', "items": [{"n": 1}, {"n": 2.50}, {"n": 30, "big": 1e2}]' if kind == 4 else ""
        made.append(f'{{"id": {n}, "at": "{AT}", "n": {kind}, "big": 9007199254740993{items}}}')
    made[10:10] = ["{oops", '{"id": 1000}', '{"id": 1001, "at": "yesterday", "n": 1}', made[0], f'{{"at": "{AT}", "n": 1}}']
    return made


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "recomputed_steps", raising=False)
    schema = tmp_path / "schemas" / "order"
    schema.mkdir(parents=True)
    (schema / "1.json").write_text('{"required": ["n"]}')
    (tmp_path / "recomputed_steps.py").write_text(STEPS)
    (tmp_path / "in.jsonl").write_text("\n".join(records()) + "\n")
    return tmp_path


def lines_of(project: Path) -> list[Line]:
    """The journal's lines; its corrections are those of the commit itself."""
    return [record.line for record in JournalReader(project / ".penstock" / "journal" / "shop").range(0.0, 1e11)]


async def recomputed(recompute: Recompute, lines: Sequence[Line]) -> list[tuple[Line, Recomputed, int, Result]]:
    found = []
    for batch in alike(lines, 100):
        made = await recompute.run(batch)
        found += [(line, made, n, result) for n, (line, result) in enumerate(zip(batch, made.results(), strict=True))]
    return found


def seen(project: Path, sinks: Sequence[str]) -> dict[str, list[Any]]:
    return {sink: (project / "out" / f"{sink}.jsonl").read_text().splitlines() for sink in sinks}


@pytest.mark.parametrize(
    "settings", ["", "workers: 2\n", "journal: { outputs: full }\n", "route: first\n", "batching: { count: 7 }\n"]
)
async def test_everything_comes_out_again_as_it_did(project: Path, settings: str) -> None:
    (project / "shop.yaml").write_text(PIPELINE + settings)
    pipeline = penstock.load("shop.yaml")
    summary = await penstock.run(pipeline, once=True)
    recompute = Recompute(pipeline)
    found = await recomputed(recompute, lines_of(project))
    verdicts = [agreement(*each) for each in found]
    assert [
        (line.received().raw, line.outcome, line.step, result.outcome, result.step, verdict)
        for (line, _, _, result), verdict in zip(found, verdicts, strict=True)
        if verdict.verdict == "different"
    ] == []
    repetition = Agreement("beyond", "it was a repetition, which a ledger knows, not the steps")
    assert [verdict for verdict in verdicts if verdict != Agreement("same")] == [repetition]
    counts = summary.counts
    outcomes = [line.outcome for line, *_ in found]
    assert len(found) == counts.received == 405
    assert outcomes.count("delivered") == counts.delivered > 100
    assert outcomes.count("filtered") == counts.filtered > 20
    assert outcomes.count("dead_lettered") == counts.dead_lettered > 30
    steps = {line.step for line, *_ in found if line.outcome == "dead_lettered"}
    assert steps == {"decode", "event", "validate", "dedup", "weigh", "small.when"}


async def test_outputs_are_those_that_were_delivered(project: Path) -> None:
    (project / "shop.yaml").write_text(PIPELINE)
    pipeline = penstock.load("shop.yaml")
    await penstock.run(pipeline, once=True)
    made: dict[str, list[str]] = {"small": [], "even": []}
    for line, _, _, result in await recomputed(Recompute(pipeline), lines_of(project)):
        for output in result.outputs if line.outcome == "delivered" else ():
            for sink in output.sinks:
                made[sink].append(output.event.json().decode())
    assert made == seen(project, ["small", "even"])
    exact = [text for text in made["small"] if '"big":9007199254740993' in text]
    assert len(exact) > 50
    assert not [text for text in made["small"] if "9007199254740992" in text]


async def test_one_event_step_by_step_ends_where_the_batch_ended(project: Path) -> None:
    (project / "shop.yaml").write_text(PIPELINE)
    pipeline = penstock.load("shop.yaml")
    await penstock.run(pipeline, once=True)
    lines = lines_of(project)
    recompute = Recompute(pipeline)
    for line, made, origin, result in await recomputed(recompute, lines):
        traced = await trace(recompute, line)
        assert (traced.result.outcome, traced.result.step) == (result.outcome, result.step)
        assert [o.event.json() for o in traced.result.outputs] == [o.event.json() for o in result.outputs]
        assert agreement(line, traced.made, 0, traced.result) == agreement(line, made, origin, result)


async def test_data_whose_text_is_spread_out_comes_out_the_same(project: Path) -> None:
    (project / "in.json").write_text('[ {\n  "n" :\r\n 1 }\t, { "n" : 9007199254740993 }  ]')
    (project / "shop.yaml").write_text("pipeline: shop\nsource: { file: { paths: [in.json], format: json } }\nsink: drop\n")
    pipeline = penstock.load("shop.yaml")
    await penstock.run(pipeline, once=True)
    found = await recomputed(Recompute(pipeline), lines_of(project))
    assert [agreement(*each) for each in found] == [Agreement("same")] * len(found)
    assert found
