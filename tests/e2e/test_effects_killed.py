"""A whole `pipe run` killed around the world's answer to a step with effects, and run again: the world was asked once for each
key, but for those whose answer had not reached the state store (rule 14)."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import pytest
from bad_input_parts import Project

from penstock.testing.journal_check import journal_findings
from penstock.testing.servers import Database

EVENTS = 40
STEPS = """\
import os

def charge(data, *, idempotency_key):
    world = os.open("world", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(world, idempotency_key.encode() + b"\\n")
    os.close(world)
    return {**data, "paid": True} if data["n"] % 7 else None
"""
PIPELINE = """\
source: {{ file: in.jsonl }}
transforms:
  - {{ name: charge, python: "killed_steps:charge", effects: write, idempotency_key: '"pay-\\(.n)"' }}
  - jq: '{{n, paid}}'
batching: {{ count: 5 }}
limits: {{ in_flight_events: 5 }}
{sink}{state}"""
SINKS = {
    "file": "sink: { file: out.jsonl }\n",
    "table": "sink: { sqlite: { path: out.db, table: t, key: [n], create: true } }\n",
    "both": "sinks:\n  - file: out.jsonl\n  - sqlite: { path: out.db, table: t, key: [n], create: true }\n",
}
KEYS = [f"pay-{n}" for n in range(EVENTS)]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.write("in.jsonl", *(b'{"n":%d}' % n for n in range(EVENTS)))
    (tmp_path / "killed_steps.py").write_text(STEPS)
    return made


@pytest.fixture(params=["sqlite", "postgres"])
def state(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return ""
    database: Database = request.getfixturevalue("database")
    return f"state: '{database.dsn}'\n"


def run(project: Project, fault: str = "") -> int:
    arguments = ["run", "--once", *(["--wait"] if not fault else []), "orders.yaml"]
    return project.call(*arguments, **({"PENSTOCK_FAULT": fault} if fault else {}))[0]


def asked(project: Project) -> Counter[str]:
    return Counter((project.root / "world").read_text().split())


def delivered(project: Project, sink: str) -> list[int]:
    if sink == "table":
        return [n for (n,) in project.rows("SELECT n FROM t ORDER BY n", "out.db")]
    return [json.loads(line)["n"] for line in (project.root / "out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("sink", "fault"),
    [
        ("file", "after_answers:1:kill"),
        ("file", "after_answers:4:kill"),
        ("table", "before_sink_write:2:kill"),
        ("both", "after_journal:2:kill"),
        ("both", "between_ledgers:2:kill"),
        ("table", "before_note:2:kill"),
        ("file", "inside_commit:2:kill"),
        ("file", "after_note:2:kill"),
    ],
)
def test_no_key_is_asked_twice_whose_answer_had_been_kept(project: Project, state: str, sink: str, fault: str) -> None:
    """One batch is in flight at a time: none is at the world while another is committed."""
    project.pipeline(PIPELINE.format(sink=SINKS[sink], state=state))
    assert run(project, fault) == -signal.SIGKILL
    assert run(project) == 0
    assert asked(project) == Counter(KEYS)
    assert delivered(project, sink) == [n for n in range(EVENTS) if n % 7]
    assert run(project) == 0
    assert asked(project) == Counter(KEYS)


@pytest.mark.parametrize("nth", [1, 3])
def test_a_crash_between_the_worlds_answer_and_the_write_asks_that_batch_again(project: Project, state: str, nth: int) -> None:
    project.pipeline(PIPELINE.format(sink=SINKS["file"], state=state))
    assert run(project, f"before_answers:{nth}:kill") == -signal.SIGKILL
    assert run(project) == 0
    first = 5 * (nth - 1)
    assert asked(project) == Counter({f"pay-{n}": 2 if first <= n < first + 5 else 1 for n in range(EVENTS)})
    assert delivered(project, "file") == [n for n in range(EVENTS) if n % 7]


def test_whoever_looks_afterwards_asks_nothing_and_sees_the_same(project: Project) -> None:
    project.pipeline(PIPELINE.format(sink=SINKS["both"], state=""))
    assert run(project, "before_note:3:kill") == -signal.SIGKILL
    assert run(project) == 0
    before = asked(project)
    for arguments in (
        ["run", "--once", "--dry-run", "orders.yaml"],
        ["backfill", "orders.yaml", "--from", "2020-01-01", "--to", "2100-01-01", "--mode", "shadow", "--fail-on-diff"],
        ["backfill", "orders.yaml", "--from", "2020-01-01", "--to", "2100-01-01", "--mode", "dry_run"],
        ["explain", "0-0", "orders.yaml"],
    ):
        status, out, said = project.call(*arguments)
        assert status == 0, said
        assert "computed again, it differs" not in out
    assert asked(project) == before
    [(counts,)] = project.rows("SELECT counts FROM note", ".penstock/orders.db")
    assert journal_findings(project.root / ".penstock/journal/orders", json.loads(counts), []) == []
