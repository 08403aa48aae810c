"""What is kept of a pipeline's version: everything that decides, and nothing that a variable or a file of secrets brought."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from config_parts import BASE, Project

CANARY = "canary-4711"
EVERYWHERE = """\
pipeline: p
source:
  file: { paths: ['${V}/*.jsonl'], max_record: '${SIZE}' }
  event: { type: '.${V}', partition_key: '"${V}"' }
validate: ${V:number}@1
dedup: { window: 1d, key: '.data["${V}"]' }
transforms:
  - name: ${S}
    jq: |
      {a: "${V} and $${V}"}
    set: { subject: '${V}' }
    when: .n != "${V}"
    retry: { max_attempts: '${N}' }
  - validate: ${V:number}@1
    on_invalid: ${I:drop}
  - redact: { fields: [.a], with: hash, key: '${V}' }
sink:
  file: out/${V}.jsonl
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    for subject in (CANARY, "other"):
        project.write(f"schemas/{subject}/1.json", "{}")
    return project


def variables(value: str = CANARY) -> dict[str, str]:
    return {"V": value, "N": "3", "SIZE": "1KiB", "S": "shape"}


def test_a_reference_is_kept_as_it_stands_in_the_file(project: Project) -> None:
    pipeline = project.load(EVERYWHERE, environment=variables())
    kept: dict[str, Any] = json.loads(pipeline.resolved)
    assert CANARY not in pipeline.resolved
    assert (kept["source"]["file"]["paths"], kept["source"]["file"]["max_record"]) == (["${V}/*.jsonl"], "${SIZE}")
    assert kept["source"]["event"] == {"type": ".${V}", "partition_key": '"${V}"'}
    assert kept["validate"] == {"schema": "${V:number}@1", "on_invalid": "dead_letter"}
    assert kept["dedup"] == {"window": "1d", "key": '.data["${V}"]'}
    shape, check, redact = kept["transforms"]
    assert shape == {
        "name": "${S}",
        "jq": {"program": '{a: "${V} and $${V}"}\n'},
        "when": '.n != "${V}"',
        "on_error": "dead_letter",
        "timeout": None,
        "retry": {**shape["retry"], "max_attempts": "${N}"},
        "set": {"subject": "${V}"},
    }
    assert check["validate"] == {"schema": "${V:number}@1", "on_invalid": "${I:drop}"}
    assert redact["redact"]["key"] == "***"
    assert kept["sinks"] == [{"name": "file", "file": {**kept["sinks"][0]["file"], "path": "out/${V}.jsonl"}, "when": None}]


def test_the_running_process_knows_the_values(project: Project) -> None:
    pipeline = project.load(EVERYWHERE, environment=variables())
    running = json.loads(pipeline.content)
    assert running["transforms"][0]["jq"]["program"] == f'{{a: "{CANARY} and ${{V}}"}}\n'
    assert pipeline.content not in repr(pipeline)


def test_another_value_in_a_plain_field_is_another_version_and_in_a_secret_one_is_not(project: Project) -> None:
    plain = BASE + "transforms: [{ jq: '{a: \"${V}\"}' }]\n"
    secret = BASE + "transforms: [{ redact: { fields: [.a], with: hash, key: '${V}' } }]\n"
    versions = [[project.load(text, environment=variables(v)).version for v in (CANARY, "other")] for text in (plain, secret)]
    assert [len(set(each)) for each in versions] == [2, 1]


def test_what_is_written_with_or_without_a_reference_is_one_version(project: Project) -> None:
    by_reference = project.load(EVERYWHERE, environment=variables())
    by_hand = EVERYWHERE.replace("${I:drop}", "drop").replace("${V:number}@1", f"{CANARY}@1").replace("${N}", "${N:3}")
    literal = project.load(by_hand, environment=variables())
    assert literal.version == by_reference.version
    assert literal.resolved != by_reference.resolved


def test_a_value_given_around_the_file_replaces_the_reference(project: Project) -> None:
    text = BASE.replace("a.jsonl", "'${V}.jsonl'")
    loaded = project.load(text, environment=variables(), overrides=["source.file=b.jsonl"])
    assert json.loads(loaded.resolved)["source"]["file"]["paths"] == ["b.jsonl"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (BASE + "transforms:\n  - jq: '{a: \"${file:s}\"}'\n", "p.yaml:5:9"),
        (BASE + 'transforms:\n  - jq: .a\n    when: .a != "${file:s}"\n', "p.yaml:6:11"),
        (BASE + "transforms:\n  - set: { subject: '${file:s}' }\n", "p.yaml:5:21"),
        (BASE + "dedup: { window: 1d, key: '.data[\"${file:s}\"]' }\n", "p.yaml:4:27"),
        (BASE.replace("a.jsonl", "'in/${file:s}'"), "p.yaml:2:16"),
        (BASE.replace("a.jsonl}", "a.jsonl, event: {subject: '${file:s}'}}"), "p.yaml:2:42"),
        (BASE.replace("stdout", "{file: 'out/${file:s}.jsonl'}"), "p.yaml:3:14"),
        (BASE.replace("stdout", "{stdout: , name: '${file:s}'}"), "p.yaml:3:24"),
    ],
)
def test_a_file_of_secrets_may_not_fill_a_field_that_is_none(project: Project, text: str, where: str) -> None:
    project.write("s", CANARY)
    [problem] = project.problems(text)
    assert (problem.code, str(problem.where)) == ("config.secret_in_plain_field", where)
    assert CANARY not in problem.render()


def test_a_variable_called_like_a_secret_is_warned_of_where_a_field_is_for_none(project: Project) -> None:
    text = BASE + "transforms:\n  - jq: '{a: \"${API_TOKEN} ${PARTITION_KEY} ${compass}\"}'\n"
    text += "  - redact: { fields: [.a], with: hash, key: '${DB_PASSWORD}' }\n"
    names = dict.fromkeys(("API_TOKEN", "DB_PASSWORD", "PARTITION_KEY", "compass"), CANARY)
    assert project.load(text, environment=names).warnings == [
        "${API_TOKEN} is called like a secret, and transforms[0].jq is for none: what it holds may show"
    ]


def test_a_file_fills_secret_fields_and_what_is_not_kept(project: Project) -> None:
    project.write("s", "x" * 20)
    project.write("n", "2")
    text = BASE + "description: ${file:s}\nworkers: ${file:n}\n"
    text += "transforms: [{ redact: { fields: [.a], with: hash, key: '${file:s}' } }]\n"
    pipeline = project.load(text)
    assert (pipeline.description, pipeline.workers) == ("x" * 20, 2)
    assert "x" * 20 not in pipeline.resolved
