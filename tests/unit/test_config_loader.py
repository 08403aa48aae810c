from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jsonschema_rs
import pytest

from penstock.config import schema
from penstock.config.lint import lint
from penstock.config.loader import load_pipeline
from penstock.config.model import Journal, Pipeline
from penstock.config.yaml import parse_yaml
from penstock.errors import ConfigurationError

BASE = "pipeline: p\nsource: {file: a.jsonl}\nsink: stdout\n"
EXAMPLES = Path(schema.__file__).parents[2] / "pipelines"
Load = Callable[..., Pipeline]
Found = list[tuple[str, str]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def load(
        text: str, *, environment: Mapping[str, str] = {}, overrides: Sequence[str] = (), project: str | None = None
    ) -> Pipeline:
        (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
        if project is not None:
            (tmp_path / "penstock.yaml").write_text(project, encoding="utf-8")
        return load_pipeline(tmp_path / "p.yaml", overrides=overrides, environment=environment, project=tmp_path)

    return load


def found(load: Load, text: str, **options: object) -> Found:
    with pytest.raises(ConfigurationError) as caught:
        load(text, **options)
    return [(problem.code, str(problem.where)) for problem in caught.value.problems]


def rendered(load: Load, text: str, **options: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(text, **options)
    return caught.value.render()


def test_five_mistakes_are_five_located_problems_with_a_fix(load: Load) -> None:
    text = """pipeline: orders
source:
  file: { paths: [a.jsonl], formt: csv }
transforms:
  - jq: |
      .a
        | nonsense(
  - filter: .trigger.data.total > 0
retry: { retires: 3 }
sink: stdot
"""
    assert rendered(load, text).splitlines() == [
        "error[config.unknown_field]: unknown field 'formt' at source.file.formt",
        "  --> p.yaml:3:29",
        "  help: did you mean 'format'?",
        "error[jq.syntax]: jq cannot read the program: unexpected end of file at transforms[0].jq",
        "  --> p.yaml:7:20",
        "  why: line 2, column 14 of the program",
        "error[config.foreign_spelling]: input is the event's data already at transforms[1].filter",
        "  --> p.yaml:8:13",
        "  help: write `.x` for `.trigger.data.x`",
        "error[config.unknown_field]: unknown field 'retires' at retry.retires",
        "  --> p.yaml:9:10",
        "  help: did you mean 'retry.max_attempts'?",
        "error[config.unknown_component]: there is no sink 'stdot' at sink.stdot",
        "  --> p.yaml:10:7",
        "  help: did you mean 'stdout'?",
    ]


def test_state_in_postgresql_is_a_secret_that_nothing_shows_or_stores(load: Load) -> None:
    dsn = "postgresql://u:hunter2@db/penstock"
    pipeline = load(BASE + "state: ${STATE}\n", environment={"STATE": dsn})
    assert pipeline.state_server is not None
    assert (pipeline.state_server.reveal(), pipeline.state.name) == (dsn, ".penstock")
    assert "hunter2" not in repr(pipeline) + pipeline.resolved + pipeline.content
    assert "hunter2" not in rendered(load, BASE + "state: ${STATE}\n", environment={"STATE": dsn.replace("://", ":/")})


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("dead_letter: { retry: webhook }", 16),
        ("registry: https://schemas.example.com", 1),
        ("transforms: [{ http: { url: x } }]", 16),
        ("sinks: [{ kafka: {} }]", 11),
    ],
)
def test_what_comes_later_is_refused_with_one_line(load: Load, line: str, column: int) -> None:
    base = BASE.replace("sink: stdout\n", "") if line.startswith("sinks") else BASE
    row = base.count("\n") + 1
    assert found(load, base + line + "\n") == [("config.not_yet", f"p.yaml:{row}:{column}")]


def test_a_schedule_of_retries_is_a_list_of_delays(load: Load) -> None:
    pipeline = load(BASE + "dead_letter: { retry: [5s, 5m, 1h30m] }\n")
    assert pipeline.dead_letter.retry == (5.0, 300.0, 5400.0)
    assert load(BASE).dead_letter.retry == load(BASE + "dead_letter: { retry: never }\n").dead_letter.retry == ()
    assert pipeline.version == load(BASE).version


@pytest.mark.parametrize("said", ["[]", "[0s]", "[5]", "5s", "[5s, soon]"])
def test_a_schedule_that_says_nothing_is_refused(load: Load, said: str) -> None:
    problems = found(load, BASE + f"dead_letter: {{ retry: {said} }}\n")
    assert len(problems) == 1
    assert problems[0][1].startswith(f"p.yaml:{BASE.count(chr(10)) + 1}:")


def test_parking_needs_a_key_and_lint_says_what_becomes_of_events_without(load: Load) -> None:
    keyed = BASE.replace("source: {file: a.jsonl}", "source: {file: a.jsonl, event: {partition_key: .customer}}")
    parks = "dead_letter: { lane: park }\n"
    assert load(keyed + parks).dead_letter.lane == "park"
    assert not any("partition_key" in line for line in load(keyed + parks).warnings)
    assert [line for line in load(BASE + parks).warnings if "`lane: park` without `event.partition_key`" in line]


def test_a_run_pauses_after_failures_in_a_row_where_the_file_says_so(load: Load) -> None:
    assert (load(BASE).pause_after, load(BASE + "pause_after: 50\n").pause_after) == (None, 50)
    assert len(found(load, BASE + "pause_after: 0\n")) == 1


def test_a_journal_is_kept_unless_it_is_off_and_is_no_part_of_the_version(load: Load) -> None:
    kept, off = load(BASE), load(BASE + "journal: off\n")
    assert kept.journal == Journal(Path.cwd() / ".penstock/journal/p", 30 * 86400.0, 10 << 30, "digest")
    assert off.journal is None
    declared = load(BASE + "journal: { path: elsewhere, retention: 2d, max_size: 2GiB, outputs: full }\n")
    assert declared.journal == Journal(Path.cwd() / "elsewhere/p", 2 * 86400.0, 2 << 30, "full")
    assert kept.version == off.version == declared.version


def test_a_mistake_in_the_journals_fields_is_one_mistake(load: Load) -> None:
    row = BASE.count("\n") + 1
    assert found(load, BASE + "journal: { retension: 2d }\n") == [("config.unknown_field", f"p.yaml:{row}:12")]
    assert found(load, BASE + "journal: on\n") == [("config.invalid_value", f"p.yaml:{row}:10")]


def test_a_literal_is_no_program(load: Load) -> None:
    text = BASE.replace("source: {file: a.jsonl}", "source: {file: a.jsonl, event: {type: this.happened}}")
    assert load(text).event.type == "this.happened"


@pytest.mark.parametrize(
    "text",
    ["input: {stdin: {}}\noutput: {stdout: {}}\n", "input: {stdin: {}}\npipeline: {processors: []}\n"],
)
def test_a_file_of_another_shape_is_recognised(load: Load, text: str) -> None:
    assert found(load, text) == [("config.foreign_file", "p.yaml:1:1")]


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        ("route: frist", [("config.invalid_value", "p.yaml:4:8")]),
        ("workers: '2'", [("config.invalid_value", "p.yaml:4:10")]),
        ("retry: 3", [("config.invalid_value", "p.yaml:4:8")]),
        ("transforms: { jq: . }", [("config.invalid_value", "p.yaml:4:13")]),
        ("transforms: [{ jq: ., filter: . }]", [("config.several_components", "p.yaml:4:14")]),
        ("transforms: [{ name: x }]", [("config.no_component", "p.yaml:4:14")]),
        ("transforms: [{ name: a, jq: . }, { name: a, jq: . }]", [("config.duplicate_name", "p.yaml:4:34")]),
        ("transforms: [{ jq: ., set: { BAD: x } }]", [("config.invalid_value", "p.yaml:4:28")]),
        ("transforms: [{ jq: ., when: '.a (' }]", [("jq.syntax", "p.yaml:4:29")]),
        ("transforms: [{ jq: env.HOME }]", [("jq.forbidden", "p.yaml:4:20")]),
        ("transforms: [{ validate: nope@1 }]", [("registry.unknown_subject", "p.yaml:4:16")]),
        ("transforms: [{ python: { call: 'no_such_module:f' } }]", [("python.import_failed", "p.yaml:4:16")]),
        ("validate: nope@1", [("registry.unknown_subject", "p.yaml:4:1")]),
        ("dedup: { window: 1d, key: '.a (' }", [("jq.syntax", "p.yaml:4:27")]),
        ("dedup: {}", [("config.missing_field", "p.yaml:4:8")]),
        ("sinks: [drop]", [("config.sink_and_sinks", "p.yaml:3:7")]),
        ("tests: [{ name: x, input: {} }]", [("config.invalid_value", "p.yaml:4:9")]),
        ("description: ${GONE}", [("config.undefined_variable", "p.yaml:4:14")]),
        ("description: ${OPEN", [("config.bad_reference", "p.yaml:4:14")]),
        ("description: ${file:gone}", [("config.unreadable_file", "p.yaml:4:14")]),
    ],
)
def test_each_mistake_is_one_problem_at_its_place(load: Load, lines: str, problems: Found) -> None:
    assert found(load, BASE + lines + "\n") == problems


