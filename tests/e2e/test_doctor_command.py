"""`pipe doctor` as it is called: what it prints, what it ends with, and that it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import ORDERS
from doctor_parts import dsn_of, role_of
from process_parts import pipe

from penstock.testing.servers import Database

PIPELINE = """\
pipeline: {name}
source:
  postgres_cdc: {{ dsn: "{dsn}", tables: [orders], max_slot_lag: 10GiB }}
transforms:
  - filter: .id > 0
sinks:
  - name: table
    postgres: {{ dsn: "{dsn}", table: copies, key: [id] }}
  - name: lines
    file: {{ path: out/lines.jsonl }}
"""
TABLES = f"{ORDERS}; CREATE TABLE copies (id int PRIMARY KEY, status text, body text)"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pipelines").mkdir()
    return tmp_path


def written(project: Path, name: str, dsn: str) -> None:
    (project / f"pipelines/{name}.yaml").write_text(PIPELINE.format(name=name, dsn=dsn))


def doctor(project: Path, *arguments: str) -> tuple[int, str, str]:
    return pipe(project, "doctor", *arguments)


def parts(output: str) -> list[tuple[str, str, str]]:
    """Part, severity and code of everything that is not sound."""
    items: list[dict[str, Any]] = json.loads(output)["items"]
    return [(item["part"], item["severity"], item["code"]) for item in items if item["severity"] != "ok"]


def test_a_healthy_pipeline_has_nothing_to_mend_and_nothing_is_made(database: Database, project: Path) -> None:
    database.execute(TABLES)
    written(project, "shop", database.dsn)
    status, out, err = doctor(project)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("shop  ")
    assert [line.strip() for line in lines if line.startswith("  ") and line[2] != " "] == [
        "machine",
        "state  sqlite",
        "journal",
        "source  postgres_cdc",
        "transforms",
        "table  postgres",
        "lines  file",
    ]
    assert "    ✓ the slot penstock_shop is made at the first run" in lines
    assert lines[-1].startswith("✓ 1 pipeline: nothing to mend; ")
    assert [path.name for path in project.rglob("*")] == ["pipelines", "shop.yaml"]
    made = "SELECT (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'penstock%')"
    assert database.execute(made) == [(0, 0)]
    assert database.execute(f"SELECT count(*) FROM pg_replication_slots WHERE database = '{database.name}'") == [(0,)]


def test_a_broken_pipeline_is_told_what_mends_it(database: Database, project: Path) -> None:
    database.execute(ORDERS)
    with role_of(database) as role:
        written(project, "shop", dsn_of(database, role))
        status, out, _ = doctor(project, "shop")
        assert status == 4
        lines = out.splitlines()
        place = lines.index(f"    ✗ {role} may not replicate [source.no_replication]")
        assert lines[place + 1 : place + 3] == [
            "      why: the role lacks REPLICATION",
            f"      help: ALTER ROLE {role} REPLICATION",
        ]
        assert lines[-1].startswith("✗ 1 pipeline: 6 errors; ")
        status, out, _ = doctor(project, "shop", "--json")
    assert status == 4
    assert parts(out) == [
        ("source", "error", "source.no_replication"),
        ("source", "error", "source.no_select"),
        ("source", "error", "publication.may_not_create"),
        ("source", "error", "publication.may_not_create"),
        ("table", "error", "sink.missing_table"),
        ("table", "error", "sink.no_grant"),
    ]
    first = json.loads(out)["items"][0]
    assert set(first) == {"pipeline", "part", "kind", "severity", "code", "message", "why", "help"}


def test_a_server_that_is_not_there_is_a_finding_and_the_other_parts_are_told(database: Database, project: Path) -> None:
    database.execute(TABLES)
    written(project, "far", database.dsn_through(1))
    written(project, "near", database.dsn)
    status, out, err = doctor(project, "--json")
    assert (status, err) == (4, "")
    assert parts(out) == [("source", "error", "postgres.unreachable"), ("table", "error", "postgres.unreachable")]
    assert {item["pipeline"] for item in json.loads(out)["items"]} == {"far", "near"}
    assert database.server.password not in out


def test_a_file_with_mistakes_is_told_beside_pipelines_that_are_sound(database: Database, project: Path) -> None:
    database.execute(TABLES)
    written(project, "shop", database.dsn)
    (project / "pipelines/typo.yaml").write_text("pipeline: typo\nsource: { file: { pahts: x } }\nsink: stdout\n")
    status, out, _ = doctor(project, "--json")
    assert status == 2
    assert {(part, severity) for part, severity, _ in parts(out)} == {("file", "error")}
    assert "did you mean 'paths'?" in out


def test_files_that_are_missing_or_cannot_be_written(project: Path) -> None:
    (project / "in.jsonl").write_text("{}\n")
    (project / "pipelines/lines.yaml").write_text(
        "pipeline: lines\nsource: { file: { paths: [in.jsonl, gone.jsonl] } }\n"
        "sinks:\n  - file: { path: in.jsonl/out.jsonl }\n  - sqlite: { path: out.db, table: t }\n"
    )
    status, out, _ = doctor(project, "lines", "--json")
    assert status == 4
    assert parts(out) == [
        ("source", "error", "source.no_files"),
        ("file", "error", "sink.place"),
        ("sqlite", "error", "sink.missing_table"),
    ]


def test_without_pipelines_it_says_so(tmp_path: Path) -> None:
    assert doctor(tmp_path) == (0, "", "no pipelines here\n")
