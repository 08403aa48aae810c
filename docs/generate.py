"""Writes the pages of docs/reference from the code that they describe: `make docs`.

`tests/unit/test_house_reference.py` fails where a page is not what this would write.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from penstock.cli.component_fields import Field, fields_of, summary_of
from penstock.cli.lazy import GlobalOption
from penstock.cli.main import cli
from penstock.components import KINDS, Catalog
from penstock.config import format as models
from penstock.errors import ExitStatus

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py: change the code, then `make docs`. -->"

BLOCKS: Sequence[tuple[str, str, type[BaseModel]]] = (
    ("The file", "A pipeline file.", models.PipelineFile),
    ("`source.event`", "How a record becomes a CloudEvent: jq over the record, or a literal.", models.EventFile),
    ("Beside a transform", "What a step takes besides its own block.", models.StepFields),
    ("Beside a sink", "What an entry of `sinks` takes besides its own block.", models.SinkFields),
    ("`validate`", "A schema alone, `SUBJECT@VERSION`, or a block.", models.ValidateFile),
    ("`dedup`", "Repetitions inside the window are delivered once.", models.DedupFile),
    ("`batching`", "How much goes together; what is ready goes at once unless `period` says to wait.", models.BatchingFile),
    ("`retry`", "Attempts in memory: exponential backoff with full jitter.", models.RetryFile),
    ("`dead_letter`", "What happens to events that fail for good.", models.DeadLetterFile),
    ("`limits`", "Bounds of what is in flight, from reading to commit.", models.LimitsFile),
    ("`tests`", "One case; `pipe test` runs them.", models.TestFile),
)

EXITS = {
    ExitStatus.DONE: "done",
    ExitStatus.FAILED: "failed while running",
    ExitStatus.USAGE: "usage, or an invalid configuration",
    ExitStatus.ENVIRONMENT: "the environment: something unreachable, a store held by another run or damaged",
    ExitStatus.FOUND: "the check found something: a failing `pipe test`, an error of `pipe doctor`, a gap of `pipe verify`, "
    "dead letters under `--fail-on-dead-letters`",
    ExitStatus.INTERRUPTED: "interrupted by a second Ctrl-C",
    ExitStatus.TERMINATED: "ended by a second SIGTERM",
}


def pages() -> dict[Path, str]:
    """Every page by its path."""
    made = {"pipeline-file.md": pipeline_file(), "components.md": components(), "cli.md": command_line()}
    return {REFERENCE / name: "\n".join([NOTE, "", *lines]).rstrip() + "\n" for name, lines in made.items()}


def pipeline_file() -> Iterator[str]:
    yield from (
        "# The pipeline file",
        "",
        "One YAML file is one pipeline. Unknown fields are errors. `pipe schema config` prints the same as a JSON Schema, for",
        "editors. Durations are `500ms`, `30s`, `5m`, `24h`, `7d`; sizes `64KiB`, `10MiB`; rates `5000/s`. `${VAR}`,",
        "`${VAR:default}` and `${file:/run/secrets/x}` are filled in before; `$${` stands for `${`. The fields from",
        "`batching` to `registry` may stand in `penstock.yaml` at the project's root too, for all its pipelines.",
        "",
    )
    for title, about, model in BLOCKS:
        inherited = [name for base in model.__mro__[1:] for name in getattr(base, "model_fields", {})]
        fields = sorted(fields_of(model), key=lambda field: field.name in inherited)
        fields = [replace(field, description=field.description or described(model, field.name)) for field in fields]
        yield from (f"## {title}", "", about, "", *fields_table(fields), "")


def described(model: type[BaseModel], name: str) -> str:
    """What the model says of a field; its schema keeps silent where the default is written beside a reference."""
    field = model.model_fields.get(name)
    return "" if field is None else field.description or ""


def components() -> Iterator[str]:
    yield from (
        "# Components",
        "",
        "A block names its component: `file: { paths: data/*.jsonl }`. Where a *short form* is named, a bare value fills that",
        "field: `file: data/*.jsonl`. A component that needs no options may be written as its bare name: `sink: stdout`.",
        "",
    )
    catalog = Catalog(plugins=False)
    for kind in KINDS:
        yield from (f"## {kind.capitalize()}s", "")
        for name in catalog.names(kind):
            yield from component(name, catalog.find(kind, name))


def component(name: str, cls: Any) -> Iterator[str]:
    yield from (f"### `{name}`", "", summary_of(cls), "")
    more = inspect.cleandoc(cls.Config.__doc__ or "").split("\n\n", 1)
    if len(more) == 2:
        yield from (*more[1].splitlines(), "")
    if shorthand := getattr(cls.Config, "shorthand", None):
        yield from (f"Short form: `{shorthand}`.", "")
    fields = fields_of(cls.Config)
    yield from (*(fields_table(fields) if fields else ("It has no fields.",)), "")


def fields_table(fields: Sequence[Field]) -> Iterator[str]:
    yield from ("| field | type | default | meaning |", "| --- | --- | --- | --- |")
    for field in fields:
        example = "" if field.example is None else f" Example: {code(field.example)}."
        yield f"| `{field.name}` | {cell(field.type)} | {default_of(field)} | {cell(field.description)}{example} |"


def default_of(field: Field) -> str:
    if field.required:
        return "required"
    if field.default in ("none", '""'):
        return ""
    if field.default.startswith("{"):
        return "see below"
    return code(field.default)


def command_line() -> Iterator[str]:
    yield from ("# The command", "", "Results go to stdout, talk to stderr. Options of every verb:", "")
    yield from options_table(cli, shared=True)
    yield from ("", "| exit status | meaning |", "| --- | --- |", *(f"| {int(s)} | {text} |" for s, text in EXITS.items()), "")
    yield from verbs(cli, "pipe", 2)


def verbs(group: click.Group, path: str, level: int) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            continue
        arguments = " ".join(p.make_metavar(context) for p in command.params if isinstance(p, click.Argument))
        yield from (f"{'#' * level} `{path} {name}{' ' + arguments if arguments else ''}`", "")
        yield from (*inspect.cleandoc(command.help or "").splitlines(), "")
        if isinstance(command, click.Group):
            yield from verbs(command, f"{path} {name}", level + 1)
        elif table := list(options_table(command, shared=False)):
            yield from (*table, "")


def options_table(command: click.Command, *, shared: bool) -> Iterator[str]:
    context = click.Context(command)
    options = [
        p for p in command.params if isinstance(p, click.Option) and not p.hidden and isinstance(p, GlobalOption) == shared
    ]
    records = [record for option in options if (record := option.get_help_record(context)) is not None]
    if records:
        yield from ("| option | meaning |", "| --- | --- |", *(f"| {code(names)} | {cell(text)} |" for names, text in records))


def code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for path, content in pages().items():
        path.write_text(content, encoding="utf-8")
