"""`pipe new`: a pipeline to begin with, that lints clean, passes its test, runs, and says what else could be set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from penstock.cli import complete
from penstock.cli.component_fields import Field, fields_of
from penstock.cli.dlq_render import hint_lines
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import load_file, project_root
from penstock.cli.terminal import Terminal
from penstock.components import Catalog, Kind
from penstock.config.loader import project_registry
from penstock.config.schema import pipeline_schema, text
from penstock.errors import UsageError

SCHEMA_FILE = "pipeline.schema.json"
SAMPLE = '{"id": 1}\n'
_COMMENTS = 50
_NAME = re.compile(r"[a-z0-9-]{1,63}")


@click.command(
    "new",
    cls=Verb,
    help="""Start a pipeline: pipelines/NAME.yaml, a schema for its events, a record to try it on, and completion in editors.

    `pipe connectors` lists what can be read from and written to. Files that exist are left alone.""",
)
@click.argument("name")
@click.option(
    "--from",
    "source",
    default="file",
    show_default=True,
    metavar="SOURCE",
    help="What it reads.",
    shell_complete=complete.sources,
)
@click.option(
    "--to", "sink", default="stdout", show_default=True, metavar="SINK", help="What it writes.", shell_complete=complete.sinks
)
@pass_settings
def new(settings: Settings, name: str, source: str, sink: str) -> None:
    terminal, catalog = Terminal.of_process(), Catalog()
    if not _NAME.fullmatch(name):
        raise UsageError("usage.bad_name", f"{name!r} cannot name a pipeline", help="a to z, 0 to 9 and -, at most 63")
    parts = {"source": _component(catalog, "source", source, name), "sink": _component(catalog, "sink", sink, name)}
    root = project_root(settings)
    registry = project_registry(root, settings.environment())
    file, schema = root / "pipelines" / f"{name}.yaml", registry / f"{name}.record" / "1.json"
    files = {file: pipeline_text(name, _place(schema, root), parts["source"], parts["sink"]), schema: schema_text(name)}
    aids = {file.with_name(SCHEMA_FILE): text(pipeline_schema(catalog))}
    if source == "file":
        aids[root / "data" / f"{name}.jsonl"] = SAMPLE
    written = _write(files, aids)
    load_file(settings, file)
    terminal.say(*(f"wrote {_place(each, Path.cwd())}" for each in written), "")
    terminal.say(terminal.err_style.bold("next"), *hint_lines(_hints(_place(file, Path.cwd())), terminal.err_style))


def _hints(file: str) -> list[tuple[str, str]]:
    return [
        (f"pipe lint {file}", "after each change"),
        (f"pipe test {file}", "its tests"),
        (f"pipe run --once --dry-run {file}", "what would be delivered"),
        (f"pipe run --once {file}", "in earnest"),
    ]


def _place(file: Path, start: Path) -> str:
    """As short as it can be said from there."""
    return str(file.relative_to(start)) if file.is_relative_to(start) else str(file)


def _write(files: Mapping[Path, str], aids: Mapping[Path, str]) -> list[Path]:
    """Write the files, which must be new, and of the aids those that are missing; the editor's schema is brought up to date.

    :return: what was written.
    :raises UsageError: `new.exists`, `new.cannot_write`.
    """
    for file in files:
        if file.exists():
            shown = _place(file, Path.cwd())
            raise UsageError("new.exists", f"{shown} exists already", help="choose another name, or remove it")
    written = []
    try:
        for file, content in {**files, **aids}.items():
            if file.exists() and (file.name != SCHEMA_FILE or file.read_bytes() == content.encode()):
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, "utf-8")
            written.append(file)
    except OSError as error:
        raise UsageError("new.cannot_write", f"cannot write {error.filename}", why=error.strerror) from error
    return written


def _component(catalog: Catalog, kind: Kind, name: str, pipeline: str) -> str:
    """The component's block: what it needs is filled in, what it offers stands in comments."""
    values, offers = _values(pipeline).get((kind, name), {}), _offers(pipeline).get((kind, name), {})
    lines = []
    for field in fields_of(catalog.find(kind, name).Config):
        value = values.get(field.name)
        if value is None and field.required:
            value = f"${{{name.upper()}_{field.name.upper()}:}}" if field.type == "secret" else field.example or "change-me"
        text = (
            f"    {field.name}: {value}"
            if value is not None
            else f"    # {field.name}: {offers.get(field.name) or _offer(field)}"
        )
        lines.append(f"{text.ljust(_COMMENTS - 2)}  # {_brief(field)}")
    return "\n".join([f"  {name}:", *lines])


def _values(pipeline: str) -> dict[tuple[Kind, str], dict[str, str]]:
    """What fits this pipeline better than an example of the field."""
    table = pipeline.replace("-", "_")
    table = f"t_{table}" if table[0].isdigit() else table
    return {
        ("source", "file"): {"paths": f"[data/{pipeline}*.jsonl]"},
        ("source", "generate"): {"count": "10"},
        ("source", "postgres"): {"table": f"public.{table}"},
        ("source", "postgres_cdc"): {"tables": f"[public.{table}]"},
        ("sink", "file"): {"path": f"out/{pipeline}.jsonl"},
        ("sink", "postgres"): {"table": f"public.{table}", "create": "true"},
        ("sink", "sqlite"): {
            "path": f"out/{pipeline}.db",
            "table": table,
            "create": "true",
        },
    }


def _offers(pipeline: str) -> dict[tuple[Kind, str], dict[str, str]]:
    """The same, of fields that stand in comments."""
    return {("sink", "postgres"): {"schema": f"{pipeline}.record@1"}}


def _offer(field: Field) -> str:
    """What stands in a comment: valid, should somebody uncomment it."""
    if field.example is not None:
        return field.example
    return field.default if field.default != "none" else "1" if field.type == "integer" else '""'


def _brief(field: Field) -> str:
    """The first clause of its description; its type where that only begins a list of choices."""
    first = re.split(r"(?<=[.;:]) ", field.description)[0].rstrip(".;:")
    return field.type if first.startswith("`") or not first else first


def pipeline_text(name: str, schema: str, source: str, sink: str) -> str:
    """The pipeline file.

    :param schema: where its schema lies, for the comment.
    """
    return f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
pipeline: {name}
description: What this pipeline is for.

source:
{source}
  event:                                          # how a record becomes a CloudEvent: jq over the record, or plain text
    type: {name}.record
    # subject: .id
    # time: .created_at

validate: {f"{name}.record@1".ljust(_COMMENTS - 10)}# {schema}

transforms:
  - name: shape
    jq: .                                         # the data in, the data out; $event has the attributes

sink:
{sink}

tests:
  - name: a record passes through
    input: {{ data: {{ id: 1 }} }}
    output: [{{ type: {name}.record, data: {{ id: 1 }} }}]
"""


def schema_text(name: str) -> str:
    """The first version of the schema: any object, to be narrowed."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{name}.record",
        "type": "object",
        "properties": {},
        "required": [],
    }
    return json.dumps(schema, indent=2) + "\n"
