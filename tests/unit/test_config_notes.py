from __future__ import annotations

import pytest
from config_parts import BASE, Project
from config_parts import project as project

from penstock.config.base import ComponentConfig
from penstock.config.format import PipelineFile
from penstock.config.model import Component
from penstock.config.notes import notes
from penstock.errors import Location

STEPS = "transforms: [{ jq: .a }, { redact: [.b] }, { name: big, filter: .c }]\n"
UNENFORCED = "transform_timeout: 2s is reported, not enforced, with `workers: 0`. Safe only in workers (`workers: 1`): jq-1, big"


@pytest.mark.parametrize(
    ("lines", "warnings"),
    [
        (STEPS, []),
        (STEPS + "transform_timeout: 2s\n", [UNENFORCED]),
        (STEPS + "transform_timeout: 2s\nworkers: 1\n", []),
        ("transforms: [{ redact: [.b] }]\ntransform_timeout: 2s\n", []),
    ],
)
def test_steps_that_are_safe_only_in_workers_are_named_where_a_limit_is_declared(
    project: Project, lines: str, warnings: list[str]
) -> None:
    assert project.load(BASE + lines).warnings == warnings


def test_a_limit_from_around_the_file_is_declared_too(project: Project) -> None:
    ways = [{"overrides": ["transform_timeout=2s"]}, {"environment": {"PENSTOCK_TRANSFORM_TIMEOUT": "2s"}}]
    assert [project.load(BASE + STEPS, **way).warnings for way in ways] == [[UNENFORCED]] * 2  # type: ignore[arg-type]  # one of two
    project.write("penstock.yaml", "transform_timeout: 2s\n")
    assert project.load(BASE + STEPS).warnings == [UNENFORCED]


def test_a_timeout_that_has_no_effect_is_told(project: Project) -> None:
    assert project.load(BASE + "transforms: [{ name: a, jq: ., timeout: 2s }]\n").warnings == [
        "the timeout of step a has no effect: `jq` never waits; transform_timeout with `workers: 1` bounds its computing"
    ]


@pytest.mark.parametrize(
    ("source", "key", "count"), [("postgres_cdc", ".data.id", 1), ("postgres_cdc", None, 0), ("file", ".data", 0)]
)
def test_a_dedup_key_over_changes_of_rows_is_warned_of(source: str, key: str | None, count: int) -> None:
    form = PipelineFile.model_validate({"pipeline": "p", "source": source, "dedup": {"window": "1d", "key": key}})
    found = notes(form, Component(source, ComponentConfig(), Location("p.yaml")), [])
    assert [note.partition(":")[0] for note in found] == ["dedup.key over changes of rows"] * count