@pytest.mark.parametrize("text", ["", "x", "- a\n", "3\n"])
def test_a_file_that_is_no_block_of_fields_is_refused(load: Load, text: str) -> None:
    assert found(load, text) == [("config.not_a_pipeline", "p.yaml:1:1")]


def test_steps_and_sinks_are_named_by_kind_and_place(load: Load) -> None:
    steps, sinks = "[{jq: .}, {name: x, jq: .}, {set: {type: a}}]", "[{file: a}, drop, {file: b}]"
    pipeline = load(f"pipeline: p\nsource: stdin\ntransforms: {steps}\nsinks: {sinks}\n")
    assert [step.name for step in pipeline.steps] == ["jq-1", "x", "set-3"]
    assert [sink.name for sink in pipeline.sinks] == ["file-1", "drop", "file-2"]


def test_the_first_validate_becomes_the_first_step(load: Load, tmp_path: Path) -> None:
    (tmp_path / "schemas/order").mkdir(parents=True)
    (tmp_path / "schemas/order/1.json").write_text('{"type": "object"}')
    forms = ["order@1", "{ schema: order@1, on_invalid: drop }"]
    pipelines = [load(BASE + f"validate: {form}\ntransforms: [{{jq: .}}]\n") for form in forms]
    assert [[step.name for step in pipeline.steps] for pipeline in pipelines] == [["validate", "jq-1"]] * 2
    assert [pipeline.steps[0].component.config.model_dump()["on_invalid"] for pipeline in pipelines] == ["dead_letter", "drop"]
    assert list(pipelines[0].schemas) == ["order@1"]


