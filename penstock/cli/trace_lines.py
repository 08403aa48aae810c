"""A trace for people: each step with what it changed, and where the outputs went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.cli import numbers
from penstock.cli.event_diff import diff_lines, document_diff, event_document, pairs, value_text
from penstock.cli.terminal import Style
from penstock.engine.trace import Happened, Route, Trace, TracedStep, same
from penstock.errors import ComponentError
from penstock.event import Event
from penstock.observe.text import printable, shorten

SHOWN_EVENTS = 5
"""Inputs of a step, and outputs of one of them, that are shown."""
_PROGRAM = 80
_WORDS: dict[Happened, str] = {
    "skipped": "failed, and was left out",
    "stopped": "failed: a run would stop here",
    "unanswered": "no answer",
}


def trace_lines(trace: Trace, style: Style, *, brief: bool = False) -> list[str]:
    """The steps, one below the other, and the sinks.

    :param brief: leave out the steps that changed nothing.
    """
    steps = [step for step in trace.steps if not (brief and step.happened == "unchanged" and step.doubt is None)]
    return [*(line for step in steps for line in step_lines(step, style)), *_route_lines(trace, style)]


def step_lines(step: TracedStep, style: Style) -> list[str]:
    """A line that says what happened, below it what changed, or why it failed."""
    parts = [style.bold(printable(step.name)), style.dim(step.kind or ""), _happened(step, style), style.dim(_time(step.seconds))]
    lines = ["  ".join(part for part in parts if part)]
    if step.doubt is not None:
        lines.append("  " + style.yellow(printable(step.doubt)))
    if step.error is not None:
        lines += [f"  {line}" for line in error_lines(step.error, style)]
    if step.happened not in ("unchanged", "failed", "stopped", "skipped", "unanswered"):
        lines += [f"  {line}" for line in _change_lines(step, style)]
    return lines


def error_lines(error: ComponentError, style: Style) -> list[str]:
    """Message and code, why, and what to do."""
    lines = [f"{style.red(printable(error.message))}  {style.dim('[' + printable(error.code) + ']')}"]
    return lines + [
        f"{style.dim(label)} {printable(text)}" for label, text in (("why:", error.why), ("help:", error.help)) if text
    ]


def _happened(step: TracedStep, style: Style) -> str:
    word = _WORDS.get(step.happened, step.happened)
    if len(step.inputs) != 1 or len(step.outputs) > 1:
        word = f"{word}, {len(step.inputs)} → {len(step.outputs)}"
    if step.happened == "unchanged":
        return style.dim(word)
    if step.happened in ("failed", "stopped"):
        return style.red(word)
    return style.yellow(word) if step.happened in ("filtered", "skipped", "unanswered") else style.cyan(word)


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 1 else numbers.duration(seconds)


def _change_lines(step: TracedStep, style: Style) -> Iterator[str]:
    shown = [(before, made) for before, made in pairs(step.inputs, step.outputs) if not _is_same(before, made)]
    for before, made in shown[:SHOWN_EVENTS]:
        if before is not None and len(step.inputs) > 1:
            yield style.dim(f"of {printable(before.id)}:" if made else f"{printable(before.id)} ends here")
        if before is not None and len(made) == 1:
            yield from diff_lines(before, made[0], style)
        else:
            yield from _output_lines(before, made, style)
    if len(shown) > SHOWN_EVENTS:
        yield style.dim(f"… {len(shown) - SHOWN_EVENTS:,} more like these: --json has all of them")


def _is_same(before: Event | None, made: Sequence[Event]) -> bool:
    return before is not None and len(made) == 1 and same(before, made[0])


def _output_lines(before: Event | None, made: Sequence[Event], style: Style) -> Iterator[str]:
    """Several outputs of one event: the data of each, and what else is new about it."""
    for event in made[:SHOWN_EVENTS]:
        document = event_document(event)
        if not isinstance(document, dict) or before is None:
            yield style.green(f"+ {value_text(document)}")
            continue
        data = document.pop("data", None)
        yield f"{style.green('+')} {printable(event.id)}  {style.green(value_text(data))}"
        kept = {name: value for name, value in event_document(before).items() if name not in ("id", "data")}
        document.pop("id")
        yield from (f"    {line}" for line in document_diff(kept, document, style))
    if len(made) > SHOWN_EVENTS:
        yield style.dim(f"… {len(made) - SHOWN_EVENTS:,} more events: --json has all of them")


def _route_lines(trace: Trace, style: Style) -> Iterator[str]:
    outputs = len(trace.made.outputs)
    for route in trace.routes if outputs else ():
        yield _route_line(route, outputs, style)


def _route_line(route: Route, outputs: int, style: Style) -> str:
    taken = len(route.taken)
    which = "it" if outputs == taken == 1 else numbers.plural(taken, "event") if taken else "nothing"
    told = (style.green if taken else style.dim)(f"takes {which}")
    parts = [f"→ {style.bold(printable(route.sink))}", style.dim(route.kind), told]
    if route.when is not None:
        parts.append(style.dim(f"when {shorten(printable(route.when), _PROGRAM)}"))
    return "  ".join(parts)
