"""`pipe verify` of dead letters that were settled between a crash and the run that read their events again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_parts import crash_at
from verify_parts import gaps, state_of, verified

import penstock
from dlq.replay import replay
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.errors import PenstockError
from penstock.faults import Faults
from penstock.state.records import LetterQuery


def write(program: str) -> Pipeline:
    pipeline: dict[str, Any] = {
        "pipeline": "orders",
        "source": {"file": {"paths": ["in.jsonl"]}, "event": {"partition_key": ".k", "time": ".at"}},
        "transforms": [{"name": "check", "jq": program}],
        "sinks": [
            {"name": "table", "sqlite": {"path": "out.db", "table": "t", "create": True}},
            {"name": "all", "file": {"path": "out/all.jsonl"}},
        ],
        "dead_letter": {"lane": "park"},
    }
    Path("orders.yaml").write_text(json.dumps(pipeline))
    return penstock.load("orders.yaml")


def add(*numbers: int) -> None:
    with Path("in.jsonl").open("a") as file:
        file.writelines(json.dumps({"n": n, "k": "a" if n < 3 else "b", "at": "2026-01-01T00:00:00Z"}) + "\n" for n in numbers)


async def test_what_a_command_delivered_before_its_event_was_read_again_has_the_line_of_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    add(9)
    await penstock.run(write("."), once=True)
    add(0, 1, 2, 3)
    with pytest.raises(PenstockError, match="crashed at"):
        await penstock.run(write('if .n == 0 then error("odd") else . end'), once=True, faults=crash_at("between_ledgers"))
    pipeline = write(".")
    for _ in range(2):  # they stand from the first claim on
        await replay(pipeline, LetterQuery(status=("open",)), clock=SystemClock(), faults=Faults())
    counts = (await penstock.run(pipeline, once=True)).counts
    assert (counts.delivered, counts.dead_lettered) == (4, 0)
    assert gaps(await verified(pipeline, 0.0, 1e11)) == []
    with state_of(pipeline) as state:
        state.execute("UPDATE letters SET event_id = 'of-no-line'")
    assert {what.partition(" (")[2] for _, _, what in gaps(await verified(pipeline, 0.0, 1e11))} == {
        "resolved) has no line in the journal"
    }