def test_the_version_follows_what_decides_and_nothing_else(load: Load, tmp_path: Path) -> None:
    (tmp_path / "schemas/order").mkdir(parents=True)
    file = tmp_path / "schemas/order/1.json"
    file.write_text('{"type": "object"}')
    text = BASE + "validate: order@1\n"
    first = load(text).version
    assert [load(same).version for same in (text + "# a comment\n", text + "description: d\n", text + "state: sqlite:x\n")] == [
        first
    ] * 3
    assert load(text + "transforms: [{filter: .a}]\n").version != first
    file.write_text('{"type": "array"}')
    assert load(text).version != first
    assert len(first) == 64


def test_flags_win_over_variables_over_the_file_over_the_project(load: Load) -> None:
    project, file = "workers: 1\nretry: { max_attempts: 2, max_delay: 9s }\n", BASE + "workers: 2\nretry: { max_attempts: 3 }\n"
    variables = {"PENSTOCK_WORKERS": "3", "PENSTOCK_RETRY__MAX_ATTEMPTS": "4"}
    ways = [
        load(BASE, project=project),
        load(file, project=project),
        load(file, project=project, environment=variables),
        load(file, project=project, environment=variables, overrides=["workers=4", "retry.max_attempts=5"]),
    ]
    assert [(way.workers, way.retry.max_attempts, way.retry.max_delay) for way in ways] == [
        (1, 2, 9.0),
        (2, 3, 9.0),
        (3, 4, 9.0),
        (4, 5, 9.0),
    ]


