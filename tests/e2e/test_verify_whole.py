"""`pipe verify` over a pipeline that went through everything: failures in steps and at a sink, repetitions, SIGKILL in the
middle, replays, a live backfill to a new sink. At every moment every event is accounted for; what is planted is named."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bad_input_parts import Project
from waiting import until

EVENTS = 1000
RANGE = ("--from", "2026-03-01", "--to", "2026-04-01")
PIPELINE = """\
source:
  file: { paths: [in.jsonl], follow: true }
  event: { type: order, time: .at }
dedup: { key: .data.n, window: 1d }
batching: { count: 20 }
limits: { rate: 400/s }
transforms:
  - { name: wanted, filter: .n % 10 != 3 }
  - { name: checked, validate: order@1 }
  - { name: total, jq: '{id: .n, total: (.n * 2), size: .size}' }
sinks:
  - { name: table, sqlite: { path: out.db, table: t, key: [id], create: true } }
  - { name: lines, file: { path: out.jsonl } }
"""
SCHEMA = '{"properties": {"size": {"maximum": 8}}}'
NEW = "  - { name: fresh, file: { path: fresh.jsonl } }\n"
TRIGGER = "CREATE TRIGGER refuses BEFORE INSERT ON t WHEN new.id % 50 = 7 BEGIN SELECT RAISE(ABORT, 'no sevens'); END"


def record(n: int, at: int | None = None) -> bytes:
    moment = n if at is None else at
    return b'{"n":%d,"size":%d,"at":"2026-03-01T%02d:%02d:00Z"}' % (n, n % 10, moment // 60 % 24, moment % 60)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.write("schemas/order/1.json", SCHEMA.encode())
    project.write("schemas/order/2.json", b"{}")
    records = [record(n) for n in range(EVENTS)]
    for n in range(100, EVENTS, 100):  # repetitions
        records.insert(n, record(n - 50, n))
    records.insert(500, b"no json")
    project.write("in.jsonl", *records)
    project.pipeline(PIPELINE)
    with closing(sqlite3.connect(project.root / "out.db")) as database:
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, total INTEGER, size INTEGER)")
        database.execute(TRIGGER)
    return project


def verified(project: Project) -> dict[str, Any]:
    """The report; what has no time was received today."""
    status, out, said = project.call("verify", "orders.yaml", "--from", "2026-03-01", "--to", "2100-01-01", "--json")
    assert status in (0, 4), said
    report: dict[str, Any] = json.loads(out)
    assert report["accounted"] == (status == 0)
    return report


def rows(project: Project) -> int:
    with closing(sqlite3.connect(project.root / "out.db", timeout=20)) as database:
        return int(database.execute("SELECT count(*) FROM t").fetchone()[0])


@pytest.mark.timeout(300)
def test_whatever_happened_every_event_is_accounted_for(project: Project) -> None:
    for reached in (150, 500):
        run = project.pipe("run", "orders.yaml")
        until(lambda n=reached: rows(project) >= n, run)  # type: ignore[misc]  # called at once
        assert verified(project)["named"] == [], "beside the live run"
        run.kill()
        run.communicate()
        assert verified(project)["named"] == [], "behind a run that was killed"
    text = (project.root / "orders.yaml").read_text()
    (project.root / "orders.yaml").write_text(text.replace(", follow: true", ""))
    status, _, said = project.call("run", "--once", "orders.yaml")
    assert status == 0, said
    report = verified(project)
    assert report["named"] == []
    counted = report["journal"]
    whole = EVENTS + EVENTS // 100
    assert (counted["events"], report["source"]["journalled"], report["source"]["not_read_yet"]) == (whole, whole, 0)
    assert counted["deduplicated"] == EVENTS // 100 - 1
    assert counted["dead_lettered"] == report["dead_letters"]["open"] == EVENTS // 10 + EVENTS // 50 + 1
    replays_and_backfill(project, report)


def replays_and_backfill(project: Project, before: dict[str, Any]) -> None:
    with closing(sqlite3.connect(project.root / "out.db")) as database:
        database.execute("DROP TRIGGER refuses")
    text = (project.root / "orders.yaml").read_text().replace("order@1", "order@2")
    (project.root / "orders.yaml").write_text(text + NEW)
    status, _, said = project.call("dlq", "replay", "orders.yaml", "--all", "--overwrite")
    assert "failed again" in said or status == 0, said
    report = verified(project)
    assert report["named"] == []
    assert report["journal"]["dead_lettered"] == 1
    assert report["journal"]["delivered"] == before["journal"]["delivered"] + EVENTS // 10 + EVENTS // 50
    slow = project.pipe("backfill", "orders.yaml", *RANGE, "--mode", "live", "--sink", "fresh", "--rate", "500/s")
    until(lambda: (project.root / "fresh.jsonl").exists() and len(project.lines("fresh.jsonl")) > 200, slow)
    slow.kill()
    slow.communicate()
    assert verified(project)["named"] == []
    status, _, said = project.call("run", "--once", "orders.yaml")
    assert status == 0, said
    report = verified(project)
    assert report["named"] == []
    sinks = {sink["name"]: (sink["outputs"], sum(sink["left_out"].values())) for sink in report["sinks"]}
    delivered = report["journal"]["delivered"]
    assert {name: sum(counts) for name, counts in sinks.items()} == dict.fromkeys(("table", "lines", "fresh"), delivered)
    plant(project)


def plant(project: Project) -> None:
    with closing(sqlite3.connect(project.root / "out.db")) as database:
        database.execute("DELETE FROM t WHERE id = 42")
        database.commit()
    path = project.root / "fresh.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in project.lines("fresh.jsonl") if not line.startswith(b'{"id":544,')))
    with closing(sqlite3.connect(project.root / ".penstock/orders.db", isolation_level=None)) as database:
        database.execute("DELETE FROM letters WHERE status = 'open'")
    status, out, _ = project.call("verify", "orders.yaml", "--from", "2026-03-01", "--to", "2100-01-01")
    assert status == 4
    assert out.splitlines()[-1] == "3 gaps: not every event is accounted for"
    records = project.input()
    places = {n: sum(len(line) + 1 for line in records[: records.index(record(n))]) for n in (42, 544)}
    assert f"  table  0-{places[42]}: " in out
    assert f"  fresh  0-{places[544]}: " in out
    assert "  dead letters  0-" in out
    assert f"help: pipe explain 0-{places[42]} orders" in out
