from __future__ import annotations

import pytest
from config_parts import BASE, Project
from config_parts import project as project


def test_an_unknown_field_is_told_as_documented(project: Project) -> None:
    text = BASE + "retry: { retires: 3 }\n"
    assert project.rendered(text).splitlines() == [
        "error[config.unknown_field]: unknown field 'retires' at retry.retires",
        "  --> p.yaml:4:10",
        "  help: did you mean 'retry.max_attempts'?",
    ]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("sink: stdout\nsource:\n", [("config.missing_field", "p.yaml:3:1")]),
        ("sink: stdout\n", [("config.missing_field", "p.yaml:1:1")]),
        ("source: stdin\nsink: stdout\ntransforms: 3\n", [("config.invalid_value", "p.yaml:4:13")]),
        ("source: stdin\nsinks: 3\n", [("config.invalid_value", "p.yaml:3:8")]),
        ("source: stdin\nsink: {}\n", [("config.no_component", "p.yaml:3:7")]),
        ("source: [stdin]\nsink: stdout\n", [("config.invalid_value", "p.yaml:2:9")]),
        ("source: stdin\nsink: stdout\nWorkers: 2\n", [("config.unknown_field", "p.yaml:4:1")]),
        ("source: stdin\nsink: {stdout: {Format: csv}}\n", [("config.unknown_field", "p.yaml:3:17")]),
        ("source: stdin\nsink: stdout\nvalidate: 3\n", [("config.invalid_value", "p.yaml:4:11")]),
        ("source: stdin\nsink: stdout\nvalidate: {on_invalid: drop}\n", [("config.missing_field", "p.yaml:4:11")]),
        ("source: stdin\nsink: stdout\nvalidate: {schema: a@1, nope: 1}\n", [("config.unknown_field", "p.yaml:4:25")]),
        ("source: stdin\nsink: stdout\nworkers: 99999999999999999999999\n", [("config.invalid_value", "p.yaml:4:10")]),
        ("source: stdin\nsink: stdout\nworkers: 0x" + "f" * 5000 + "\n", [("config.number_out_of_range", "p.yaml:4:10")]),
        ('source: stdin\nsink: stdout\ndescription: "\\ud800"\n', [("config.not_utf8", "p.yaml:4:14")]),
        ("source: stdin\nsink: stdout\ntransforms: [{jq: ., on_invalid: drop}]\n", [("config.invalid_value", "p.yaml:4:22")]),
        ("source: stdin\nsink: {sqlite: {path: a, table: t, columns: {Total: 3}}}\n", [("config.invalid_value", "p.yaml:3:53")]),
    ],
)  # fmt: skip
def test_no_mistake_crashes_the_loader_or_is_told_twice(project: Project, text: str, problems: list[tuple[str, str]]) -> None:
    assert project.found("pipeline: p\n" + text) == problems


def test_a_pipeline_that_is_a_number_is_no_foreign_file(project: Project) -> None:
    assert project.found("pipeline: 3\n") == [
        ("config.missing_field", "p.yaml:1:1"),
        ("config.missing_field", "p.yaml:1:1"),
        ("config.invalid_value", "p.yaml:1:11"),
    ]


@pytest.mark.parametrize(
    ("lines", "help"),
    [
        ("wrokers: 2", "did you mean 'workers'?"),
        ("Workers: 2", "did you mean 'workers'?"),
        ("max_attempts: 2", "did you mean 'retry.max_attempts'?"),
        ("batch_size: 2", "did you mean 'batching.count'?"),
        ("processors: []", "did you mean 'transforms'?"),
        ("dlq: {}", "did you mean 'dead_letter'?"),
        ("dead_letter: { alert_above: 3 }", "did you mean 'dead_letter.alert_threshold'?"),
        ("transforms: [{ jqq: ., nam: x }]", "did you mean 'jq'?"),
        ("transforms: [{ mapping: . }]", "did you mean 'jq'?"),
        ("transforms: [{ jq: ., on_eror: skip }]", "did you mean 'on_error'?"),
        ("transforms: [{ jq: ., program: . }]", "it belongs to the transform: `jq: { program: … }`"),
        ("dead_letter: { lane: skp }", "did you mean 'skip'?"),
    ],
)
def test_what_was_probably_meant_is_named(project: Project, lines: str, help: str) -> None:
    assert project.problems(BASE + lines + "\n")[0].help == help