def test_a_mistake_of_the_project_file_is_shown_there(load: Load) -> None:
    assert found(load, BASE, project="wrokers: 2\ndead_letter: { retry: webhook }\n") == [
        ("config.unknown_field", "penstock.yaml:1:1"),
        ("config.not_yet", "penstock.yaml:2:16"),
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("wrokers=3", ("config.unknown_field", "--set wrokers")),
        ("workers=two", ("config.invalid_value", "--set workers")),
        ("workers=.nan", ("config.number_out_of_range", "--set workers")),
        ("transforms[4].jq=.a", ("config.bad_override", "--set transforms[4].jq")),
        ("source.file.paths.x=1", ("config.bad_override", "--set source.file.paths.x")),
        ("workers", ("config.bad_override", "--set workers")),
    ],
)
def test_a_bad_override_is_an_error_that_names_it(load: Load, override: str, problem: tuple[str, str]) -> None:
    assert found(load, BASE, overrides=[override]) == [problem]


def test_overrides_reach_into_lists(load: Load) -> None:
    text = BASE + "transforms: [{ filter: .a }]\n"
    programs = [
        load(text, overrides=[path + "=.b"]).steps[0].component.config for path in ("transforms[0].filter", "transforms.0.filter")
    ]
    assert [program.model_dump()["condition"] for program in programs] == [".b", ".b"]


def test_a_bad_variable_is_shown_as_the_place(load: Load) -> None:
    assert found(load, BASE, environment={"PENSTOCK_WORKERS": "two"}) == [
        ("config.invalid_value", "environment variable PENSTOCK_WORKERS")
    ]


def test_a_variable_that_nearly_sets_something_is_warned_of(load: Load) -> None:
    variables = {"PENSTOCK_WORKER": "2", "PENSTOCK_RETRY_MAX_ATTEMPTS": "2", "PENSTOCK_FAULT": "", "PENSTOCK_LOG_LEVEL": "info"}
    assert load(BASE, environment=variables).warnings == [
        "the environment variable PENSTOCK_RETRY_MAX_ATTEMPTS sets nothing: did you mean PENSTOCK_RETRY__MAX_ATTEMPTS?",
        "the environment variable PENSTOCK_WORKER sets nothing: did you mean PENSTOCK_WORKERS?",
    ]


