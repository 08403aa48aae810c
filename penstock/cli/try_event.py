"""`pipe try`: what each step makes of one event. No state, no sink."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from penstock.cli import complete
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import load_named
from penstock.cli.terminal import Style, Terminal
from penstock.engine.preview import StepTrace
from penstock.engine.preview import try_event as trace_event
from penstock.errors import ExitStatus, Permanent, UsageError
from penstock.event import decode
from penstock.observe.text import printable, printable_json


@click.command(
    "try",
    cls=Verb,
    help="""Send one event through the steps, and show what each makes of it. No state and no sink is touched.

    The event comes from standard input: a record as the source would read it, or a CloudEvent in JSON.""",
)
@click.argument("file", metavar="FILE", shell_complete=complete.files)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def try_event(settings: Settings, file: str, overrides: tuple[str, ...], as_json: bool) -> int:
    terminal = Terminal.of_process()
    pipeline = load_named(settings, file, overrides)
    if terminal.asks and terminal.interactive:
        terminal.say(terminal.err_style.dim("one JSON document, then Ctrl-D:"))
    record = _read()
    traces = asyncio.run(trace_event(pipeline, record))
    if as_json:
        terminal.show_json({"items": [trace_document(trace) for trace in traces], "next": None})
    else:
        terminal.show(*trace_lines(traces, terminal.style))
    return int(ExitStatus.FOUND if any(trace.error for trace in traces) else ExitStatus.DONE)


def _read() -> Any:
    text = sys.stdin.buffer.read()
    try:
        return decode(text)
    except Permanent as error:
        raise UsageError(
            error.code, f"standard input: {error.message}", why=error.why, help="pipe try FILE < event.json: one JSON document"
        ) from error


def trace_document(trace: StepTrace) -> dict[str, Any]:
    """One step of `--json`."""
    error = trace.error
    said = None if error is None else {"code": error.code, "message": error.message, "why": error.why, "help": error.help}
    return {"step": trace.name, "outputs": list(trace.outputs), "error": said, "note": trace.note}


def trace_lines(traces: Sequence[StepTrace], style: Style) -> list[str]:
    """Each step's outputs as JSON where it changed something, or its error."""
    lines: list[str] = []
    before: Sequence[Any] = ()
    for trace in traces:
        same = bool(trace.outputs) and list(trace.outputs) == list(before)
        notes = [style.dim("unchanged")] if same else []
        notes += [style.yellow(printable(trace.note))] if trace.note else []
        lines.append("  ".join([style.bold(printable(trace.name)), *notes]))
        before = trace.outputs
        for output in () if same else trace.outputs:
            text = printable_json(msgspec.json.format(msgspec.json.encode(output), indent=2)).decode()
            lines += [f"  {line}" for line in text.splitlines()]
        if trace.error is not None:
            lines.append(f"  {style.red(printable(trace.error.message))}  {style.dim('[' + trace.error.code + ']')}")
            lines += [f"  {printable(text)}" for text in (trace.error.why, trace.error.help) if text]
    return lines
