from __future__ import annotations

from pathlib import Path

import pytest
from config_parts import BASE, Project
from config_parts import project as project

from penstock.config.interpolate import Interpolator
from penstock.config.model import Pipeline
from penstock.errors import ConfigProblem


def key_of(pipeline: Pipeline) -> str:
    return str(pipeline.steps[0].component.config.key.reveal())  # type: ignore[attr-defined]  # a `redact`


def test_jq_variables_and_interpolation_are_left_alone(project: Project) -> None:
    program = r'. as $x | "\($event.id) $x $ENVX" | {$x, a: $x, b: "$$", c: "$"}'
    step = project.load(BASE + f"transforms:\n  - jq: |\n      {program}\n").steps[0]
    assert step.component.config.model_dump()["program"] == program + "\n"


def test_an_escaped_reference_is_plain_text(project: Project) -> None:
    texts = ["$${A}", "a $${A} ${A}", "'$${A'", "$$${A}"]
    loaded = [project.load(BASE + f"description: {text}\n", environment={"A": "x"}).description for text in texts]
    assert loaded == ["${A}", "a ${A} x", "${A", "$${A}"]


def test_what_a_variable_holds_is_not_looked_through_again(project: Project) -> None:
    variables = {"A": "${B}", "B": "secret"}
    assert project.load(BASE + "description: ${A}\n", environment=variables).description == "${B}"


@pytest.mark.parametrize(
    ("text", "code", "help"),
    [
        (
            "${SHOP_DNS}",
            "config.undefined_variable",
            "did you mean ${SHOP_DSN}? Else set it, or give a default: ${SHOP_DNS:value}",
        ),
        ("${ZZZ}", "config.undefined_variable", "set it, or give a default: ${ZZZ:value}"),
        ("${A:${B}}", "config.bad_reference", "${VAR}, ${VAR:default} or ${file:/path}; $${ for a plain ${"),
        ("${A-B}", "config.bad_reference", "${VAR}, ${VAR:default} or ${file:/path}; $${ for a plain ${"),
        ("${}", "config.bad_reference", "${VAR}, ${VAR:default} or ${file:/path}; $${ for a plain ${"),
        ("${A", "config.bad_reference", "$${ for a plain ${"),
        ("${file:gone}", "config.unreadable_file", "check path and permissions"),
        ("${file:}", "config.unreadable_file", "check path and permissions"),
        ("${file:a\0b}", "config.unreadable_file", "check path and permissions"),
    ],
)
def test_a_bad_reference_says_what_to_write(tmp_path: Path, text: str, code: str, help: str) -> None:
    with pytest.raises(ConfigProblem) as caught:
        Interpolator({"SHOP_DSN": "x"}, tmp_path)(text)
    assert (caught.value.code, caught.value.help) == (code, help)


def test_an_undefined_variable_is_one_problem_wherever_it_stands(project: Project) -> None:
    text = "pipeline: p\nsource: ${A}\nworkers: ${B}\nsink: stdout\nretry:\n  max_delay: ${C}\n"
    assert project.found(text) == [
        ("config.undefined_variable", "p.yaml:2:9"),
        ("config.undefined_variable", "p.yaml:3:10"),
        ("config.undefined_variable", "p.yaml:6:14"),
    ]


def test_files_lose_one_line_end_and_must_be_small_text(project: Project) -> None:
    for name, content in {"unix": b"a\n\n", "dos": b"a\r\n", "none": b"a", "binary": b"\xff", "large": b"a" * 65537}.items():
        (project.root / name).write_bytes(content)
    text = 'description: "${file:unix}${file:dos}${file:none}"\n'
    assert project.load(BASE + text).description == "a\naa"
    assert project.found(BASE + "description: ${file:binary}\n") == [("config.unreadable_file", "p.yaml:4:14")]
    assert project.found(BASE + "description: ${file:large}\n") == [("config.unreadable_file", "p.yaml:4:14")]


