"""`effects` and `idempotency_key` of steps, and the mocks of tests, in a pipeline file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from config_parts import BASE, Project

from penstock.config.stored import Around, Kept, load_version

CALL = "python: 'effect_steps:act'"
STEPS = "def act(data, *, idempotency_key=None):\n    return data\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "effect_steps", raising=False)
    (tmp_path / "effect_steps.py").write_text(STEPS)
    return Project(tmp_path)


def steps(*entries: str) -> str:
    return BASE + "transforms:\n" + "".join(f"  - {{ {entry} }}\n" for entry in entries)


def test_a_step_says_what_it_does_to_the_world_and_under_which_key(project: Project) -> None:
    pipeline = project.load(steps(f"{CALL}, effects: write, idempotency_key: .id", f"{CALL}, effects: read", CALL))
    assert [(step.effects, step.idempotency_key) for step in pipeline.steps] == [("write", ".id"), ("read", None), (None, None)]


@pytest.mark.parametrize(
    ("text", "code", "where"),
    [
        (steps(f"{CALL}, idempotency_key: .id"), "config.key_without_effects", "p.yaml:5:35"),
        (steps("jq: ., effects: write"), "config.no_effects", "p.yaml:5:14"),
        (steps("filter: .a, set: { type: x }, effects: read"), "config.no_effects", "p.yaml:5:37"),
        (steps("set: { type: x }, effects: read"), "config.no_effects", "p.yaml:5:25"),
        ("workers: 2\n" + steps(f"{CALL}, effects: read"), "config.effects_in_workers", "p.yaml:6:35"),
        (steps(f"{CALL}, effects: delete"), "config.invalid_value", "p.yaml:5:44"),
        (steps(f"{CALL}, effects: write, idempotency_key: '.id |'"), "jq.syntax", "p.yaml:5:68"),
        (
            steps(CALL) + "tests: [{name: t, input: {}, output: [], mocks: {pyton-1: {output: 1}}}]\n",
            "config.unknown_step",
            "p.yaml:6:50",
        ),
        (
            steps(CALL) + "tests: [{name: t, input: {}, output: [], mocks: {python-1: {}}}]\n",
            "config.invalid_value",
            "p.yaml:6:60",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_at_its_place(project: Project, text: str, code: str, where: str) -> None:
    assert project.found(text) == [(code, where)]


def test_workers_that_a_flag_brings_are_seen_too(project: Project) -> None:
    problems = project.problems(steps(f"{CALL}, effects: write"), overrides=["workers=3"])
    assert [(problem.code, "workers: 3" in problem.message) for problem in problems] == [("config.effects_in_workers", True)]


def test_a_step_that_may_change_the_world_twice_is_told_of(project: Project) -> None:
    pipeline = project.load(
        steps(
            f"name: a, {CALL}, effects: write", f"name: b, {CALL}, effects: read", f"{CALL}, effects: write, idempotency_key: .id"
        )
    )
    assert [warning for warning in pipeline.warnings if "after a crash" in warning] == [
        "step a has `effects: write` and no `idempotency_key`: "
        "after a crash it changes the world again for the events that were not committed"
    ]


def test_effects_are_part_of_the_version_and_come_back_from_it(project: Project) -> None:
    plain, keyed = (project.load(steps(CALL + more)) for more in ("", ", effects: write, idempotency_key: .id"))
    assert plain.version != keyed.version
    assert "effects" not in plain.resolved
    around = Around(keyed.file, keyed.project, keyed.state, os.environ, keyed)
    stored = load_version(Kept(keyed.version, keyed.resolved, keyed.schemas, keyed.steps_digest), around).pipeline
    assert [(step.effects, step.idempotency_key) for step in stored.steps] == [("write", ".id")]
