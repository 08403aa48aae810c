"""`pipe explain` for people: what came in, what each step made of it, where it went, and whether that is what was recorded."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from itertools import zip_longest

from penstock.cli.dlq_render import SHORT_ID, hint_lines
from penstock.cli.event_diff import SHOWN_WIDTH, document_diff, document_lines, event_document, value_text
from penstock.cli.explainer import Explained, Other
from penstock.cli.positions import Tell
from penstock.cli.terminal import Style
from penstock.cli.trace_lines import trace_lines
from penstock.engine.agreement import told
from penstock.engine.recompute import ROUTE, Output
from penstock.engine.trace import Trace
from penstock.event import Event
from penstock.journal.lines import Line
from penstock.observe.text import printable, shorten


def explained_lines(explained: Explained, tell: Tell, style: Style) -> list[str]:
    """All about one event."""
    received = _received(explained)
    lines = [*_head_lines(explained, received, tell, style), "", style.bold("came in")]
    lines += [f"  {line}" for line in (*document_lines(event_document(received)), *_record_lines(explained.found.line, style))]
    lines.append("")
    if explained.trace is not None:
        lines += [*trace_lines(explained.trace, style), ""]
    lines += _outcome_lines(explained, style)
    if explained.against is not None:
        lines += ["", *_against_lines(explained.against, explained.trace, style)]
    return lines


def _received(explained: Explained) -> Event:
    return explained.trace.received if explained.trace is not None else explained.found.line.received()


def _record_lines(line: Line, style: Style) -> Iterator[str]:
    """The record's own bytes, where they are more than the event's data."""
    if line.original is None:
        return
    record = b64decode(line.original)
    text = shorten(printable(record.decode("utf-8", "backslashreplace")), SHOWN_WIDTH)
    yield f"{style.dim(f'the record, {len(record):,} bytes:')} {text}"


def _head_lines(explained: Explained, received: Event, tell: Tell, style: Style) -> list[str]:
    line, archive = explained.found.line, explained.found.archive
    title = "  ".join((style.bold(printable(received.id)), printable(received.type), _painted(line, style)))
    version = {"today": f"{line.version}, today's", "stored": f"{line.version}, not today's"}.get(explained.which)
    if version is None:
        computed = explained.pipeline.version[: len(line.version)] if explained.pipeline is not None else ""
        version = f"{line.version} handled it, {computed} computes here"
    pairs = [
        ("pipeline", archive.name),
        ("version", version),
        ("received", line.at),
        ("source", received.source),
        ("partition", line.partition),
        ("position", tell(bytes.fromhex(line.position))),
    ]
    return [title, *(f"  {style.dim(label.ljust(9))}  {printable(text)}" for label, text in pairs)]


def _painted(line: Line, style: Style) -> str:
    paint = {"delivered": style.green, "dead_lettered": style.red}.get(line.outcome, style.yellow)
    return paint(told(line.outcome, printable(line.step) if line.step is not None else None))


def _outcome_lines(explained: Explained, style: Style) -> Iterator[str]:
    line = explained.found.line
    yield f"{style.bold('outcome')}  {_painted(line, style)}{_where_filtered(explained)}{_agreed(explained, style)}"
    for step, doubt in explained.doubts.items():
        if explained.trace is None or all(each.name != step for each in explained.trace.steps):
            yield f"  {style.yellow(printable(doubt))}"
    if explained.fault is not None:
        yield from (f"  {style.yellow(printable(text))}" for text in explained.fault.render().splitlines())
    for later in explained.found.later:
        sinks = f", for {printable(', '.join(later.sinks))} alone" if later.sinks else ""
        by = style.dim(f"job {later.job}, version {later.version}{sinks}")
        yield f"  replayed {later.at}: {told(later.outcome, later.step)}  {by}"
    yield from _letter_lines(explained, style)


def _where_filtered(explained: Explained) -> str:
    """The journal says only that it was filtered: where, is computed."""
    if explained.found.line.outcome != "filtered" or explained.trace is None:
        return ""
    step = explained.trace.result.step if explained.trace.result.outcome == "filtered" else None
    return "" if step is None else ": no sink takes it" if step == ROUTE else f" at {printable(step)}"


def _agreed(explained: Explained, style: Style) -> str:
    if explained.agreement is None:
        return ""
    verdict, why = explained.agreement.verdict, explained.agreement.why
    if verdict == "same":
        return style.dim(f"; computed again, it is the same{f' ({why})' if why else ''}")
    if verdict == "beyond":
        return style.dim(f"; {why}")
    doubts = "; ".join(explained.doubts.values())
    because = f" ({doubts})" if doubts else ""
    return style.red(f"; computed again, it differs: {printable(why or '')}{printable(because)}")


def _letter_lines(explained: Explained, style: Style) -> Iterator[str]:
    line, letter = explained.found.line, explained.letter
    if line.letter is None:
        return
    if letter is None:
        yield f"  dead letter {line.letter}  {style.dim('removed since')}"
        return
    yield f"  dead letter {letter.id}  {letter.status}  {printable(letter.message)}"
    yield from hint_lines([(f"pipe dlq show {letter.id[:SHORT_ID]}", "all about it")], style)


def _against_lines(other: Other, first: Trace | None, style: Style) -> Iterator[str]:
    yield style.bold(f"against {printable(other.file)}")
    yield from (f"  {line}" for line in trace_lines(other.trace, style))
    result = other.trace.result
    if result.outcome == "unanswered":
        yield f"  {style.bold('so')} what would become of it is not known: {printable(result.step or '')} has no answer"
        return
    word = told(result.outcome, printable(result.step) if result.step is not None else None)
    if first is None:
        yield f"  it would be {word}"
        return
    changes = list(_changes(first, other.trace, style))
    if changes:
        yield f"  {style.bold('so')} it would be {word}, and what goes out changes:"
        yield from (f"    {line}" for line in changes)
    else:
        yield f"  {style.bold('so')} it would be {word}, {style.dim('and the same goes out')}"


def _changes(first: Trace, second: Trace, style: Style) -> Iterator[str]:
    """What goes out of the one and not of the other."""
    for old, new in zip_longest(first.result.outputs, second.result.outputs):
        if old is None:
            yield style.green(f"+ {_goes_out(new)}")
        elif new is None:
            yield style.minus(f"- {_goes_out(old)}")
        else:
            before, after = ({"to": list(output.sinks), "event": event_document(output.event)} for output in (old, new))
            lines = document_diff(before, after, style)
            if lines and len(first.result.outputs) > 1:
                yield style.dim(f"of {printable(old.event.id)}:")
            yield from lines


def _goes_out(output: Output) -> str:
    document = event_document(output.event)
    data = document.get("data") if isinstance(document, dict) else document
    return f"{printable(output.event.id)} to {printable(', '.join(output.sinks))}  {value_text(data)}"
