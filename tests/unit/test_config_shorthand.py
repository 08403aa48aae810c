"""Fields set from around the file where it uses a short form: a bare name, a bare value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from config_parts import Project

FILE = """\
pipeline: p
source: { file: a.jsonl }
validate: number@1
transforms:
  - jq: .n
  - validate: number@1
sink: stdout
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    project.write("schemas/number/1.json", "{}")
    return project


@pytest.mark.parametrize(
    ("overrides", "place", "expected"),
    [
        (["source.file.format=csv"], ["source", "file", "format"], "csv"),
        (["source.file.format=csv"], ["source", "file", "paths"], ["a.jsonl"]),
        (["source.event.type=x"], ["source", "event", "type"], "x"),
        (["source=stdin", "source.stdin.format=text"], ["source", "stdin", "format"], "text"),
        (["source.file=b.jsonl", "source.file.format=csv"], ["source", "file", "paths"], ["b.jsonl"]),
        (["sink.stdout.format=cloudevents"], ["sinks", 0, "stdout", "format"], "cloudevents"),
        (["sink.name=out"], ["sinks", 0, "name"], "out"),
        (["validate.on_invalid=drop"], ["validate", "on_invalid"], "drop"),
        (["validate.on_invalid=drop"], ["validate", "schema"], "number@1"),
        (["transforms[0].jq.program=.m"], ["transforms", 0, "jq", "program"], ".m"),
        (["transforms.1.validate.on_invalid=stop"], ["transforms", 1, "validate", "on_invalid"], "stop"),
        (["transforms[1].on_invalid=stop"], ["transforms", 1, "validate", "on_invalid"], "stop"),
    ],
)
def test_an_override_reaches_into_a_short_form(
    project: Project, overrides: list[str], place: list[str | int], expected: object
) -> None:
    found: Any = json.loads(project.load(FILE, overrides=overrides).resolved)
    for part in place:
        found = found[part]
    assert found == expected


def test_a_mistake_in_what_was_written_out_is_shown_where_it_came_from(project: Project) -> None:
    assert project.found(FILE, overrides=["source.file.format=cvs", "sink.stdout.fromat=x"]) == [
        ("config.unknown_field", "--set sink.stdout.fromat"),
        ("config.invalid_value", "--set source.file.format"),
    ]
    mistaken = FILE.replace("file: a.jsonl", "file: 5")
    assert project.found(mistaken, overrides=["source.file.format=csv"]) == [("config.invalid_value", "p.yaml:2:17")]


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("source.file.paths.x=1", "source.file.paths at p.yaml:2:17 is no block of fields"),
        ("transforms[7].jq=.x", "transforms at p.yaml:5:3 is a list of 2, counted from 0"),
        ("pipeline.name=x", "pipeline at p.yaml:1:11 is no block of fields"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_stops(project: Project, override: str, why: str) -> None:
    [problem] = project.problems(FILE, overrides=[override])
    assert (problem.code, str(problem.where)) == ("config.bad_override", f"--set {override.partition('=')[0]}")
    assert problem.why == why
