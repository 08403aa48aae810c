from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from config_parts import BASE, Project
from recompute_parts import line

from penstock.config.model import Pipeline
from penstock.config.stored import Around, Stored
from penstock.engine.claim import version_of
from penstock.engine.recompute import Recompute
from penstock.engine.versions import find_version, load_stored
from penstock.errors import UsageError
from penstock.state.pipeline_records import Version

ALL = """\
pipeline: p
source:
  file: a.jsonl
  event: { type: order, subject: .id, time: .at }
validate: { schema: a@latest, on_invalid: drop }
dedup: { window: 24h, key: '.data.id + "${SUFFIX:}"' }
transforms:
  - { name: positive, filter: .n > 0, when: .n != null, on_error: skip }
  - { name: mark, set: { subject: '"$${x} ${MARK:none}"', type: marked } }
  - split: .items
  - { name: grade, python: recompute_grades:grade, timeout: 1m30s, retry: { max_attempts: 2 } }
  - { name: hide, redact: { fields: [.mail], with: hash, key: "${KEY:k}" } }
  - { name: plain, redact: { fields: [.phone] } }
  - { name: last, jq: '{id, n, mail, phone, grade} + {step: $steps.grade.n}', set: { type: done } }
sinks:
  - { name: small, when: .n < 10, stdout: {} }
  - { name: file, file: { path: out.jsonl } }
route: first
"""
GRADES = "def grade(data):\n    return {**data, 'grade': data['n'] * 2}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "recompute_grades", raising=False)
    project = Project(tmp_path)
    project.write("schemas/a/1.json", "{}")
    project.write("schemas/a/2.json", '{"required": ["items"]}')
    project.write("recompute_grades.py", GRADES)
    return project


def forget_grades(project: Project, text: str) -> None:
    """The function is another one, as a new process sees it."""
    project.write("recompute_grades.py", text)
    sys.modules.pop("recompute_grades", None)
    importlib.invalidate_caches()


def loaded(project: Project, version: Version, today: Pipeline | None = None, env: Mapping[str, str] = {}) -> Stored:
    around = Around(project.root / "p.yaml", project.root, project.root / ".penstock", env, today)
    return load_stored(version, around)


async def outputs(pipeline: Pipeline, data: Any) -> list[Any]:
    made = await Recompute(pipeline).run([line(data)])
    return [
        (result.outcome, result.step, [(o.event.type, o.event.subject, o.event.data, list(o.sinks)) for o in result.outputs])
        for result in made.results()
    ]


ITEM = {"id": "i", "n": 3, "mail": "a@b", "phone": "1"}
DATA = {"id": "7", "at": "2026-03-01T10:00:00Z", "n": 1, "items": [ITEM, {**ITEM, "n": 12}]}


async def test_a_stored_version_makes_of_an_event_what_its_file_made(project: Project) -> None:
    pipeline = project.load(ALL)
    stored = loaded(project, version_of(pipeline, 1.0), pipeline)
    made = await outputs(pipeline, DATA)
    assert await outputs(stored.pipeline, DATA) == made
    [(outcome, _, each)] = made
    assert outcome == "delivered"
    assert [(kind, subject, data["grade"], sinks) for kind, subject, data, sinks in each] == [
        ("done", "${x} none", 6, ["small"]),
        ("done", "${x} none", 24, ["file"]),
    ]
    assert (stored.pipeline.version, stored.pipeline.dedup) == (pipeline.version, pipeline.dedup)
    assert [step.name for step in stored.pipeline.steps] == [step.name for step in pipeline.steps]
    assert [(step.timeout, step.retry, step.on_error) for step in stored.pipeline.steps] == [
        (step.timeout, step.retry, step.on_error) for step in pipeline.steps
    ]
    assert stored.doubts == {"hide": "no version keeps the secret key of step hide: today's is used"}


async def test_a_schema_changed_in_place_is_the_old_one_in_the_old_version(project: Project) -> None:
    old = version_of(project.load(ALL), 1.0)
    project.write("schemas/a/2.json", '{"required": ["nothing"]}')
    project.write("schemas/a/3.json", '{"required": ["nothing"]}')
    assert (await outputs(project.load(ALL), DATA))[0][:2] == ("filtered", "validate")
    assert (await outputs(loaded(project, old).pipeline, DATA))[0][0] == "delivered"


async def test_a_secret_that_no_version_keeps_is_told(project: Project) -> None:
    old = version_of(project.load(ALL), 1.0)
    assert loaded(project, old).doubts == {
        "hide": "no version keeps the secret key of step hide: today's file has none for it, and *** stands in its place"
    }


async def test_code_that_changed_since_is_told(project: Project) -> None:
    old = version_of(project.load(ALL), 1.0)
    forget_grades(project, GRADES.replace("* 2", "* 3"))
    today = project.load(ALL)
    assert loaded(project, old, today).doubts["grade"] == "the code of step grade has changed since"


async def test_code_that_is_gone_is_told(project: Project) -> None:
    old = version_of(project.load(ALL), 1.0)
    forget_grades(project, "")
    with pytest.raises(UsageError) as caught:
        loaded(project, old)
    assert caught.value.code == "version.cannot_be_built"
    assert caught.value.why == "the module 'recompute_grades' has no function 'grade'"


async def test_a_variable_that_brings_something_else_is_told(project: Project) -> None:
    pipeline = project.load(ALL, environment={"MARK": "red"})
    old = version_of(pipeline, 1.0)
    same = loaded(project, old, pipeline, {"MARK": "red"})
    assert list(same.doubts) == ["hide"]
    assert (await outputs(same.pipeline, DATA))[0][2][0][1] == "${x} red"
    other = loaded(project, old, pipeline, {"MARK": "blue"})
    assert other.doubts["mark"] == "mark has today's value of MARK, which may have been another one"


async def test_a_version_needs_nothing_that_source_and_sinks_are_made_of(project: Project) -> None:
    text = BASE.replace("a.jsonl", "'${DIRECTORY}/a.jsonl'").replace("stdout", "{file: '${OUT}'}")
    pipeline = project.load(text + "transforms: [{ jq: .n }]\n", environment={"DIRECTORY": "in", "OUT": "o.jsonl"})
    stored = loaded(project, version_of(pipeline, 1.0))
    assert await outputs(stored.pipeline, {"n": 5}) == [("delivered", None, [("file.record", None, 5, ["file"])])]
    assert (stored.pipeline.source.kind, stored.doubts) == ("file", {})


async def test_versions_are_found_by_their_beginning(project: Project) -> None:
    versions = [Version(digest, "{}", {}, {}, at) for digest, at in (("ab" * 32, 1.0), ("ac" * 32, 2.0))]
    assert find_version(versions, "ab") is versions[0]
    with pytest.raises(UsageError) as caught:
        find_version(versions, "a")
    assert caught.value.code == "version.ambiguous"
    with pytest.raises(UsageError) as caught:
        find_version(versions, "ad")
    assert caught.value.code == "version.unknown"
    assert caught.value.why == (
        "the state store keeps abababababababab (1970-01-01T00:00Z), acacacacacacacac (1970-01-01T00:00Z)"
    )
    with pytest.raises(UsageError) as caught:
        find_version([], "ad")
    assert caught.value.why == "it keeps none at all"