def test_foreign_fields_of_components_are_answered_only_where_ours_exist(project: Project) -> None:
    problems = project.problems("pipeline: p\nsource: {file: {path: a}}\nsink: {file: {connection: a, path: b}}\n")
    assert [problem.help for problem in problems if problem.code == "config.unknown_field"] == [
        "did you mean 'paths'?",
        "known here: path, format",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("retry: { max_elapsed: 1h }", "at most 15m was expected"),
        ("retry: { max_attempts: 0 }", "at least 1 was expected"),
        ("worker_memory: 1MiB", "at least 16MiB was expected"),
        ("transform_timeout: 0", "more than 0s was expected"),
        ("batching: { count: 1000000 }", "at most 100,000 was expected"),
        ("batching: { period: 5 }", "a duration needs a unit: write '5s' or '5ms'"),
        ("retry:", "a block of fields was expected"),
        ("transforms:", "a list was expected"),
        ("route: frist", "one of all, first was expected"),
        ("state: /var/lib", "sqlite:DIRECTORY or postgresql://… was expected"),
        ("description: 3", "text was expected; put it in quotes"),
        ("transforms: [{ redact: [] }]", "it must not be empty"),
        ("transforms: [{ name: 1x, jq: . }]", "a name of letters, digits, _ and - was expected, a letter or _ first"),
    ],
)
def test_values_are_refused_in_words_and_units(project: Project, lines: str, message: str) -> None:
    assert [problem.message for problem in project.problems(BASE + lines + "\n")] == [message]


@pytest.mark.parametrize("name", ["Orders", "a_b", "", "a" * 64, "orders/../x", "a b", "ä"])
def test_a_pipeline_is_named_by_a_safe_word(project: Project, name: str) -> None:
    text = BASE.replace("pipeline: p", f"pipeline: '{name}'")
    assert project.found(text) == [("config.invalid_value", "p.yaml:1:11")]


@pytest.mark.parametrize(
    ("lines", "places"),
    [
        ("transforms: [{ jq: . }, { name: jq-1, jq: . }]", ["p.yaml:4:25"]),
        ("transforms: [{ name: a, jq: . }, { name: a, jq: . }, { name: a, jq: . }]", ["p.yaml:4:34", "p.yaml:4:54"]),
    ],
)
def test_a_name_used_twice_is_told_where_it_comes_again(project: Project, lines: str, places: list[str]) -> None:
    assert project.found(BASE + lines + "\n") == [("config.duplicate_name", place) for place in places]


def test_a_required_field_under_a_wrong_name_is_one_mistake(project: Project) -> None:
    text = "piepline: p\nsource: {file: {path: a}}\nsink: {sqlite: {tabel: a, zzz: b}}\n"
    assert project.found(text) == [
        ("config.unknown_field", "p.yaml:1:1"),
        ("config.unknown_field", "p.yaml:2:17"),
        ("config.missing_field", "p.yaml:3:16"),
        ("config.unknown_field", "p.yaml:3:17"),
        ("config.unknown_field", "p.yaml:3:27"),
    ]


def test_names_of_sinks_are_unique_too(project: Project) -> None:
    text = "pipeline: p\nsource: stdin\nsinks: [{ name: file-2, drop: }, { file: a }, { file: b }]\n"
    assert project.found(text) == [("config.duplicate_name", "p.yaml:3:47")]


