"""`pipe lint`: every mistake of some files at once; connects to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from penstock.cli import complete, numbers
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import project_root
from penstock.cli.terminal import Style, Terminal, paint_error
from penstock.config.lint import LintReport
from penstock.config.lint import lint as lint_files
from penstock.config.paths import expand
from penstock.errors import ConfigProblem, ExitStatus, Location
from penstock.observe.text import printable


@click.command(
    "lint",
    cls=Verb,
    help="Check files, directories, globs and named pipelines: every mistake at once. Never connects to anything.",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", shell_complete=complete.files)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def lint(settings: Settings, files: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> int:
    terminal = Terminal.of_process()
    project = project_root(settings)
    reports = lint_files(expand(files, project), overrides=overrides, environment=settings.environment(), project=project)
    if as_json:
        terminal.show_json({"items": [item for report in reports for item in report_documents(report)], "next": None})
    else:
        terminal.show(*report_lines(reports, terminal.style))
    return int(ExitStatus.USAGE if any(report.problems for report in reports) else ExitStatus.DONE)


def report_documents(report: LintReport) -> list[dict[str, Any]]:
    """The problems and warnings of one file."""
    warnings = [ConfigProblem("config.warning", warning) for warning in report.warnings]
    return [
        *(_document(report, "error", problem) for problem in report.problems),
        *(_document(report, "warning", warning) for warning in warnings),
    ]


def _document(report: LintReport, severity: str, problem: ConfigProblem) -> dict[str, Any]:
    where = problem.where if isinstance(problem.where, Location) else Location(str(report.file))
    return {
        "severity": severity,
        "code": problem.code,
        "message": problem.message,
        "file": where.file,
        "line": where.line or None,
        "column": where.column or None,
        "path": where.path or None,
        "why": problem.why,
        "help": problem.help,
    }


def report_lines(reports: Sequence[LintReport], style: Style) -> list[str]:
    """All that was found, and how much that is."""
    lines: list[str] = []
    for report in reports:
        for problem in report.problems:
            lines += [paint_error(printable(problem.render(), keep="\n"), style), ""]
        for warning in report.warnings:
            lines += [
                paint_error(f"warning[config.warning]: {printable(warning)}\n  --> {printable(str(report.file))}", style),
                "",
            ]
    mistakes, warnings = sum(len(r.problems) for r in reports), sum(len(r.warnings) for r in reports)
    sound = sum(not report.problems for report in reports)
    counts = [numbers.plural(mistakes, "mistake")] if mistakes else []
    counts += [numbers.plural(warnings, "warning")] if warnings else []
    mark = style.red("✗") if mistakes else style.green("✓")
    verdict = ", ".join(counts) or "no mistakes"
    return [*lines, f"{mark} {numbers.plural(len(reports), 'file')}, {sound} sound: {verdict}"]
