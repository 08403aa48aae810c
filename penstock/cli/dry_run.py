"""`pipe run --dry-run`: what would be delivered, printed instead of delivered. No state, no sink, no checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.cli import numbers
from penstock.cli.lazy import Settings
from penstock.cli.running import Request, make_log
from penstock.cli.summary import equation_lines
from penstock.cli.terminal import Style, Terminal
from penstock.cloudevents import to_structured
from penstock.config.model import Pipeline
from penstock.engine.preview import PreviewRecord, dry_run
from penstock.errors import ExitStatus
from penstock.faults import Faults
from penstock.observe.text import printable, printable_json


async def dry_run_all(pipelines: Sequence[Pipeline], request: Request, settings: Settings, terminal: Terminal) -> int:
    """One pipeline after the other. :return: the exit status."""
    dead_lettered = 0
    for pipeline in pipelines:
        dead_lettered += await _dry_run(pipeline, request, settings, terminal)
    return int(ExitStatus.FOUND if dead_lettered and request.fail_on_dead_letters else ExitStatus.DONE)


async def _dry_run(pipeline: Pipeline, request: Request, settings: Settings, terminal: Terminal) -> int:
    show = _silent if request.json else _printer(terminal)
    options = request.options(make_log(settings, terminal), Faults.from_environment())
    summary = await dry_run(pipeline, options, show)
    if request.json:
        terminal.show_json(summary.to_json())
        return summary.counts.dead_lettered
    style = terminal.err_style
    head = f"{pipeline.name}: nothing was delivered, no state was touched; of {numbers.plural(summary.counts.received, 'event')}"
    terminal.say("", style.bold(head), "", *equation_lines([("", summary.counts)], style), "")
    return summary.counts.dead_lettered


def _silent(record: PreviewRecord) -> None:
    """With --json only the counts are wanted."""


def _printer(terminal: Terminal) -> Callable[[PreviewRecord], None]:
    def show(record: PreviewRecord) -> None:
        terminal.show(*record_lines(record, terminal.style))

    return show


def record_lines(record: PreviewRecord, style: Style) -> list[str]:
    """One received event, and what would become of it: a line for each output, with the sinks that take it."""
    name = style.dim(printable(record.event.id))
    if record.failure is not None:
        failure = record.failure
        reason = printable(f"{failure.step}: {failure.error.message} [{failure.error.code}]")
        return [f"{name}  {style.yellow('dead letter')}  {reason}"]
    if not any(record.outputs.values()):
        return [f"{name}  {style.dim('filtered')}"]
    sinks_by_output: dict[int, list[str]] = {}
    outputs = {}
    for sink, events in record.outputs.items():
        for event in events:
            outputs[id(event)] = event
            sinks_by_output.setdefault(id(event), []).append(sink)
    lines = []
    for key, event in outputs.items():
        taken_by = style.green("→ " + printable(", ".join(sinks_by_output[key])))
        lines.append(f"{name}  {taken_by}  {printable_json(to_structured(event)).decode()}")
    return lines
