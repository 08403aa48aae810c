"""Shadows of changed pipelines: exactly what was planted is found, and nothing else."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from backfill_parts import BEGAN, STEPS, report_of, run_shop, write_shop

import penstock

OUTPUTS = ["", "journal: { outputs: full }\n", 'journal: { outputs: "off" }\n']

pytestmark = pytest.mark.usefixtures("here")


def compared(report: dict[str, Any]) -> tuple[int, int, int, int]:
    found = report["comparison"]
    return found["identical"], found["changed"], found["missing"], found["extra"]


def causes(report: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(cause["path"], cause["kind"], cause["count"]) for cause in report["comparison"]["causes"]]


@pytest.mark.parametrize("outputs", OUTPUTS)
async def test_the_same_pipeline_is_clean(tmp_path: Path, outputs: str) -> None:
    pipeline = await run_shop(tmp_path, more=outputs)
    report = await report_of(pipeline, "shadow")
    assert (report["verdict"], compared(report), causes(report)) == ("clean", (896, 0, 0, 0), [])
    assert report["comparison"]["outcomes"] == [
        {"before": "dead_lettered", "after": "dead_lettered", "events": 4},
        {"before": "delivered", "after": "delivered", "events": 896},
        {"before": "filtered", "after": "filtered", "events": 100},
    ]


@pytest.mark.parametrize("outputs", OUTPUTS)
async def test_other_words_for_the_same_are_no_difference(tmp_path: Path, outputs: str) -> None:
    await run_shop(tmp_path, more=outputs)
    other = STEPS.replace("{id: .n, total: (.n * 2), who: .who}", "{who: .who, total: (.n * 2.0), id: (.n + 0.0)}")
    report = await report_of(write_shop(tmp_path, other, outputs), "shadow")
    assert (report["verdict"], compared(report)) == ("clean", (896, 0, 0, 0))


@pytest.mark.parametrize("outputs", OUTPUTS)
async def test_planted_differences_are_found_exactly(tmp_path: Path, outputs: str) -> None:
    await run_shop(tmp_path, more=outputs)
    changed = (
        STEPS.replace(".n % 10 != 3", ".n % 10 != 3 and .n != 500 or .n == 13")
        .replace("total: (.n * 2)", "total: (if .n % 100 == 1 then .n * 2 + 0.5 else .n * 2 end)")
        .replace("who: .who", "who: (if .n == 77 then null else .who end)")
    )
    report = await report_of(write_shop(tmp_path, changed, outputs), "shadow")
    assert report["verdict"] == "different"
    assert compared(report) == (896 - 1 - 10 - 1, 11, 1, 1)
    assert causes(report) == [
        (".data.total", "changed", 10),
        ("(output)", "added", 1),
        ("(output)", "removed", 1),
        (".data.who", "type", 1),
    ]
    (total, added, removed, who) = (cause["examples"] for cause in report["comparison"]["causes"])
    assert {example["event"] for example in who} == {identity(tmp_path, 77)}
    assert {example["event"] for example in removed} == {identity(tmp_path, 500)}
    assert {example["event"] for example in added} == {identity(tmp_path, 13)}
    assert total[-1] == {"event": identity(tmp_path, 901), "before": "1802", "after": "1802.5"} or len(total) == 3
    moved = [row for row in report["comparison"]["outcomes"] if row["before"] != row["after"]]
    assert moved == [
        {"before": "delivered", "after": "filtered", "events": 1},
        {"before": "filtered", "after": "delivered", "events": 1},
    ]


def identity(project: Path, number: int) -> str:
    """The id that the source gives event `number`."""
    lines = (project / "in.jsonl").read_bytes().splitlines(keepends=True)
    return f"0-{sum(map(len, lines[:number]))}"


async def test_a_failure_that_comes_or_goes_is_a_difference(tmp_path: Path) -> None:
    await run_shop(tmp_path)
    report = await report_of(
        write_shop(tmp_path, STEPS.replace("total: (.n * 2)", "total: (.n * 2 - 4)")), "shadow", ignore=[".data"]
    )
    assert [(row["before"], row["after"], row["events"]) for row in report["comparison"]["outcomes"]] == [
        ("dead_lettered", "dead_lettered", 2),
        ("dead_lettered", "delivered", 2),
        ("delivered", "delivered", 896),
        ("filtered", "filtered", 100),
    ]
    assert causes(report) == [("(failure)", "changed", 2), ("(output)", "added", 2)]


@pytest.mark.parametrize("outputs", OUTPUTS)
async def test_a_sink_that_takes_other_outputs_is_a_difference(tmp_path: Path, outputs: str) -> None:
    await run_shop(tmp_path, more=outputs)
    file = tmp_path / "shop.yaml"
    file.write_text(file.read_text().replace(".id % 2 == 0", ".id % 2 == 0 and .id != 500"))
    report = await report_of(penstock.load(file), "shadow")
    assert causes(report) == [(".sinks.even", "removed", 1)]


async def test_ignored_places_and_the_filter_narrow_it(tmp_path: Path) -> None:
    await run_shop(tmp_path)
    changed = write_shop(tmp_path, STEPS.replace("total: (.n * 2)", "total: (.n * 2 + 1)"))
    assert (await report_of(changed, "shadow", ignore=[".data.total"]))["comparison"]["changed"] == 0
    report = await report_of(changed, "shadow", filter=".data.n < 100")
    assert (report["left_out"], report["comparison"]["events"], compared(report)) == (900, 100, (0, 90, 0, 0))


async def test_the_range_is_half_open_over_event_time(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path)
    report = await report_of(pipeline, "shadow", start=BEGAN + 60, end=BEGAN + 120)
    assert (report["read"], report["comparison"]["events"]) == (1, 1)
    assert (await report_of(pipeline, "shadow", start=BEGAN - 60, end=BEGAN))["verdict"] == "nothing"


async def test_several_processes_find_the_same(tmp_path: Path) -> None:
    await run_shop(tmp_path)
    changed = write_shop(tmp_path, STEPS.replace("total: (.n * 2)", "total: (.n * 2 + 1)"))
    here, there = [await report_of(changed, "shadow", concurrency=size) for size in (0, 2)]
    assert here["comparison"] == there["comparison"]


async def test_a_version_that_cannot_be_run_again_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    steps = STEPS + "  - { name: grade, python: backfilled_steps:grade }\n"
    (tmp_path / "backfilled_steps.py").write_text("def grade(data):\n    return {**data, 'grade': 1}\n")
    await run_shop(tmp_path, steps)
    (tmp_path / "backfilled_steps.py").write_text("def grade(data):\n    return {**data, 'grade': 2}\n")
    report = await report_of(write_shop(tmp_path, steps), "shadow", concurrency=1)
    assert report["verdict"] == "different"
    assert report["unlike"] == {"the code of step grade has changed since": 896}


async def test_an_event_of_a_version_that_is_not_stored_is_not_compared(tmp_path: Path) -> None:
    await run_shop(tmp_path)
    with sqlite3.connect(tmp_path / ".penstock" / "shop.db") as database:
        database.execute("DELETE FROM versions")
    changed = write_shop(tmp_path, STEPS.replace("total: (.n * 2)", "total: (if .n == 1 then 0 else .n * 2 end)"))
    report = await report_of(changed, "shadow")
    (why,) = report["unlike"]
    assert why.endswith("is not stored")
    assert (report["unlike"][why], compared(report)) == (5, (895, 0, 0, 0))
