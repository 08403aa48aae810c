"""Carries `pipe run` out: options, talk, supervision, summaries."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from penstock.cli.lazy import Settings
from penstock.cli.progress import ProgressDisplay
from penstock.cli.stores import open_groups
from penstock.cli.summary import plain_summary, summary_lines
from penstock.cli.supervise import Outcome, Supervisor, worst
from penstock.cli.terminal import Style, Terminal, paint_error
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.engine.garbage import collect_less
from penstock.engine.run import Run, RunOptions
from penstock.errors import PenstockError, UsageError
from penstock.faults import Faults
from penstock.observe.http import Address, ObserveServer
from penstock.observe.log import Incident, JsonLog, Log, TextLog, from_error, stream_writer
from penstock.observe.text import printable


@dataclass(frozen=True, slots=True)
class Request:
    """What `pipe run` was asked for."""

    once: bool = False
    max_events: int | None = None
    json: bool = False
    wait: bool = False
    take_over: bool = False
    fail_on_dead_letters: bool = False
    http: Address | None = None

    def options(self, log: Log, faults: Faults) -> RunOptions:
        """For each run of the process."""
        return RunOptions(
            once=self.once, max_events=self.max_events, wait=self.wait, take_over=self.take_over, log=log, faults=faults
        )


def refuse_mixed_output(pipelines: Sequence[Pipeline], request: Request) -> None:
    """:raises UsageError: `run.json_with_stdout`: events and the summary would share one stream."""
    for pipeline in pipelines:
        for sink in pipeline.sinks:
            if request.json and sink.component.kind == "stdout":
                raise UsageError(
                    "run.json_with_stdout",
                    f"--json prints to stdout, and so does the sink {sink.name!r} of {pipeline.name}",
                    where=sink.component.location,
                    help="leave --json out, or send the events elsewhere",
                )


async def run_all(pipelines: Sequence[Pipeline], request: Request, settings: Settings, terminal: Terminal) -> int:
    """Run them side by side, and say how they ended.

    :return: the exit status: the worst of them, or 128 + the number of the signal that cut them short.
    """
    display = _display(pipelines, terminal)
    log = make_log(settings, terminal, display)
    for pipeline in pipelines:
        for warning in pipeline.warnings:
            log(Incident("warning", "config.warning", warning, pipeline=pipeline.name))
    faults = Faults.from_environment()
    collect_less()
    runs = [Run(pipeline, request.options(log, faults)) for pipeline in pipelines]
    talk = _Talk(request, settings, terminal, display, log, several=len(runs) > 1)
    supervisor = Supervisor(runs, log, talk.failed, talk.ended)
    async with AsyncExitStack() as stack:
        if request.http is not None:
            server = ObserveServer([run.status for run in runs], request.http, SystemClock(), log)
            address = await stack.enter_async_context(server)
            log(Incident("info", "http.listening", f"http://{address} has /healthz, /readyz and /metrics"))
        if display is not None:
            display.watch([run.status for run in runs])
            await stack.enter_async_context(display)
        outcomes, interrupted_by = await supervisor.execute()
    await _say_summaries(outcomes, request, terminal)
    if interrupted_by is not None:
        return 128 + interrupted_by
    return worst([outcome.exit_status(fail_on_dead_letters=request.fail_on_dead_letters) for outcome in outcomes])


@dataclass(frozen=True, slots=True)
class _Talk:
    """What is said of a run as soon as it ends, while others go on."""

    request: Request
    settings: Settings
    terminal: Terminal
    display: ProgressDisplay | None
    log: Log
    several: bool

    def ended(self, outcome: Outcome) -> None:
        """Its one object, under `--json`."""
        if self.request.json and outcome.summary is not None:
            self.terminal.show_json(summary_document(outcome))
            self.terminal.out.flush()

    def failed(self, outcome: Outcome, error: PenstockError) -> None:
        """Why it ended: in all parts on a terminal, a line of the log elsewhere."""
        if not self.terminal.interactive:
            for incident in from_error(error, outcome.pipeline.name):
                self.log(incident)
            return
        write = self.display.write if self.display is not None else stream_writer(self.terminal.err)
        for line in failure_lines(outcome, error, self.settings, self.terminal.err_style, named=self.several):
            write(line)


def failure_lines(outcome: Outcome, error: PenstockError, settings: Settings, style: Style, *, named: bool) -> list[str]:
    """All parts of an error that ended a run, the pipeline's name before it where there are several; its cause for debugging."""
    lines = [f"{style.red('✗')} {style.bold(printable(outcome.pipeline.name))} failed"] if named else []
    if settings.log_level == "debug" and error.__cause__ is not None:
        lines += printable("".join(traceback.format_exception(error.__cause__)), keep="\n").splitlines()
    return lines + paint_error(printable(error.render(), keep="\n"), style).splitlines()


def _display(pipelines: Sequence[Pipeline], terminal: Terminal) -> ProgressDisplay | None:
    """Bars, on a terminal that no events are written to."""
    to_stdout = any(sink.component.kind == "stdout" for pipeline in pipelines for sink in pipeline.sinks)
    if not terminal.interactive or (to_stdout and terminal.width is not None):
        return None
    return ProgressDisplay(terminal.err, SystemClock().monotonic)


def make_log(settings: Settings, terminal: Terminal, display: ProgressDisplay | None = None) -> Log:
    """Lines for people on a terminal, above the bars where there are any; JSON elsewhere."""
    if not terminal.interactive:
        return JsonLog(stream_writer(terminal.err), SystemClock(), settings.log_level)
    write = display.write if display is not None else stream_writer(terminal.err)
    return TextLog(write, settings.log_level, terminal.err_style.color)


def only_warnings(log: Log) -> Log:
    """A log that hears nothing else."""

    def warn(incident: Incident) -> None:
        if incident.level == "warning":
            log(incident)

    return warn


async def _say_summaries(outcomes: Sequence[Outcome], request: Request, terminal: Terminal) -> None:
    if request.json:
        return
    for outcome in outcomes:
        if outcome.summary is None or not outcome.summary.epoch:  # it never began, and its error says why
            continue
        if terminal.interactive:
            groups = await open_groups(outcome.pipeline) if outcome.run.status.open_letters else []
            terminal.say(*summary_lines(outcome, groups, terminal.err_style, terminal.err_width))
        else:
            terminal.say(plain_summary(outcome))


def summary_document(outcome: Outcome) -> dict[str, Any]:
    """What `--json` prints; a run that failed says so in `error`, beside what it had committed."""
    document: dict[str, Any] = dict(outcome.summary.to_json()) if outcome.summary is not None else {}
    if outcome.error is not None:
        document["error"] = {"code": outcome.error.code, "message": outcome.error.message}
    return document