def test_an_empty_variable_is_empty_text_and_never_null(project: Project) -> None:
    redact = "transforms:\n  - redact:\n      fields: [.a]\n      with: hash\n      key: ${KEY}\n"
    assert project.load(BASE + "description: ${E}\n", environment={"E": ""}).description == ""
    for value in ("", "null", "~"):
        environment = {"KEY": value, "E": value}
        assert project.found(BASE + "limits: { rate: '${E}' }\n", environment=environment) == [
            ("config.invalid_value", "p.yaml:4:17")
        ]
    assert project.found(BASE + redact, environment={"KEY": ""}) == [("config.invalid_value", "p.yaml:8:12")]
    assert key_of(project.load(BASE + redact, environment={"KEY": "null"})) == "null"


@pytest.mark.parametrize("value", ["12", "1e3", "true", "0x1F", "9" * 30])
def test_a_secret_of_digits_stays_the_text_it_is(project: Project, value: str) -> None:
    text = BASE + "transforms:\n  - redact:\n      fields: [.a]\n      key: ${KEY}\n"
    assert key_of(project.load(text, environment={"KEY": value})) == value


def test_a_value_that_is_not_utf8_is_refused(project: Project) -> None:
    environment = {"A": "\udcff", "PENSTOCK_STATE": "\udcff"}
    assert project.found(BASE + "description: ${A}\n", environment=environment, overrides=["route=\udcff"]) == [
        ("config.not_utf8", "p.yaml:4:14"),
        ("config.not_utf8", "--set route"),
        ("config.not_utf8", "environment variable PENSTOCK_STATE"),
    ]


@pytest.mark.parametrize("secret", ["hunter2", "o'neill", 'say "hi"', "two\nlines", "dé", "abc"])
@pytest.mark.parametrize(
    "lines",
    [
        "source: ${S}\n",
        "source: {file: a, event: {type: '.a ${S}('}}\n",
        "source: stdin\ntransforms:\n  - ${S}\n",
        "source: stdin\ntransforms:\n  - validate: ${S}\n",
        "source: stdin\ntransforms:\n  - python: ${S}:f\n",
        "source: stdin\ntransforms:\n  - redact: ['${S}']\n",
        "source: stdin\ntransforms:\n  - jq: .a | ${S}(\n",
        "source: stdin\nvalidate: ${file:s}\n",
        "source: stdin\nroute: ${S}\n",
        "source: stdin\nworkers: ${S}\n",
    ],
)
def test_an_error_never_shows_what_a_reference_brought(project: Project, lines: str, secret: str) -> None:
    project.write("s", secret)
    text = "pipeline: p\nsink: stdout\n" + lines
    rendered = project.rendered(text, environment={"S": secret})
    quoted = [f"'{secret}'", repr(secret), f"`{secret}`"] if len(secret) < 4 else [secret, repr(secret)[1:-1]]
    assert [form for form in quoted if form in rendered] == []


def test_a_secret_given_on_the_command_line_is_not_shown(project: Project) -> None:
    rendered = project.rendered(BASE, overrides=["source=hunter2", "sink.hunter3=hunter4", "route=.hunter5"])
    assert [secret for secret in ("hunter2", "hunter4", "hunter5") if secret in rendered] == []


def test_a_secret_is_in_no_repr_no_resolved_text_and_no_version(project: Project) -> None:
    text = BASE + "transforms:\n  - redact: { fields: [.a], with: hash, key: '${KEY}' }\n"
    one, other = (project.load(text, environment={"KEY": key}) for key in ("hunter2", "swordfish"))
    assert one.version == other.version
    assert [shown for shown in (repr(one), str(one), one.resolved) if "hunter2" in shown] == []
    assert '"key":"***"' in one.resolved


def test_the_same_references_work_in_the_project_file(project: Project) -> None:
    project.write("penstock.yaml", "workers: '${N}'\nretry: { max_delay: '${D:9s}' }\nlimits: { rate: '${R:}' }\n")
    assert project.found(BASE, environment={"N": "hunter2"}) == [
        ("config.invalid_value", "penstock.yaml:1:10"),
        ("config.invalid_value", "penstock.yaml:3:17"),
    ]
    project.write("penstock.yaml", "workers: '${N}'\nretry: { max_delay: '${D:9s}' }\n")
    pipeline = project.load(BASE + "retry: { max_attempts: 2 }\n", environment={"N": "2"})
    assert (pipeline.workers, pipeline.retry.max_attempts, pipeline.retry.max_delay) == (2, 2, 9.0)
