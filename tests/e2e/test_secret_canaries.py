"""What variables and files of secrets bring into a pipeline is found in nothing that it leaves: state, logs, listings, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input_parts import Project

KEY, FROM_FILE, PLAIN = "canary-key-0815", "canary-file-4711-long", "canary-plain-1138"
PIPELINE = """\
source: { file: in.jsonl, event: { type: order } }
dedup: { window: 1d, key: 'if .data.name == "${PLAIN}" then 0 else .data.n end' }
transforms:
  - name: check
    jq: 'if .password == "${PLAIN}" or .n == 2 then error("refused") else . end'
  - name: hide
    redact: { fields: [.card], with: hash, key: '${KEY}' }
  - name: hide-too
    redact: { fields: [.name], with: hash, key: '${file:secrets/key}' }
    when: .name != "${PLAIN}"
  - name: shape
    jq: '{ n, card, name }'
sinks:
  - sqlite: { path: out.db, table: t, key: [n], create: true }
  - file: out.jsonl
    when: .n != "${PLAIN}"
"""
ABOUT = [
    ("lint", "orders.yaml", "--json"),
    ("status", "--json"),
    ("status",),
    ("checkpoint", "show", "orders.yaml"),
    ("dlq", "groups", "--json"),
    ("dlq", "ls", "--status", "any"),
    ("dlq", "ls", "--status", "any", "--json"),
    ("dlq", "export", "--status", "any"),
    ("run", "--once", "--dry-run", "orders.yaml"),
    ("run", "--once", "--json", "--log-level", "debug", "--set", "workers=1", "orders.yaml"),
]
MISTAKEN = [
    ("source.file.format=${PLAIN}", "config.invalid_value"),
    ("transforms[0].jq=.a | ${PLAIN}(", "jq.syntax"),
]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.pipeline(PIPELINE)
    project.write("secrets/key", FROM_FILE.encode())
    letters = [json.dumps({"n": n, "card": "4111", "name": "Ada", "password": "guess"}).encode() for n in range(3)]
    project.write("in.jsonl", *letters, b'{"n": 3, "card": 5', b'{"n": 4, "card": [1], "name": {}, "password": 1}')
    return project


def said(project: Project, *arguments: str) -> tuple[int, str]:
    status, out, err = project.call(*arguments, KEY=KEY, PLAIN=PLAIN)
    return status, out + err


def canaries(text: str | bytes) -> list[str]:
    content = text if isinstance(text, bytes) else text.encode()
    return [canary for canary in (KEY, FROM_FILE, PLAIN) if canary.encode() in content]


def test_no_secret_is_in_anything_that_a_pipeline_leaves_or_says(project: Project) -> None:
    status, text = said(project, "run", "--once", "--log-level", "debug", "orders.yaml")
    assert (status, "dead-lettered 2;" in text, canaries(text)) == (0, True, [])

    for arguments in ABOUT:
        status, text = said(project, *arguments)
        assert (arguments, status, canaries(text)) == (arguments, 0, [])

    files = [file for file in project.root.rglob("*") if file.is_file() and file != project.root / "secrets/key"]
    assert {file.name for file in files} >= {"orders.db", "out.db", "out.jsonl"}
    assert [(file.name, found) for file in files if (found := canaries(file.read_bytes()))] == []


@pytest.mark.parametrize(("mistake", "code"), MISTAKEN)
def test_no_secret_is_in_an_error_of_the_configuration(project: Project, mistake: str, code: str) -> None:
    path, _, value = mistake.partition("=")
    status, text = said(project, "lint", "orders.yaml", "--set", f"{path}={value.replace('${PLAIN}', PLAIN)}")
    assert (status, code in text, canaries(text)) == (2, True, [])


def test_the_version_keeps_the_references(project: Project) -> None:
    assert said(project, "run", "--once", "orders.yaml")[0] == 0
    [(text,)] = project.rows("SELECT config FROM versions", ".penstock/orders.db")
    kept = json.loads(text)
    assert kept["transforms"][0]["jq"]["program"] == 'if .password == "${PLAIN}" or .n == 2 then error("refused") else . end'
    assert [kept["transforms"][n]["redact"]["key"] for n in (1, 2)] == ["***", "***"]
    assert kept["transforms"][2]["when"] == '.name != "${PLAIN}"'
    assert kept["sinks"][1]["when"] == '.n != "${PLAIN}"'
