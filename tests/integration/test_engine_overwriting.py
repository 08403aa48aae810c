"""Which sinks of a pipeline could put what is older over what is newer, and what a run says of events that were older."""

from __future__ import annotations

import json
import random
import sqlite3
from pathlib import Path

import pytest

import penstock
from penstock.clock import SystemClock
from penstock.engine.assemble import Surroundings, assemble
from penstock.engine.overwriting import overwrite_needed, overwriting_sinks, stale_of
from penstock.engine.run import Run, RunOptions
from penstock.faults import Faults

PIPELINE = """
pipeline: orders
source: { file: { paths: [in.jsonl] } }
sinks:
  - name: newest
    sqlite: { path: out.db, table: newest, key: [id], order_by: rev, delete: .gone, create: true }
  - name: latest
    sqlite: { path: out.db, table: latest, key: [id], columns: { id: .id, rev: .rev }, create: true }
  - name: first
    sqlite: { path: out.db, table: first, key: [id], on_conflict: ignore, columns: { id: .id, rev: .rev }, create: true }
  - name: every
    sqlite: { path: out.db, table: every, columns: { id: .id, rev: .rev }, create: true }
  - name: lines
    file: { path: out.jsonl }
"""
CHANGES = [(1, 5, False), (1, 4, False), (2, 1, False), (2, 3, True), (2, 2, False), (3, 1, False)]


def write(project: Path, monkeypatch: pytest.MonkeyPatch) -> penstock.Pipeline:
    monkeypatch.chdir(project)
    (project / "penstock.yaml").write_text("")
    (project / "orders.yaml").write_text(PIPELINE)
    rows = [{"id": id, "rev": rev, "gone": gone} for id, rev, gone in CHANGES]
    (project / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return penstock.load(project / "orders.yaml")


def test_those_that_replace_rows_without_an_order_are_named_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = write(tmp_path, monkeypatch)
    assembly = assemble(pipeline, Surroundings(SystemClock(), random.Random(1), Faults()))
    assert overwriting_sinks(assembly.sinks) == ["latest"]
    assert overwriting_sinks({"lines": assembly.sinks["lines"]}) == []
    assert stale_of(assembly.sinks) == {"newest": 0}
    error = overwrite_needed(["latest"])
    assert (error.code, error.message) == ("sink.overwrites", "older events could overwrite newer ones in sink latest")
    assert not (tmp_path / "out.db").exists()


async def test_a_run_counts_what_changed_nothing_as_delivered_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(write(tmp_path, monkeypatch), RunOptions(once=True))
    summary = await run.execute()
    assert (summary.counts.received, summary.counts.delivered) == (6, 6)
    assert summary.to_json()["sinks"] == {
        "newest": {"written": 6, "stale": 2},
        **{name: {"written": 6} for name in ("latest", "first", "every", "lines")},
    }
    assert run.status.stale() == {"newest": 2}
    db = sqlite3.connect(tmp_path / "out.db")
    found = {table: db.execute(f"SELECT id, rev FROM {table} ORDER BY id").fetchall() for table in ("newest", "latest", "first")}
    db.close()
    assert found == {"newest": [(1, 5), (3, 1)], "latest": [(1, 4), (2, 2), (3, 1)], "first": [(1, 5), (2, 1), (3, 1)]}
