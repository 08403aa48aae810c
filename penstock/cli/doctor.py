"""`pipe doctor`: connects, and finds what would keep pipelines from running well, each finding with what mends it."""

from __future__ import annotations

import asyncio
import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from penstock.cli import complete, numbers
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import project_root
from penstock.cli.terminal import Style, Terminal
from penstock.clock import SystemClock
from penstock.config.lint import LintReport
from penstock.config.lint import lint as lint_files
from penstock.config.paths import expand, pipelines_in
from penstock.engine.assemble import Surroundings
from penstock.engine.examine import Section, examine
from penstock.errors import ConfigProblem, ExitStatus
from penstock.faults import Faults
from penstock.observe.text import printable
from penstock.spi import Finding


@dataclass(frozen=True, slots=True)
class Report:
    """What was found about one file.

    :ivar sound: whether it could be read; else its mistakes are all that is known.
    """

    name: str
    file: Path
    sections: Sequence[Section]
    sound: bool = True

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for section in self.sections for finding in section.findings)


@click.command(
    "doctor",
    cls=Verb,
    help="Connect to everything that pipelines use, and say what would keep them from running well, each with the SQL or command "
    "that mends it. Changes nothing. Without a name: all pipelines of the project.",
)
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE…]", shell_complete=complete.files)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def doctor(settings: Settings, pipelines: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> int:
    terminal, project = Terminal.of_process(), project_root(settings)
    files = expand(pipelines, project) if pipelines else list(pipelines_in(project / "pipelines"))
    checked = lint_files(files, overrides=overrides, environment=settings.environment(), project=project)
    if not checked and not as_json:
        terminal.say("no pipelines here")
        return int(ExitStatus.DONE)
    reports = asyncio.run(look_at_all(checked, None if as_json else terminal))
    if as_json:
        terminal.show_json({"items": [item for report in reports for item in report_documents(report)], "next": None})
    else:
        terminal.show(verdict(reports, terminal.style))
    if not all(report.sound for report in reports):
        return int(ExitStatus.USAGE)
    return int(ExitStatus.FOUND if any(report.count("error") for report in reports) else ExitStatus.DONE)


async def look_at_all(checked: Sequence[LintReport], terminal: Terminal | None = None) -> list[Report]:
    """One report a file.

    :param terminal: where each is shown as soon as it is there: a server that does not answer takes its time.
    """
    reports = []
    for each in checked:
        reports.append(await look_at(each))
        if terminal is not None:
            terminal.show(*report_lines(reports[-1], terminal.style, terminal.width))
            terminal.out.flush()
    return reports


async def look_at(checked: LintReport) -> Report:
    """Of a file with mistakes these are all that is looked at."""
    if checked.pipeline is None:
        mistakes = [_mistake(problem) for problem in checked.problems]
        return Report(checked.file.stem, checked.file, [Section("file", "", mistakes)], sound=False)
    notes = [Finding("warning", "config.warning", warning) for warning in checked.warnings]
    sections = await examine(checked.pipeline, Surroundings(SystemClock(), random.Random(), Faults()))
    return Report(checked.pipeline.name, checked.file, [*([Section("file", "", notes)] if notes else []), *sections])


def _mistake(problem: ConfigProblem) -> Finding:
    place = "" if problem.where is None else f"{problem.where}: "
    return Finding("error", problem.code, f"{place}{problem.message}", problem.why, problem.help)


def report_documents(report: Report) -> list[dict[str, Any]]:
    """Every finding of one file, those that are sound among them."""
    return [
        {
            "pipeline": report.name,
            "part": section.title,
            "kind": section.kind or None,
            "severity": finding.severity,
            "code": finding.code,
            "message": finding.message,
            "why": finding.why,
            "help": finding.help,
        }
        for section in report.sections
        for finding in section.findings
    ]


def report_lines(report: Report, style: Style, width: int | None) -> list[str]:
    """Everything that was looked at, by part."""
    lines = [f"{style.bold(printable(report.name))}  {style.dim(printable(str(report.file)))}", ""]
    for section in report.sections:
        kind = f"  {style.dim(printable(section.kind))}" if section.kind and section.kind != section.title else ""
        lines.append(f"  {style.bold(printable(section.title))}{kind}")
        for finding in section.findings:
            lines += _finding_lines(finding, style, width)
        lines.append("")
    return lines


def _finding_lines(finding: Finding, style: Style, width: int | None) -> list[str]:
    marks = {"ok": style.green("✓"), "warning": style.yellow("!"), "error": style.red("✗")}
    code = "" if finding.severity == "ok" else f"[{finding.code}]"
    *more, last = _wrapped(f"{finding.message} {code}".rstrip(), width, 6)
    text = [*more, last.removesuffix(code) + style.dim(code) if code and last.endswith(code) else last]
    lines = [f"    {marks[finding.severity]} {text[0]}", *(f"      {line}" for line in text[1:])]
    if finding.why:
        label, *rest = _wrapped(f"why: {finding.why}", width, 6)
        lines += [f"      {style.cyan('why:')}{label[4:]}", *(f"           {line}" for line in rest)]
    if finding.help:  # never wrapped: it is there to be copied
        lines.append(f"      {style.cyan('help:')} {printable(finding.help)}")
    return lines


def _wrapped(text: str, width: int | None, indent: int) -> list[str]:
    text = printable(text)
    return [text] if width is None else textwrap.wrap(text, max(40, width - indent - 5), break_on_hyphens=False) or [""]


def verdict(reports: Sequence[Report], style: Style) -> str:
    """How much of it is not as it should be."""
    errors, warnings, sound = (sum(report.count(severity) for report in reports) for severity in ("error", "warning", "ok"))
    said = [numbers.plural(errors, "error")] if errors else []
    said += [numbers.plural(warnings, "warning")] if warnings else []
    mark = style.red("✗") if errors else style.yellow("!") if warnings else style.green("✓")
    found = ", ".join(said) or "nothing to mend"
    return f"{mark} {numbers.plural(len(reports), 'pipeline')}: {found}; {numbers.plural(sound, 'check')} passed"
