"""`pipe new`: what it leaves lints, passes its test, runs, and completes in an editor."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import jsonschema_rs
import pytest
from cli_parts import Pipe

from penstock.builtins import SINKS, SOURCES
from penstock.config.yaml import parse_yaml

DELIVERED = {"file": 1, "stdin": 1, "generate": 10}
"""Of the sources that need no server."""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def one_record_on_stdin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The process's own standard input, which the source reads."""
    file = tmp_path_factory.mktemp("stdin") / "record"
    file.write_text('{"id": 7}\n')
    kept, record = os.dup(0), os.open(file, os.O_RDONLY)
    os.dup2(record, 0)
    yield
    os.dup2(kept, 0)
    os.close(kept)
    os.close(record)


@pytest.mark.usefixtures("one_record_on_stdin")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("sink", SINKS)
def test_a_new_pipeline_lints_clean_passes_its_test_and_runs_at_once(directory: Path, pipe: Pipe, source: str, sink: str) -> None:
    status, out, err = pipe("new", "my-shop", "--from", source, "--to", sink)
    assert (status, out) == (0, "")
    written = [line.removeprefix("wrote ") for line in err.splitlines() if line.startswith("wrote ")]
    assert sorted(written) == sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file())
    assert pipe("lint", "pipelines") == (0, "✓ 1 file, 1 sound: no mistakes\n", "")
    assert pipe("test", "pipelines") == (0, "my-shop\n  ✓ a record passes through\n\n1 passed\n", "")
    count = DELIVERED.get(source)
    if count is None or sink == "postgres":  # a server is needed
        return
    status, _, said = pipe("run", "--once", "pipelines/my-shop.yaml")
    assert (status, f"received {count} = delivered {count} + filtered 0 + " in said) == (0, True), said


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("sink", SINKS)
def test_all_that_its_comments_offer_can_be_taken(directory: Path, pipe: Pipe, source: str, sink: str) -> None:
    pipe("new", "my-shop", "--from", source, "--to", sink)
    file = directory / "pipelines/my-shop.yaml"
    offers = file.read_text().count("\n    # ")
    secrets = directory / "secrets"
    secrets.mkdir()
    (secrets / "mask").write_text("0123456789abcdef")
    file.write_text(file.read_text().replace("\n    # ", "\n    ").replace("/run/secrets", str(secrets)))
    assert offers >= 2
    assert pipe("lint", "pipelines") == (0, "✓ 1 file, 1 sound: no mistakes\n", "")


def test_its_first_line_names_a_schema_that_it_fits(directory: Path, pipe: Pipe) -> None:
    pipe("new", "my-shop", "--to", "sqlite")
    text = (directory / "pipelines/my-shop.yaml").read_text()
    schema = directory / "pipelines" / text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    validator = jsonschema_rs.validator_for(json.loads(schema.read_text()))
    assert [error.message for error in validator.iter_errors(parse_yaml(text, "my-shop.yaml").plain())] == []


def test_what_exists_is_left_alone(directory: Path, pipe: Pipe) -> None:
    (directory / "data").mkdir()
    (directory / "data/my-shop.jsonl").write_text('{"id": 5}\n{"id": 6}\n')
    (directory / "pipelines").mkdir()
    (directory / "pipelines/pipeline.schema.json").write_text("{}")
    assert "wrote pipelines/pipeline.schema.json" in pipe("new", "my-shop")[2]
    text = (directory / "pipelines/my-shop.yaml").read_text()
    assert (directory / "data/my-shop.jsonl").read_text() == '{"id": 5}\n{"id": 6}\n'
    status, _, err = pipe("new", "my-shop", "--from", "generate")
    assert (status, "error[new.exists]: pipelines/my-shop.yaml exists already" in err) == (2, True)
    assert (directory / "pipelines/my-shop.yaml").read_text() == text
    assert "pipeline.schema.json" not in pipe("new", "other")[2]


def test_the_schema_goes_where_the_project_keeps_its_schemas(directory: Path, pipe: Pipe) -> None:
    (directory / "penstock.yaml").write_text("registry: shared/schemas\n")
    assert "wrote shared/schemas/my-shop.record/1.json\n" in pipe("new", "my-shop")[2]
    assert "# shared/schemas/my-shop.record/1.json\n" in (directory / "pipelines/my-shop.yaml").read_text()
    assert pipe("run", "--once", "pipelines/my-shop.yaml")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["Shop"], "usage.bad_name"),
        (["../x"], "usage.bad_name"),
        (["x", "--to", "sqlit"], "config.unknown_component"),
        (["x", "--from", "kafka"], "config.unknown_component"),
    ],
)
def test_a_new_pipeline_needs_a_name_and_components_that_exist(
    directory: Path, pipe: Pipe, arguments: list[str], code: str
) -> None:
    status, _, err = pipe("new", *arguments)
    assert (status, f"error[{code}]" in err) == (2, True)
    assert list(directory.iterdir()) == []


def test_a_mistake_of_the_project_is_told_before_anything_is_written(directory: Path, pipe: Pipe) -> None:
    (directory / "penstock.yaml").write_text("registri: x\n")
    status, _, err = pipe("new", "my-shop")
    assert (status, "did you mean 'registry'?" in err) == (2, True)
    assert [file.name for file in directory.iterdir()] == ["penstock.yaml"]
