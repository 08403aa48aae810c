from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from config_parts import BASE, Project

STEPS = "transforms:\n  - validate: a@1\n  - python: version_steps:grade\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "version_steps", raising=False)
    project = Project(tmp_path)
    project.write("schemas/a/1.json", '{"$ref": "../b/1.json"}')
    project.write("schemas/b/1.json", '{"type": "object"}')
    project.write("version_steps.py", "def grade(data):\n    return data\n")
    return project


def test_a_version_keeps_what_it_depends_on(project: Project) -> None:
    pipeline = project.load(BASE + STEPS)
    assert dict(pipeline.schemas) == {"a@1": '{"$ref": "../b/1.json"}', "b@1": '{"type": "object"}'}
    assert list(pipeline.steps_digest) == ["version_steps:grade"]
    assert json.loads(pipeline.resolved)["transforms"][1]["python"]["call"] == "version_steps:grade"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("schemas/a/1.json", '{"$ref": "../b/1.json", "title": "x"}'),
        ("schemas/b/1.json", '{"type": "array"}'),
        ("version_steps.py", "def grade(data):\n    return None\n"),
    ],
)
def test_editing_what_a_step_names_makes_a_new_version(project: Project, file: str, text: str) -> None:
    first = project.load(BASE + STEPS).version
    project.write(file, text)
    sys.modules.pop("version_steps")
    assert project.load(BASE + STEPS).version != first


@pytest.mark.parametrize(
    "lines",
    [
        "description: d\n",
        "tests: [{ name: t, input: { data: {} }, output: [] }]\n",
        "workers: 2\nbatching: { count: 3 }\nlimits: { rate: 5/s }\nretry: { max_attempts: 2 }\n",
        "state: sqlite:elsewhere\nshutdown_timeout: 9s\ntransform_timeout: 9s\nworker_memory: 1GiB\njournal: off\n",
        "dead_letter: { retention: 3d, alert_threshold: 5 }\n",
    ],
)
def test_how_a_pipeline_is_run_is_no_part_of_its_version(project: Project, lines: str) -> None:
    assert project.load(BASE + STEPS + lines).version == project.load(BASE + STEPS).version


@pytest.mark.parametrize(
    "changed",
    [
        BASE.replace("pipeline: p", "pipeline: q") + STEPS,
        BASE.replace("a.jsonl", "b.jsonl") + STEPS,
        BASE.replace("{file: a.jsonl}", "{file: a.jsonl, event: {type: x}}") + STEPS,
        BASE.replace("sink: stdout", "sink: drop") + STEPS,
        BASE.replace("sink: stdout", "sink: {stdout: , when: .a}") + STEPS,
        BASE + STEPS + "dedup: { window: 1d }\n",
        BASE + STEPS + "dead_letter: { lane: stop }\n",
        BASE + STEPS + "route: first\n",
        BASE + STEPS + "    when: .a\n",
        BASE + STEPS + "    on_error: skip\n",
        BASE + STEPS + "    set: { type: x }\n",
        BASE + STEPS + "    name: x\n",
        BASE + STEPS + "    timeout: 3s\n",
        BASE + STEPS + "    retry: { max_attempts: 2 }\n",
        BASE + STEPS + "  - filter: .a\n",
    ],
)
def test_what_decides_over_an_event_is_a_part_of_the_version(project: Project, changed: str) -> None:
    assert project.load(changed).version != project.load(BASE + STEPS).version


def test_a_version_does_not_depend_on_the_spelling(project: Project) -> None:
    texts = [
        "dedup: { window: 24h }\ntransforms: [{ jq: .a }]\n",
        "transforms:\n  - jq: { program: '.a' }\n    on_error: dead_letter\n# x\ndedup: { window: 1d }\n",
    ]
    assert len({project.load(BASE + text).version for text in texts}) == 1


def test_what_a_set_step_sets_is_part_of_the_version(project: Project) -> None:
    versions = {project.load(f"{BASE}transforms: [{{ set: {{ type: {kind} }} }}]\n").version for kind in ("a", "b")}
    assert len(versions) == 2
