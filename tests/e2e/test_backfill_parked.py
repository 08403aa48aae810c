"""`pipe backfill --mode live` of a pipeline that parks lanes, killed wherever it is, as people see it."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from process_parts import output

RANGE = ("--from", "2000-01-01", "--to", "2100-01-01", "--mode", "live", "--overwrite")
TABLE = {"name": "table", "sqlite": {"path": "out.db", "table": "orders", "create": True}}
FILE = {"name": "lines", "file": {"path": "lines.jsonl"}}
PIPELINE: dict[str, Any] = {
    "pipeline": "orders",
    "source": {"file": {"paths": ["in.jsonl"]}, "event": {"partition_key": ".k"}},
    "transforms": [{"name": "check", "jq": "."}],
    "sinks": [FILE],
    "dead_letter": {"lane": "park"},
    "batching": {"count": 4},
}
ODD = [{"name": "check", "jq": 'if .n == 2 then error("odd") else . end'}]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pipelines").mkdir()
    change(tmp_path)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"n": n, "k": "ab"[n % 2]}) + "\n" for n in range(12)))
    return tmp_path


def text_of(pipeline: dict[str, Any]) -> str:
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in pipeline.items())


def change(project: Path, **fields: Any) -> None:
    (project / "pipelines" / "orders.yaml").write_text(text_of({**PIPELINE, **fields}))


def rows(project: Path) -> list[int]:
    with closing(sqlite3.connect(project / "out.db")) as database:
        return [n for (n,) in database.execute("SELECT n FROM orders ORDER BY rowid")]


@pytest.mark.parametrize("point", ["after_journal", "before_job_commit", "between_ledgers", "before_job_note", "after_job_note"])
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_anywhere_each_lane_arrives_in_order_and_once(project: Path, point: str, nth: int) -> None:
    output(project, "run", "--once", "orders")
    change(project, transforms=ODD, sinks=[FILE, TABLE])
    output(project, "backfill", "orders", *RANGE, status=-signal.SIGKILL, PENSTOCK_FAULT=f"{point}:{nth}:kill")
    (job,) = json.loads(output(project, "backfill", "ls", "--json"))["items"]
    output(project, "backfill", "resume", job["id"], status=4)  # it made dead letters
    assert rows(project) == [0, 1, 3, 5, 7, 9, 11]
    letters = json.loads(output(project, "dlq", "ls", "orders", "--json"))["items"]
    assert sorted(letter["status"] for letter in letters) == ["open", "parked", "parked", "parked", "parked"]
    assert {letter["lane"] for letter in letters} == {"a"}
    assert f"job {job['id'][:10]}" in output(project, "dlq", "show", letters[0]["id"])
    change(project, sinks=[FILE, TABLE])
    output(project, "dlq", "replay", "orders", "--all")
    assert rows(project) == [0, 1, 3, 5, 7, 9, 11, 2, 4, 6, 8, 10]
    assert [json.loads(line)["n"] for line in (project / "lines.jsonl").read_text().splitlines()] == list(range(12))


def test_through_the_steps_of_a_stored_version_and_of_a_file(project: Path) -> None:
    output(project, "run", "--once", "orders")
    old = json.loads(output(project, "status", "orders", "--json"))["items"][0]["version"]
    change(project, transforms=[{"name": "check", "jq": ".n += 100"}], sinks=[FILE, TABLE])
    report = json.loads(output(project, "backfill", "orders", *RANGE, "--against", old[:12], "--redeliver", "--json"))
    assert (report["against"], report["version"], report["delivered"]) == (old[:12], old, 12)
    assert [json.loads(line)["n"] for line in (project / "lines.jsonl").read_text().splitlines()] == [*range(12), *range(12)]
    other = {**PIPELINE, "transforms": [{"name": "check", "jq": ".n += 50"}], "sinks": [TABLE]}
    (project / "next").mkdir()
    (project / "next" / "orders.yaml").write_text(text_of(other))
    report = json.loads(output(project, "backfill", "orders", *RANGE, "--against", "next/orders.yaml", "--json"))
    assert (report["delivered"], rows(project)) == (12, [n + 50 for n in range(12)])
    change(project, transforms=ODD)
    output(project, "backfill", "orders", *RANGE, "--against", "next/orders.yaml", status=2)
