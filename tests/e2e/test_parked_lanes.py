"""`pipe run` and `pipe dlq` over parked lanes and retries, as people see them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from process_parts import output, pipe

PIPELINE: dict[str, Any] = {
    "pipeline": "orders",
    "source": {"file": {"paths": ["in.jsonl"]}, "event": {"partition_key": ".k"}},
    "transforms": [{"name": "check", "jq": 'if .ok then . else error("not ok") end'}],
    "sink": {"sqlite": {"path": "out.db", "table": "orders", "create": True}},
    "dead_letter": {"lane": "park", "retry": ["1h"]},
    "pause_after": 3,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "orders.yaml").write_text(json.dumps(PIPELINE))
    return tmp_path


def add(project: Path, *records: tuple[int, str, bool]) -> None:
    with (project / "in.jsonl").open("a") as file:
        file.writelines(json.dumps({"n": n, "k": key, "ok": ok}) + "\n" for n, key, ok in records)


def rows(project: Path) -> list[int]:
    with closing(sqlite3.connect(project / "out.db")) as database:
        return [n for (n,) in database.execute("SELECT n FROM orders ORDER BY rowid")]


def mend(project: Path) -> None:
    pipeline = {**PIPELINE, "transforms": [{"name": "check", "jq": "."}]}
    (project / "orders.yaml").write_text(json.dumps(pipeline))


def test_a_parked_lane_is_shown_with_its_head_and_released_when_somebody_hurries_its_retry(project: Path) -> None:
    add(project, (0, "a", False), (1, "b", True), (2, "a", True), (3, "a", True))
    output(project, "run", "--once", "orders.yaml")
    assert rows(project) == [1]
    status = json.loads(output(project, "status", "orders", "--json"))["items"][0]
    assert status["dead_letters"] == {"open": 1, "parked": 2}
    assert (status["parked"]["lanes"], status["parked"]["longest"][0]["behind"]) == (1, 2)
    assert status["retries"]["waiting"] == 1
    shown = output(project, "status", "orders")
    assert "1 lane parked" in shown
    assert "1 wait for a retry, the next in" in shown
    listed = json.loads(output(project, "dlq", "ls", "orders", "--json"))["items"]
    assert [(letter["status"], letter["lane"], letter["next_retry_at"] is not None) for letter in listed] == [
        ("open", "a", True), ("parked", "a", False), ("parked", "a", False),
    ]  # fmt: skip
    head = next(letter["id"] for letter in listed if letter["status"] == "open")
    shown = output(project, "dlq", "show", head)
    assert "next retry" in shown
    assert "a  (held by this one, 2 behind it)" in shown
    behind = json.loads(output(project, "dlq", "show", listed[1]["id"], "--json"))
    assert behind["held_lane"] == {"head": head, "behind": 2}
    assert "1 lane parked" in output(project, "dlq", "stats", "orders")
    assert "lane.parked" in output(project, "dlq", "groups", "orders")

    assert "it was parked behind another one of its lane" in output(project, "explain", listed[1]["event"]["id"])

    mend(project)
    output(project, "dlq", "replay", "orders.yaml", "--now")
    assert rows(project) == [1, 0, 2, 3]
    output(project, "dlq", "replay", "orders.yaml", "--now", "--all", status=2)


def test_a_run_that_pauses_itself_says_why_and_is_resumed(project: Path) -> None:
    add(project, *((n, f"k{n}", False) for n in range(5)))
    output(project, "run", "--once", "orders.yaml")
    assert "5 events in a row failed, the last in check" in output(project, "status", "orders")
    mend(project)
    add(project, (9, "z", True))
    output(project, "run", "--once", "orders.yaml")
    output(project, "resume", "orders")
    output(project, "run", "--once", "orders.yaml")
    assert rows(project) == [9]


def test_a_schedule_of_retries_that_could_put_older_rows_over_newer_ones_does_not_start(project: Path) -> None:
    add(project, (0, "a", True))
    keyed = {"sqlite": {"path": "out.db", "table": "orders", "create": True, "key": ["k"]}}
    orders = {**PIPELINE, "sink": keyed, "dead_letter": {"retry": ["1h"]}}
    (project / "orders.yaml").write_text(json.dumps(orders))
    status, _, said = pipe(project, "run", "--once", "orders.yaml")
    assert (status, "sink.overwrites" in said) == (3, True)
    assert not (project / "out.db").exists()
    (project / "orders.yaml").write_text(json.dumps({**orders, "dead_letter": {"retry": ["1h"], "lane": "park"}}))
    output(project, "run", "--once", "orders.yaml")
    assert rows(project) == [0]
