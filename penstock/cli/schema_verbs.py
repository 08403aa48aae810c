"""`pipe schema ls | show | check | config`: the registry in files, `SUBJECT/VERSION.json` in one directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import click

from penstock.builtins import room
from penstock.cli import numbers
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import project_root
from penstock.cli.table import Column, table
from penstock.cli.terminal import Terminal, paint_error
from penstock.components import Catalog
from penstock.config.loader import project_registry
from penstock.config.schema import pipeline_schema, text
from penstock.errors import ExitStatus, PenstockError, Permanent, UsageError, Violation
from penstock.event import decode
from penstock.observe.text import printable


class SchemaValidator(Protocol):
    """One compiled schema (`registry.validation.Validator`)."""

    def violations(self, data: Any) -> list[Violation]: ...


class Registry(Protocol):
    """What the command uses of the registry (`registry.files.FileRegistry`)."""

    directory: Path

    def subjects(self) -> list[str]: ...
    def versions(self, subject: str) -> list[int]: ...
    def resolve(self, text: str) -> Any: ...
    def text(self, ref: Any) -> str: ...
    def validator(self, ref: Any) -> SchemaValidator: ...
    def check(self) -> list[PenstockError]: ...


_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    metavar="DIR",
    help="The registry.  [default: `registry` of penstock.yaml, or pipelines/schemas]",
)


def _registry(settings: Settings, directory: Path | None) -> Registry:
    place = directory or project_registry(project_root(settings), settings.environment())
    registry: Registry = room("registry")(place)
    return registry


@click.command("ls", cls=Verb, help="Subjects and their versions.")
@_directory
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def ls(settings: Settings, directory: Path | None, as_json: bool) -> None:
    terminal, registry = Terminal.of_process(), _registry(settings, directory)
    items = [(subject, registry.versions(subject)) for subject in registry.subjects()]
    if as_json:
        terminal.show_json({"items": [{"subject": name, "versions": versions} for name, versions in items], "next": None})
    elif not items:
        terminal.say(f"no schemas in {registry.directory}")
    else:
        rows = [(name, ", ".join(map(str, versions))) for name, versions in items]
        columns = [Column("SUBJECT", paint=terminal.style.cyan), Column("VERSIONS", shrinks=True)]
        terminal.show(*table(columns, rows, terminal.style, terminal.width))


@click.command("show", cls=Verb, help="One schema as it is written: SUBJECT, SUBJECT@VERSION or SUBJECT@latest.")
@click.argument("ref", metavar="SUBJECT[@VERSION]")
@_directory
@pass_settings
def show(settings: Settings, ref: str, directory: Path | None) -> None:
    terminal, registry = Terminal.of_process(), _registry(settings, directory)
    found = registry.resolve(ref)
    terminal.say(terminal.err_style.dim(printable(str(found))))
    terminal.show(printable(registry.text(found).rstrip("\n"), keep="\n\t"))


@click.command(
    "check",
    cls=Verb,
    help="""Without arguments, check every schema of the registry. With SUBJECT[@VERSION], check data against it.

    The data is JSON, one document a line or one in all, from FILE or standard input. Exits 4 where something is wrong.""",
)
@click.argument("ref", required=False, metavar="[SUBJECT[@VERSION]]")
@click.argument("file", required=False, type=click.File("rb"), metavar="[FILE]")
@_directory
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def check(settings: Settings, ref: str | None, file: IO[bytes] | None, directory: Path | None, as_json: bool) -> int:
    terminal, registry = Terminal.of_process(), _registry(settings, directory)
    if ref is None:
        return _check_registry(registry, terminal, as_json)
    validator = registry.validator(registry.resolve(ref))
    documents = wrong = 0
    items: list[dict[str, Any]] = []
    for number, violations in _violations(validator, file or sys.stdin.buffer):
        documents += 1
        wrong += bool(violations)
        if as_json:
            found = [{"path": v.path, "rule": v.rule, "message": v.message} for v in violations]
            items += [{"line": number, "violations": found}] if found else []
        else:
            terminal.show(*(f"line {number}: {printable(violation.message)}" for violation in violations))
    if as_json:
        terminal.show_json({"items": items, "next": None})
    else:
        terminal.say(f"{numbers.plural(documents, 'document')}, {documents - wrong} valid, {wrong} not")
    return int(ExitStatus.FOUND if wrong else ExitStatus.DONE)


def _violations(validator: SchemaValidator, file: IO[bytes]) -> Iterator[tuple[int, list[Violation]]]:
    """By line; a text that is one document over several lines is line 1. A line that is no JSON is one violation."""
    text = file.read()
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        yield 1, validator.violations(decode(text))
        return
    except Permanent as error:
        if not lines:
            raise UsageError(error.code, f"there is no data to check: {error.message}") from error
    for number, line in lines:
        try:
            yield number, validator.violations(decode(line))
        except Permanent as error:
            yield number, [Violation("", error.code, f"{error.message}{f': {error.why}' if error.why else ''}")]


def _check_registry(registry: Registry, terminal: Terminal, as_json: bool) -> int:
    problems = registry.check()
    if as_json:
        items = [
            {"code": each.code, "message": each.message, "file": str(each.where) if each.where else None, "why": each.why}
            for each in problems
        ]
        terminal.show_json({"items": items, "next": None})
    else:
        for problem in problems:
            terminal.show(paint_error(printable(problem.render(), keep="\n"), terminal.style), "")
        count = sum(len(registry.versions(subject)) for subject in registry.subjects())
        terminal.say(f"{numbers.plural(count, 'schema')}, {numbers.plural(len(problems), 'mistake')}")
    return int(ExitStatus.FOUND if problems else ExitStatus.DONE)


@click.command("config", cls=Verb, help="The JSON Schema of the pipeline file, for editors.")
@pass_settings
def config(settings: Settings) -> None:
    Terminal.of_process().show(text(pipeline_schema(Catalog())).rstrip("\n"))
