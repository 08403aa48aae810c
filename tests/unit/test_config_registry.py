"""Where schemas are looked up: beside the pipeline file, or in the directory that the configuration names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from config_parts import BASE, Project

from penstock.config.lint import lint

STEP = "validate: number@1\n"
SCHEMA = '{"type": "object"}'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    for number, directory in enumerate(("schemas", "shared", "lib/of/ours", "mine"), 1):
        project.write(f"{directory}/number/1.json", json.dumps({"maxProperties": number}))
    return project


@pytest.mark.parametrize(
    ("project_file", "own", "environment", "overrides", "number"),
    [
        ("", "", {}, [], 1),
        ("registry: shared\n", "", {}, [], 2),
        ("registry: lib/of/ours/\n", "", {}, [], 3),
        ("registry: shared\n", "registry: mine\n", {}, [], 4),
        ("", "registry: mine\n", {"PENSTOCK_REGISTRY": "shared"}, [], 2),
        ("", "registry: mine\n", {"PENSTOCK_REGISTRY": "shared"}, ["registry=lib/of/ours"], 3),
        ("registry: ${WHERE}\n", "", {"WHERE": "mine"}, [], 4),
    ],
)
def test_schemas_come_from_the_directory_that_is_named(
    project: Project, project_file: str, own: str, environment: Mapping[str, str], overrides: Sequence[str], number: int
) -> None:
    project.write("penstock.yaml", project_file)
    pipeline = project.load(BASE + STEP + own, environment=environment, overrides=overrides)
    assert dict(pipeline.schemas) == {"number@1": json.dumps({"maxProperties": number})}


def test_the_directory_starts_at_the_project_wherever_the_pipeline_lies(project: Project) -> None:
    project.write("penstock.yaml", "registry: shared\n")
    file = project.write("pipelines/deep/p.yaml", BASE + STEP)
    [report] = lint([file], environment={}, project=project.root)
    assert report.pipeline is not None
    assert report.pipeline.registry == project.root / "shared"
    assert json.loads(report.pipeline.schemas["number@1"]) == {"maxProperties": 2}


def test_where_a_schema_lies_is_no_part_of_the_version(project: Project) -> None:
    project.write("copy/number/1.json", (project.root / "schemas/number/1.json").read_text())
    here, there = project.load(BASE + STEP), project.load(BASE + STEP + "registry: copy\n")
    assert (here.version, here.resolved) == (there.version, there.resolved)


def test_a_directory_that_is_not_there_is_named(project: Project) -> None:
    project.write("penstock.yaml", "registry: shard\n")
    [problem] = project.problems(BASE + STEP)
    assert (problem.code, str(problem.where)) == ("registry.unknown_subject", "p.yaml:4:1")
    assert problem.why == f"there is no directory {project.root / 'shard'}"
    assert problem.help == f"put the schema into {project.root / 'shard/number/1.json'}"


@pytest.mark.parametrize("text", ["registry: 5\n", "registry: ''\n", "registry: [a]\n"])
def test_what_is_no_directory_is_refused_there(project: Project, text: str) -> None:
    project.write("penstock.yaml", text)
    assert project.found(BASE) == [("config.invalid_value", "penstock.yaml:1:11")]