def test_programs_are_checked_though_other_fields_are_wrong(project: Project) -> None:
    sink = "{ sqlite: { path: x, tabel: y, columns: { a: '.x (' } }, when: '.y (' }"
    transforms = "[{ set: { extension: '.z (' } }, { jq: ., when: '.w (', timeout: 5 }]"
    assert project.found(f"pipeline: p\nsource: stdin\nsink: {sink}\ntransforms: {transforms}\n") == [
        ("config.unknown_field", "p.yaml:3:28"),
        ("jq.syntax", "p.yaml:3:52"),
        ("jq.syntax", "p.yaml:3:70"),
        ("jq.syntax", "p.yaml:4:34"),
        ("jq.syntax", "p.yaml:4:61"),
        ("config.invalid_value", "p.yaml:4:78"),
    ]


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        ("  - jq: |\n      .a\n        | nonsense(\n", "p.yaml:7:20"),
        ("  - jq: |\n\n      .a (\n", "p.yaml:7:10"),
        ("  - jq: &x |\n      .a (\n", "p.yaml:6:10"),
        ("  - jq: |2-\n        .a (\n", "p.yaml:6:12"),
        ("  - jq: |\n      .a ${A}(\n", "p.yaml:5:9"),
        ("  - jq: >\n      .a\n      (\n", "p.yaml:5:9"),
        ("  - jq: '.a ('\n", "p.yaml:5:9"),
        ("  - jq:\n      program: |\n          .a (\n", "p.yaml:7:14"),
        ("  - jq: .\n    when: |\n      env.X\n", "p.yaml:7:7"),
        ("  - jq: |\n      .a\n      | .trigger.data.x\n", "p.yaml:7:9"),
    ],
)
def test_a_mistake_inside_a_program_has_its_own_line_and_column(project: Project, lines: str, place: str) -> None:
    assert [where for _, where in project.found(BASE + "transforms:\n" + lines, environment={"A": "| b"})] == [place]


def test_line_ends_of_another_system_count_as_such(project: Project) -> None:
    text = (BASE + "transforms:\n  - jq: |\n      .a\n      | b(\n").replace("\n", "\r\n")
    assert project.found(text) == [("jq.syntax", "p.yaml:7:11")]


@pytest.mark.parametrize("program", [". as $this | $this.a", ".this.a", ".steps.count", "{root: 1} | .root == 2"])
def test_jq_that_resembles_another_language_is_jq(project: Project, program: str) -> None:
    [step] = project.load(BASE + f"transforms: [{{ jq: '{program}' }}]\n").steps
    assert step.component.config.model_dump()["program"] == program


def test_an_extension_attribute_may_be_called_as_a_later_feature(project: Project) -> None:
    step = project.load(BASE + "transforms: [{ jq: ., set: { effects: .a } }]\n").steps[0]
    assert dict(step.set) == {"effects": ".a"}


def test_on_invalid_may_stand_beside_validate_but_not_twice(project: Project) -> None:
    project.write("schemas/a/1.json", "{}")
    step = project.load(BASE + "transforms: [{ validate: a@1, on_invalid: drop }]\n").steps[0]
    assert step.component.config.model_dump()["on_invalid"] == "drop"
    text = BASE + "transforms: [{ validate: { schema: a@1, on_invalid: drop }, on_invalid: stop }]\n"
    assert project.found(text) == [("config.duplicate_key", "p.yaml:4:61")]


def test_mistakes_come_in_order_of_their_files_and_lines(project: Project) -> None:
    project.write("penstock.yaml", "foo: 1\n")
    found = project.found(BASE + "bar: 1\nbaz: 1\n", overrides=["qux=1"])
    assert [where for _, where in found] == ["p.yaml:4:1", "p.yaml:5:1", "--set qux", "penstock.yaml:1:1"]


def test_an_override_of_absurd_depth_is_refused(project: Project) -> None:
    path = ".".join("a" * 5000)
    assert [code for code, _ in project.found(BASE, overrides=[f"{path}=1"])] == ["config.bad_override"]
