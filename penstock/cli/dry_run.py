"""`pipe run --dry-run`: what would be delivered, printed instead of delivered. No state, no sink, no checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from penstock.cli import numbers
from penstock.cli.lazy import Settings
from penstock.cli.running import Request, make_log
from penstock.cli.summary import equation_lines
from penstock.cli.terminal import Style, Terminal
from penstock.cloudevents import to_structured
from penstock.config.model import Pipeline
from penstock.engine.effects import Unanswered
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
    done = await dry_run(pipeline, options, show)
    counts, unanswered = done.summary.counts, done.unanswered
    if request.json:
        terminal.show_json({**done.summary.to_json(), "unanswered": dict(unanswered)})
        return counts.dead_lettered
    style = terminal.err_style
    head = f"{pipeline.name}: nothing was delivered, no state was touched; of {numbers.plural(counts.received, 'event')}"
    terminal.say("", style.bold(head), "", *equation_lines([("", counts)], style, sum(unanswered.values())))
    terminal.say(*(f"  {style.yellow(line)}" for line in _unanswered_lines(unanswered)), "")
    return counts.dead_lettered


def _unanswered_lines(unanswered: Mapping[str, int]) -> list[str]:
    return [
        f"{printable(step)} has effects, and was not performed: of {numbers.plural(count, 'event')} the outcome is not known"
        for step, count in unanswered.items()
    ]


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
        if isinstance(failure.error, Unanswered):
            return [f"{name}  {style.yellow('unanswered')}  {printable(f'{failure.step}: {failure.error.message}')}"]
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
