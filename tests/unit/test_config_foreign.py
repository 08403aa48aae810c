"""Spellings that people bring from other systems are answered with ours."""

from __future__ import annotations

import json

import pytest
from config_parts import BASE, Project
from config_parts import project as project


@pytest.mark.parametrize(
    ("program", "help"),
    [
        (".trigger.data.total", "write `.x` for `.trigger.data.x`"),
        ("{a: .steps.0.output}", "write `$steps.NAME` for `.steps.NAME.output`"),
        ("root.total = this.price", "jq builds an object: `{total: (.price * .qty)}`"),
        ("this.price", "jq says `.field`"),
        ('"order {{ .id }}"', 'jq says `.field`, or "text \\(.field)" in a string'),
        ("if .a > 1 then deleted() else . end", "`empty` gives no output, which filters the event"),
        ("content().uppercase()", "`.` is the data"),
        (".name.uppercase()", "jq says `ascii_upcase`"),
        ('{a: json("a.b")}', 'jq says `.field` for `json("field")`'),
        ('meta("topic")', 'write `$event.NAME` for `meta("NAME")`'),
        (".a | shout()", "a function without arguments is called without parentheses"),
    ],
)
def test_spellings_from_elsewhere_are_answered_with_ours(project: Project, program: str, help: str) -> None:
    text = project.rendered(BASE + f"transforms: [{{ jq: {json.dumps(program)} }}]\n")
    assert text.startswith("error[config.foreign_spelling]")
    assert text.endswith(f"help: {help}")


@pytest.mark.parametrize(
    "program",
    [
        *('."trigger".data', '"this.price, root = 1"', "# this.x\n.a", ".a.steps.b", "$steps.a"),
        *('.a | ltrimstr("x")', '"deleted()"', "def json(f): f; json(.a)", '{"uppercase": .a | ascii_upcase}', ".a # content()"),
    ],
)
def test_a_program_that_only_resembles_them_is_left_alone(project: Project, program: str) -> None:
    _, step = project.load(BASE + f"transforms: [{{ name: a, jq: . }}, {{ jq: {json.dumps(program)} }}]\n").steps
    assert step.component.config.model_dump()["program"] == program


def test_every_foreign_spelling_of_a_program_is_told_at_its_place(project: Project) -> None:
    lines = ["{", "  b: .steps.1.output,", "  a: .trigger.data.x,", "  c: deleted()", "}"]
    text = "transforms:\n  - jq: |\n" + "".join(f"      {line}\n" for line in lines)
    assert project.found(BASE + text) == [("config.foreign_spelling", f"p.yaml:{place}") for place in ("7:12", "8:12", "9:12")]


@pytest.mark.parametrize(("kind", "name"), [("source", "file"), ("sink", "sqlite")])
def test_a_component_named_by_a_type_field_is_answered_with_ours(project: Project, kind: str, name: str) -> None:
    text = BASE.replace({"source": "{file: a.jsonl}", "sink": "stdout"}[kind], f"{{type: {name}, path: a}}")
    [problem] = project.problems(text)
    assert (problem.code, problem.message) == ("config.no_component", f"`type` names no {kind} here")
    assert problem.help == f"its name is the key: `{name}: {{ … }}`"


def test_a_name_at_the_root_is_the_pipelines(project: Project) -> None:
    [problem] = project.problems(BASE.replace("pipeline: p", "name: p"))
    assert (problem.code, problem.help) == ("config.unknown_field", "did you mean 'pipeline'?")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "[]", "just text"])
def test_a_file_that_is_no_pipeline_says_how_to_begin(project: Project, text: str) -> None:
    [problem] = project.problems(text)
    assert (problem.code, problem.help) == ("config.not_a_pipeline", "`pipe new NAME` writes one to start from")
