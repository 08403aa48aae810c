"""`pipe test` and `pipe try`: one event, step by step, without state or sink."""

from __future__ import annotations

from pathlib import Path

from penstock.engine.embed import load
from penstock.engine.preview import run_test, try_event

TEXT = """
pipeline: shop
source: {{ file: {directory}/in.jsonl }}
transforms:
  - {{ name: half, jq: "{{total: (.price / 2)}}" }}
  - {{ name: check, jq: "if .total < 0 then error(\\"a negative total\\") else . end", on_error: stop }}
sink: drop
tests:
  - {{ name: three is 3.0, input: {{ data: {{ price: 6 }} }}, output: [{{ data: {{ total: 3.0 }} }}] }}
  - {{ name: another total, input: {{ data: {{ price: 6 }} }}, output: [{{ data: {{ total: 4 }} }}] }}
"""


def write(directory: Path) -> Path:
    file = directory / "shop.yaml"
    file.write_text(TEXT.format(directory=directory))
    return file


async def test_a_case_passes_where_numbers_are_equal_and_shows_the_difference_where_not(tmp_path: Path) -> None:
    pipeline = load(write(tmp_path))
    right, wrong = [await run_test(pipeline, case) for case in pipeline.tests]
    assert (right.passed, right.diff) == (True, "")
    assert not wrong.passed
    assert '-      "total": 4' in wrong.diff
    assert '+      "total": 3' in wrong.diff


async def test_a_step_that_would_stop_the_run_is_shown_with_what_led_there(tmp_path: Path) -> None:
    traces = await try_event(load(write(tmp_path)), {"price": -2})
    assert [trace.name for trace in traces] == ["event", "half", "check"]
    assert traces[1].outputs[0]["data"] == {"total": -1}
    assert traces[2].error is not None
    assert "a negative total" in str(traces[2].error)
