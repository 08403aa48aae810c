"""`pipe new`: a pipeline to begin with, that lints clean and says what else could be set."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from penstock.cli.component_fields import Field, fields_of
from penstock.cli.dlq_render import hint_lines
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import load_file, project_root
from penstock.cli.terminal import Terminal
from penstock.components import Catalog, Kind
from penstock.config.schema import pipeline_schema, text
from penstock.errors import UsageError

SCHEMA_FILE = "pipeline.schema.json"
_NAME = re.compile(r"[a-z0-9-]{1,63}")


@click.command(
    "new",
    cls=Verb,
    help="""Start a pipeline: pipelines/NAME.yaml, a schema for its events, and completion in editors.

    `pipe connectors` lists what can be read from and written to.""",
)
@click.argument("name")
@click.option("--from", "source", default="file", show_default=True, metavar="SOURCE", help="What it reads.")
@click.option("--to", "sink", default="stdout", show_default=True, metavar="SINK", help="What it writes.")
@pass_settings
def new(settings: Settings, name: str, source: str, sink: str) -> None:
    terminal, catalog = Terminal.of_process(), Catalog()
    if not _NAME.fullmatch(name):
        raise UsageError("usage.bad_name", f"{name!r} cannot name a pipeline", help="a to z, 0 to 9 and -, at most 63")
    parts = {"source": _component(catalog, "source", source, name), "sink": _component(catalog, "sink", sink, name)}
    root = project_root(settings)
    directory = root / "pipelines"
    files = {
        directory / f"{name}.yaml": pipeline_text(name, parts["source"], parts["sink"]),
        directory / "schemas" / f"{name}.record" / "1.json": schema_text(name),
    }
    _write(files, directory / SCHEMA_FILE)
    load_file(settings, directory / f"{name}.yaml")
    terminal.say(*(f"wrote {_shown(file)}" for file in files), "")
    file = _shown(directory / f"{name}.yaml")
    hints = [
        (f"pipe lint {file}", "after each change"),
        (f"pipe test {file}", "its tests"),
        (f"pipe run --once --dry-run {file}", "what would be delivered"),
        (f"pipe run {file}", "in earnest"),
    ]
    terminal.say(terminal.err_style.bold("next"), *hint_lines(hints, terminal.err_style))


def _shown(file: Path) -> str:
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def _write(files: dict[Path, str], schema: Path) -> None:
    """New files only; the editor's schema is brought up to date.

    :raises UsageError: `new.exists`, `new.cannot_write`.
    """
    for file in files:
        if file.exists():
            raise UsageError("new.exists", f"{_shown(file)} exists already", help="choose another name, or remove it")
    try:
        for file, content in {**files, schema: text(pipeline_schema(Catalog()))}.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, "utf-8")
    except OSError as error:
        raise UsageError("new.cannot_write", f"cannot write {error.filename}", why=error.strerror) from error


def _component(catalog: Catalog, kind: Kind, name: str, pipeline: str) -> str:
    """The component's block: what it needs is filled in, what it offers stands in comments."""
    fields = fields_of(catalog.find(kind, name).Config)
    needed = [field for field in fields if field.required]
    others = [field for field in fields if not field.required]
    if not fields:
        return f"  {name}: {{}}\n"
    lines = [f"  {name}:" + ("" if needed else " {}")]
    for field in needed:
        lines.append(f"    {field.name}: {_value(kind, name, field, pipeline)}".ljust(48) + f"  # {_brief(field)}")
    for field in others:
        value = field.example or field.default
        lines.append(f"    # {field.name}: {value}".ljust(48) + f"  # {_brief(field)}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _value(kind: Kind, name: str, field: Field, pipeline: str) -> str:
    """What stands in the file for a field that must be set."""
    table = pipeline.replace("-", "_")
    known = {
        ("source", "file", "paths"): f"[data/{pipeline}*.jsonl]",
        ("sink", "file", "path"): f"out/{pipeline}.jsonl",
        ("sink", "sqlite", "path"): f"out/{pipeline}.db",
        ("sink", "sqlite", "table"): table if not table[0].isdigit() else f"t_{table}",
    }
    value = known.get((kind, name, field.name))
    if value is not None:
        return value
    if field.type == "secret":
        return f"${{{name.upper()}_{field.name.upper()}:}}"
    return field.example or "change-me"


def _brief(field: Field) -> str:
    return re.split(r"(?<=[.;:]) ", field.description)[0].rstrip(".;:") or field.type


def pipeline_text(name: str, source: str, sink: str) -> str:
    """The pipeline file."""
    return f"""\
# yaml-language-server: $schema={SCHEMA_FILE}
pipeline: {name}
description: What this pipeline is for.

source:
{source}
  event:                                        # how a record becomes a CloudEvent: jq over the record, or plain text
    type: {name}.record
    # subject: .id
    # time: .created_at

validate: {name}.record@1                       # schemas/{name}.record/1.json

transforms:
  - name: shape
    jq: .                                       # the data in, the data out; $event has the attributes

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
