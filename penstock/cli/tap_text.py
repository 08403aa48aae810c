"""`pipe tap` for people: an event in a few lines."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.cli.event_diff import event_document, value_text
from penstock.cli.terminal import Style
from penstock.cli.trace_lines import step_lines, trace_lines
from penstock.engine.agreement import told
from penstock.engine.trace import Trace, TracedStep
from penstock.event import Event
from penstock.journal.lines import Line
from penstock.observe.text import printable

_SHOWN = 5
_WIDTH = 400


def tapped_lines(line: Line, trace: Trace | None, step: TracedStep | None, style: Style) -> list[str]:
    """When it was received, what it is, what became of it; then what one step made of it, or all that changed it.

    :param trace: None for a repetition, which no step has seen.
    """
    event = trace.received if trace is not None else line.received()
    paint = {"delivered": style.green, "dead_lettered": style.red}.get(line.outcome, style.yellow)
    outcome = told(line.outcome, printable(line.step) if line.step is not None else None)
    title = "  ".join((style.dim(line.at), style.bold(printable(event.id)), printable(event.type), paint(outcome)))
    if step is not None:
        return [title, *(f"  {text}" for text in _one_step(step, style))]
    lines = [title, f"  {_data(event)}"]
    return lines + [f"  {text}" for text in trace_lines(trace, style, brief=True)] if trace is not None else lines


def _one_step(step: TracedStep, style: Style) -> Iterator[str]:
    yield from (f"{style.dim('in ')} {_data(event)}" for event in step.inputs[:_SHOWN])
    yield from (f"{style.dim('out')} {_data(event)}" for event in step.outputs[:_SHOWN])
    left = len(step.inputs[_SHOWN:]) + len(step.outputs[_SHOWN:])
    if left:
        yield style.dim(f"… {left:,} more events: --json has all of them")
    yield from step_lines(step, style)


def _data(event: Event) -> str:
    document = event_document(event)
    return value_text(document.get("data") if isinstance(document, dict) else document, _WIDTH)
