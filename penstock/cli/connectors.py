"""`pipe connectors`: the components there are, and their fields, from their configuration models."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import click

from penstock.cli import complete
from penstock.cli.component_fields import Field, fields_of, summary_of
from penstock.cli.dlq_render import hint_lines
from penstock.cli.lazy import Settings, Verb, pass_settings, unknown
from penstock.cli.table import Column, table
from penstock.cli.terminal import Style, Terminal
from penstock.components import KINDS, Catalog, Kind


@click.command("connectors", cls=Verb, help="List sources, transforms and sinks; with a name, document its fields.")
@click.argument("name", required=False, shell_complete=complete.components)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def connectors(settings: Settings, name: str | None, as_json: bool) -> None:
    terminal, catalog = Terminal.of_process(), Catalog()
    found = _find(catalog, name)
    if as_json:
        items = [component_document(kind, each, catalog.find(kind, each)) for kind, each in found]
        terminal.show_json({"items": items, "next": None})
        return
    if name is None:
        terminal.show(*list_lines(catalog, terminal.style, terminal.width))
        if terminal.interactive:
            terminal.say("", *hint_lines([("pipe connectors NAME", "fields, defaults, examples")], terminal.err_style))
        return
    for kind, each in found:
        terminal.show(*component_lines(kind, each, catalog.find(kind, each), terminal.style, terminal.width), "")


def _find(catalog: Catalog, name: str | None) -> list[tuple[Kind, str]]:
    """All components, or those called so: a source and a sink often share their system's name.

    :raises UsageError: `usage.unknown_component`, with the name that was probably meant.
    """
    everything = [(kind, each) for kind in KINDS for each in catalog.names(kind)]
    if name is None:
        return everything
    found = [(kind, each) for kind, each in everything if each == name]
    if not found:
        known = sorted({each for _, each in everything})
        raise unknown("usage.unknown_component", "there is no component", name, known, "pipe connectors")
    return found


def component_document(kind: Kind, name: str, cls: Any) -> dict[str, Any]:
    """One component of `--json`."""
    return {
        "kind": kind,
        "name": name,
        "summary": summary_of(cls),
        "shorthand": getattr(cls.Config, "shorthand", None),
        "fields": [field.document() for field in fields_of(cls.Config)],
    }


def list_lines(catalog: Catalog, style: Style, width: int | None) -> list[str]:
    """A table of each kind."""
    lines: list[str] = []
    for kind in KINDS:
        rows = [(name, summary_of(catalog.find(kind, name))) for name in catalog.names(kind)]
        lines.append(style.bold(f"{kind}s"))
        lines += table([Column("", paint=style.cyan), Column("", shrinks=True)], rows, style, width, "  ")[1:]
        lines.append("")
    return lines[:-1]


def component_lines(kind: Kind, name: str, cls: Any, style: Style, width: int | None) -> list[str]:
    """What a component is, and what can be set."""
    lines = [f"{style.bold(name)}  {kind}", *_wrapped(summary_of(cls), "", width), ""]
    fields = fields_of(cls.Config)
    if not fields:
        return [*lines, "  no fields"]
    for field in fields:
        lines += _field_lines(field, style, width)
    shorthand = getattr(cls.Config, "shorthand", None)
    if shorthand:
        lines.append(f"  {style.dim('short:')} {name}: VALUE  sets {shorthand}")
    return lines


def _field_lines(field: Field, style: Style, width: int | None) -> list[str]:
    state = style.yellow("required") if field.required else style.dim(f"default {field.default}")
    lines = [f"  {style.cyan(field.name)}  {field.type}  {state}", *_wrapped(field.description, "      ", width)]
    if field.example is not None:
        lines.append(f"      {style.dim('example:')} {field.name}: {field.example}")
    return lines


def _wrapped(text: str, indent: str, width: int | None) -> Sequence[str]:
    return textwrap.wrap(text, min(width or 100, 100), initial_indent=indent, subsequent_indent=indent)
