"""`pipe test`: the tests that pipeline files declare."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from penstock.cli import complete, numbers
from penstock.cli.junit import junit_xml
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import load_files
from penstock.cli.terminal import Style, Terminal
from penstock.config.model import Pipeline
from penstock.engine.preview import TestResult, run_test
from penstock.errors import ExitStatus, UsageError
from penstock.observe.text import printable


@dataclass(frozen=True, slots=True)
class Ran:
    """One case that was run, and how long it took in seconds."""

    pipeline: Pipeline
    result: TestResult
    seconds: float


@click.command(
    "test",
    cls=Verb,
    help="Run the `tests:` of files, directories, globs and named pipelines. No server, state or sink is touched.",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", shell_complete=complete.files)
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write JUnit XML, too.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def test(settings: Settings, files: tuple[str, ...], junit: Path | None, overrides: tuple[str, ...], as_json: bool) -> int:
    terminal = Terminal.of_process()
    pipelines = load_files(settings, files, overrides)
    ran = asyncio.run(_run_all(pipelines))
    if junit is not None:
        _write(junit, junit_xml(ran))
    if as_json:
        terminal.show_json({"items": [result_document(each) for each in ran], "next": None})
    else:
        terminal.show(*result_lines(pipelines, ran, terminal.style))
    return int(ExitStatus.DONE if all(each.result.passed for each in ran) else ExitStatus.FOUND)


async def _run_all(pipelines: Sequence[Pipeline]) -> list[Ran]:
    ran = []
    for pipeline in pipelines:
        for case in pipeline.tests:
            begun = time.perf_counter()
            result = await run_test(pipeline, case)
            ran.append(Ran(pipeline, result, time.perf_counter() - begun))
    return ran


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError("test.cannot_write", f"cannot write {file}", why=error.strerror) from error


def result_document(ran: Ran) -> dict[str, Any]:
    """One case of `--json`."""
    result = ran.result
    return {
        "pipeline": ran.pipeline.name,
        "name": result.case.name,
        "passed": result.passed,
        "seconds": round(ran.seconds, 3),
        "at": str(result.case.location),
        "expected": result.expected,
        "actual": result.actual,
    }


def result_lines(pipelines: Sequence[Pipeline], ran: Sequence[Ran], style: Style) -> list[str]:
    """Each case, the difference where it failed, and the count."""
    lines: list[str] = []
    for pipeline in pipelines:
        lines.append(style.bold(printable(pipeline.name)) + ("" if pipeline.tests else style.dim("  no tests")))
        for each in ran:
            if each.pipeline is pipeline:
                lines += _case_lines(each, style)
    failed = sum(not each.result.passed for each in ran)
    passed = f"{len(ran) - failed} passed"
    count = f"{style.red(numbers.plural(failed, 'test') + ' failed')}, {passed}" if failed else style.green(passed)
    return [*lines, "", count]


def _case_lines(ran: Ran, style: Style) -> list[str]:
    result = ran.result
    if result.passed:
        return [f"  {style.green('✓')} {printable(result.case.name)}"]
    lines = [f"  {style.red('✗')} {printable(result.case.name)}  {style.dim(printable(str(result.case.location)))}"]
    return [*lines, *(f"      {_paint(line, style)}" for line in printable(result.diff, keep="\n").splitlines())]


def _paint(line: str, style: Style) -> str:
    if line.startswith(("---", "-")):
        return style.red(line) if not line.startswith("---") else style.dim(line)
    if line.startswith("+"):
        return style.green(line) if not line.startswith("+++") else style.dim(line)
    return style.dim(line) if line.startswith("@@") else line