def test_references_are_typed_by_their_field(load: Load, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("from a file\n")
    variables = {"N": "12", "E": ""}
    texts = ["${N}", "${file:note}", "${GONE:}", "'${GONE:a b}'", "$${N}", "${E:default}", "a ${N} b"]
    shown = [
        load(BASE + f"description: {text}\n", environment=variables).description for text in texts[:2] + texts[3:5] + texts[6:]
    ]
    assert shown == ["12", "from a file", "a b", "${N}", "a 12 b"]
    assert load(BASE + "workers: ${N}\n", environment=variables).workers == 12
    assert load(BASE + "workers: ${GONE:3}\n").workers == 3
    assert load(BASE + "retry: { max_attempts: '${N}' }\n", environment=variables).retry.max_attempts == 12
    assert found(load, BASE + "workers: '12'\n") == [("config.invalid_value", "p.yaml:4:10")]


def test_no_value_from_around_the_file_is_shown_in_an_error(load: Load) -> None:
    environment = {"S": "hunter2", "PENSTOCK_WORKERS": "hunter2"}
    lines = 'route: ${S}\ntransform_timeout: ${S}\nretry: { max_attempts: "${S}" }\n'
    text = rendered(load, BASE + lines, environment=environment, overrides=["limits.in_flight_events=hunter2", "a.b[=hunter2"])
    assert text.count("error[") == 6
    assert "hunter2" not in text


def test_lint_reports_every_file_and_a_name_used_twice(load: Load, tmp_path: Path) -> None:
    good = load(BASE).file
    bad, twin = tmp_path / "bad.yaml", tmp_path / "twin.yaml"
    bad.write_text(BASE + "foo: 1\nbar: 2\n")
    twin.write_text(BASE)
    reports = lint([good, bad, twin], environment={})
    assert [[problem.code for problem in report.problems] for report in reports] == [
        [],
        ["config.unknown_field", "config.unknown_field"],
        ["config.duplicate_pipeline"],
    ]


def test_lint_takes_one_file_named_in_two_ways_as_one(load: Load) -> None:
    file = load(BASE).file
    assert [list(report.problems) for report in lint([file, Path(file.name)], environment={})] == [[], []]


def test_loading_a_pipeline_imports_no_more_than_it_needs(load: Load) -> None:
    file = load(BASE + "transforms: [{ jq: .a }]\n").file
    code = (
        "import sys; from pathlib import Path; from penstock.config.loader import load_pipeline;"
        f"load_pipeline(Path({str(file)!r}), environment={{}});"
        "heavy = ('rich', 'prometheus_client', 'click', 'orjson', 'sqlite3', 'penstock.engine', 'transforms.python');"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_pipeline_fits_the_published_schema(example: Path) -> None:
    document = parse_yaml(example.read_text(encoding="utf-8"), example.name).plain()
    published = json.loads(schema.FILE.read_text(encoding="utf-8"))
    assert [error.message for error in jsonschema_rs.validator_for(published).iter_errors(document)] == []


def test_the_published_schema_is_current() -> None:
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(schema.pipeline_schema())


def test_the_published_schema_is_titled_for_people_and_says_nothing_in_the_names_of_classes() -> None:
    text = schema.FILE.read_text(encoding="utf-8")
    published = json.loads(text)
    assert (published["title"], published["$id"], published["description"]) == (
        "Penstock pipeline",
        "urn:penstock:pipeline-file",
        "A pipeline: a source, transforms, one or more sinks, and how events are delivered.",
    )
    assert text.count('"title"') == 1


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({"transforms": [{"jq": ".", "set": {"type": "x"}, "on_error": "skip"}]}, True),
        ({"transforms": [{"set": {"type": "x"}, "name": "a"}]}, True),
        ({"transforms": [{"jq": ".", "filter": "."}]}, False),
        ({"transforms": [{"name": "a"}]}, False),
        ({"sink": {"file": {"path": "x", "nope": 1}}}, False),
        ({"workers": "${W:2}", "pipeline": "${P}"}, True),
        ({"workers": "2"}, False),
        ({"retry": {"max_delay": 30}}, False),
    ],
)
def test_the_published_schema_agrees_with_the_loader(load: Load, change: dict[str, object], valid: bool) -> None:
    document = {"pipeline": "p", "source": "stdin", "sink": "drop", **change}
    assert jsonschema_rs.is_valid(json.loads(schema.FILE.read_text(encoding="utf-8")), document) is valid
    if valid:
        load(json.dumps(document), environment={"P": "p", "W": "2"})
    else:
        assert found(load, json.dumps(document))
