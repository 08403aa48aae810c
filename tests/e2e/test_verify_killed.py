"""`pipe verify` where a run was killed amid a commit: what stands is accounted for, and nothing else is missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bad_input_parts import Project

PIPELINE = """\
source:
  file: { paths: [in.jsonl] }
  event: { time: .at }
batching: { count: 10 }
limits: { rate: 400/s }
transforms:
  - { name: wanted, filter: .n % 10 != 3 }
  - { name: total, jq: 'if .n % 10 == 4 then error("four") else {id: .n, gone: false} end' }
  - { name: removal, when: .id % 10 == 9 and .id > 20, jq: '{id: (.id % 27), gone: true}' }
sinks:
  - { name: table, sqlite: { path: out.db, table: t, key: [id], create: true, delete: .gone } }
  - { name: lines, file: { path: out.jsonl } }
"""
POINTS = ("after_journal", "mid_dead_letters", "between_ledgers", "before_note", "after_note")


def verified(project: Project) -> tuple[int, dict[str, Any]]:
    status, out, said = project.call("verify", "orders.yaml", "--from", "2026-03-01", "--to", "2026-03-02", "--json")
    assert status in (0, 4), said
    return status, json.loads(out)


@pytest.mark.parametrize("point", POINTS)
def test_behind_a_run_that_was_killed_nothing_is_missed(tmp_path: Path, point: str) -> None:
    project = Project(tmp_path)
    project.write("in.jsonl", *(b'{"n":%d,"at":"2026-03-01T00:%02d:00Z"}' % (n, n % 60) for n in range(200)))
    project.pipeline(PIPELINE)
    assert project.call("run", "--once", "orders.yaml", PENSTOCK_FAULT=f"{point}:2:kill")[0] == -9
    status, report = verified(project)
    assert (status, report["named"]) == (0, [])
    source = report["source"]
    assert source["events"] == 200 == source["journalled"] + source["not_read_yet"]
    assert source["not_read_yet"] > 0
    assert project.call("run", "--once", "orders.yaml")[0] == 0
    status, report = verified(project)
    assert (status, report["named"], report["source"]["journalled"]) == (0, [], 200)
    assert report["dead_letters"]["open"] == report["journal"]["dead_lettered"] == 20
