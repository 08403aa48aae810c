"""`pipe dlq to-test`: a dead letter becomes a regression test in the pipeline's own file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import click

from penstock.builtins import room
from penstock.cli import complete, numbers
from penstock.cli.dlq_redaction import redaction_of, redaction_options
from penstock.cli.dlq_render import SHORT_ID, hint_lines
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import find_stores, load_file, load_named
from penstock.cli.stores import letter_anywhere
from penstock.cli.terminal import Terminal
from penstock.config.model import Pipeline
from penstock.config.yaml_entry import with_entry
from penstock.errors import UsageError
from penstock.observe.text import printable, shorten
from penstock.state.records import DeadLetter

_NAME_LENGTH = 100


class Regression(Protocol):
    """What was made of a letter (`dlq.regression.Regression`)."""

    @property
    def entry(self) -> Mapping[str, Any]: ...
    @property
    def redacted(self) -> Sequence[str]: ...
    @property
    def differs(self) -> str | None: ...


@click.command(
    "to-test",
    cls=Verb,
    help="""Write a dead letter into the `tests:` of its pipeline's file, comments and format kept: its event, and what the
    pipeline as it is now makes of it. Mend the pipeline first, and the test says that it stays mended; before that it says how
    the event fails.

    What `redact` steps name, and what is likely to be secret or personal, is replaced by something of the same shape.""",
)
@click.argument("letter", metavar="ID")
@click.option("--pipeline", metavar="NAME", help="Look in this pipeline only.", shell_complete=complete.pipelines)
@click.option("--name", metavar="TEXT", help="What the test is called.")
@redaction_options("--plain", is_flag=True, help="Guess nothing: only --redact and what `redact` steps name.")
@click.option("--edited", is_flag=True, help="The edited event, not what came.")
@click.option("--dry-run", is_flag=True, help="Show the file's new part, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def to_test(
    settings: Settings,
    letter: str,
    pipeline: str | None,
    name: str | None,
    redact: tuple[str, ...],
    keep: tuple[str, ...],
    plain: bool,
    edited: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    terminal = Terminal.of_process()
    refs = find_stores(settings, [pipeline] if pipeline else [], whole=False)
    found = asyncio.run(letter_anywhere(refs, letter)).letter
    if not edited:
        found = replace(found, edited=None)
    loaded = load_named(settings, found.pipeline)
    redaction = redaction_of(redact, keep, guesses=not plain)
    made: Regression = asyncio.run(room("regression")(loaded, found, _name(loaded, found, name), redaction))
    text, new = _texts(loaded.file, made.entry)
    if dry_run:
        terminal.show(*_added(text, new))
    else:
        _write(settings, loaded, new)
    if as_json and not dry_run:
        document = {"pipeline": loaded.name, "file": str(loaded.file), "test": made.entry, "redacted": list(made.redacted)}
        terminal.show_json({**document, "differs": made.differs})
    elif not as_json:
        terminal.say(*_told(loaded, made, dry_run, terminal))


def _name(pipeline: Pipeline, letter: DeadLetter, name: str | None) -> str:
    """:raises UsageError: `dlq.test_exists`."""
    chosen = name or shorten(f"dead letter {letter.id[:SHORT_ID]}: {letter.code} in {letter.step}", _NAME_LENGTH)
    if any(case.name == chosen for case in pipeline.tests):
        raise UsageError("dlq.test_exists", f"{pipeline.file} has a test {chosen!r}", help="--name gives another name")
    return chosen


def _texts(file: Path, entry: Mapping[str, Any]) -> tuple[str, str]:
    text = file.read_bytes().decode("utf-8")
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    return text, mark + with_entry(text.removeprefix(mark), "tests", entry, str(file))


def _added(text: str, new: str) -> list[str]:
    from difflib import unified_diff

    return [
        printable(line) for line in unified_diff(text.splitlines(), new.splitlines(), "as it is", "with the test", lineterm="")
    ]


def _write(settings: Settings, pipeline: Pipeline, text: str) -> None:
    """Whole or not at all, and only what loads. The file keeps its mode, and a link leads to it still.

    :raises UsageError: `dlq.cannot_write`.
    """
    file = pipeline.file.resolve()
    draft = file.with_name(f".{file.stem}.new{file.suffix}")
    try:
        draft.write_bytes(text.encode())
        draft.chmod(file.stat().st_mode & 0o777)
        load_file(settings, draft)
        draft.replace(file)
    except OSError as error:
        raise UsageError("dlq.cannot_write", f"cannot write {pipeline.file}", why=error.strerror) from error
    finally:
        draft.unlink(missing_ok=True)


def _told(pipeline: Pipeline, made: Regression, dry_run: bool, terminal: Terminal) -> list[str]:
    style = terminal.err_style
    expects = _expected(made.entry)
    lines = [f"{pipeline.file}: a test{' would be' if dry_run else ''} added, which expects {printable(expects)}"]
    if made.redacted:
        lines.append(f"redacted: {printable(', '.join(made.redacted))}")
    if made.differs is not None:
        lines.append(
            f"{style.yellow('warning[dlq.redaction_matters]')}: with the event as it came {printable(made.differs)}; --keep PATH"
        )
    return lines if dry_run else lines + hint_lines([(f"pipe test {pipeline.name}", "runs it")], style)


def _expected(entry: Mapping[str, Any]) -> str:
    failure, outputs = entry.get("dead_letter"), entry.get("output") or []
    if failure is not None:
        return f"the failure in {failure['step']} ({failure['code']}), as it is now: mend the cause, then say there what is right"
    if not outputs:
        return "that the event is filtered, as it is now"
    return f"{numbers.plural(len(outputs), 'output')}, as the pipeline gives now"
