"""A whole `pipe run` killed while it writes its journal, and run again: every event is in it exactly once, with its outcome."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bad_input_parts import Project

from penstock.journal.reader import EVER, JournalReader
from penstock.testing.journal_check import journal_findings, journal_lines

EVENTS = 60
RECORDS = [b'{"n":%d}' % n if n % 7 else b'{"n":%d' % n for n in range(EVENTS)]
STEPS = """\
source: { file: in.jsonl }
dedup: { window: 1d, key: .data.n % 50 }
transforms:
  - name: even
    filter: .n % 2 == 0 or .n > 20
batching: { count: 5 }
limits: { in_flight_events: 10 }
"""
SINKS = {
    "file": "sink: { file: out.jsonl }\n",
    "table": "sink: { sqlite: { path: out.db, table: t, key: [n], create: true } }\n",
    "both": "sinks:\n  - file: out.jsonl\n  - sqlite: { path: out.db, table: t, key: [n], create: true }\n",
}


def run(project: Project, fault: str = "") -> tuple[int, str]:
    status, _, said = project.call("run", "--once", "orders.yaml", **({"PENSTOCK_FAULT": fault} if fault else {}))
    return status, said


def findings(project: Project) -> list[str]:
    """What is wrong with the journal, judged by nothing of it but its bytes."""
    [(counts,)] = project.rows("SELECT counts FROM note", ".penstock/orders.db")
    letters = [row[0] for row in project.rows("SELECT id FROM letters", ".penstock/orders.db")]
    return journal_findings(project.root / ".penstock/journal/orders", json.loads(counts), letters)


def summary(project: Project) -> dict[str, Any]:
    """By event id, all that is said of it; at what time aside."""
    found = {}
    for record in JournalReader(project.root / ".penstock/journal/orders").range(*EVER):
        line = record.line
        found[line.received().id] = (line.outcome, line.step, line.letter, line.outputs, line.position, line.partition)
    return found


@pytest.mark.parametrize(
    ("sink", "faults"),
    [
        ("file", "inside_journal:1:kill"),
        ("table", "after_journal:1:kill"),
        ("both", "inside_journal:3:kill,after_journal:2:kill"),
    ],
)
def test_killed_in_its_journal_a_run_leaves_it_as_if_nothing_had_happened(tmp_path: Path, sink: str, faults: str) -> None:
    projects = []
    for name in ("calm", "struck"):
        (tmp_path / name).mkdir()
        project = Project(tmp_path / name)
        project.pipeline(STEPS + SINKS[sink])
        project.write("in.jsonl", *RECORDS)
        projects.append(project)
    calm, struck = projects
    assert run(calm)[0] == 0
    for fault in faults.split(","):
        assert run(struck, fault)[0] == -signal.SIGKILL
    status, err = run(struck)
    assert (status, "journal" in err) == (0, False), err
    assert (findings(calm), findings(struck)) == ([], [])
    assert summary(struck) == summary(calm)
    assert Counter(outcome for outcome, *_ in summary(calm).values()).keys() == {
        "delivered", "filtered", "deduplicated", "dead_lettered",
    }  # fmt: skip
    assert len(list(journal_lines(struck.root / ".penstock/journal/orders"))) == EVENTS


def test_a_tail_torn_by_the_crash_is_recovered(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.pipeline(STEPS + SINKS["table"])
    project.write("in.jsonl", *RECORDS)
    assert run(project, "after_journal:3:kill")[0] == -signal.SIGKILL
    segment = tmp_path / ".penstock/journal/orders/0000000001.jsonl.zst"
    os.truncate(segment, segment.stat().st_size - 5)
    assert run(project)[0] == 0
    assert findings(project) == []
    assert len(summary(project)) == EVENTS


def test_a_journal_that_was_taken_away_is_told_of_and_begun_anew(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.pipeline(STEPS + SINKS["table"])
    project.write("in.jsonl", *RECORDS)
    assert run(project)[0] == 0
    (tmp_path / ".penstock/journal/orders").rename(tmp_path / "elsewhere")
    with (tmp_path / "in.jsonl").open("ab") as file:
        file.write(b'{"n":1000}\n')
    status, err = run(project)
    assert (status, err.count("journal.other"), "is another one than the pipeline wrote last" in err) == (0, 1, True), err
    assert len(summary(project)) == 1
    status, err = run(project)
    assert (status, "journal" in err) == (0, False), err


def test_without_a_journal_none_is_kept(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.pipeline(STEPS + SINKS["file"] + "journal: off\n")
    project.write("in.jsonl", *RECORDS)
    assert run(project)[0] == 0
    assert not (tmp_path / ".penstock/journal").exists()
