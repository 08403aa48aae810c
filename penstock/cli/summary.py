"""What a run did, for people: the sum of Invariant 3, where the events went, why some failed, what to try next."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.cli import numbers
from penstock.cli.dlq_render import SHORT_FINGERPRINT, SHORT_ID, hint_lines
from penstock.cli.supervise import Outcome
from penstock.cli.table import Column, table
from penstock.cli.terminal import Style
from penstock.ledger import Counts
from penstock.observe.status import RunSummary
from penstock.observe.text import printable
from penstock.state.records import Group

SHOWN_GROUPS = 5
_TITLES = ("received", "delivered", "filtered", "deduplicated", "dead-lettered")
_SIGNS = ("", " = ", " + ", " + ", " + ")


def _numbers(counts: Counts) -> tuple[int, ...]:
    return counts.received, counts.delivered, counts.filtered, counts.deduplicated, counts.dead_lettered


def plain_summary(outcome: Outcome) -> str:
    """One line, for logs and pipes."""
    summary = outcome.summary
    if summary is None:
        return f"{outcome.pipeline.name}: not started"
    received, *others = _numbers(summary.counts)
    parts = [f"{title} {number}" for title, number in zip(_TITLES[1:], others, strict=True)]
    written = ", ".join(f"{name} {events}{_of_these(summary.stale.get(name))}" for name, events in summary.sinks.items())
    ending = "failed" if outcome.error is not None else "stopped" if outcome.stopped else "paused" if _paused(outcome) else "done"
    return (
        f"{summary.pipeline}: {ending}: received {received} = {' + '.join(parts)}; written: {written}; "
        f"{numbers.duration(summary.seconds)}, {numbers.rate(received, summary.seconds)}; "
        f"{numbers.plural(summary.open_letters, 'open dead letter')}"
    )


def _of_these(stale: int | None) -> str:
    return f" ({stale} stale)" if stale else ""


def summary_lines(outcome: Outcome, groups: Sequence[Group], style: Style, width: int | None) -> list[str]:
    """The whole of it, for a terminal."""
    summary = outcome.summary
    if summary is None:
        return []
    lines = ["", _headline(outcome, summary, style), ""]
    lines += equation_lines(_rows(outcome, summary), style)
    lines += ["", *_sinks(summary, style)]
    if groups:
        lines += ["", *_causes(groups, style, width)]
    return [*lines, "", style.bold("next"), *hint_lines(_hints(outcome, groups), style), ""]


def _headline(outcome: Outcome, summary: RunSummary, style: Style) -> str:
    name = style.bold(printable(summary.pipeline))
    time = f"{numbers.duration(summary.seconds)}, {numbers.rate(summary.counts.received, summary.seconds)}"
    if outcome.error is not None:
        return f"{style.red('✗')} {name} failed after {time}"
    if _paused(outcome):
        word = "stopped while paused" if outcome.stopped else "ended, for it is paused"
        return f"{style.yellow('✓')} {name} {word}, committed in {time}"
    word = "stopped and committed" if outcome.stopped else "done"
    return f"{style.green('✓')} {name} {word} in {time}"


def _paused(outcome: Outcome) -> bool:
    return outcome.run.status.paused is not None


def _rows(outcome: Outcome, summary: RunSummary) -> list[tuple[str, Counts]]:
    totals = outcome.run.status.totals
    rows = [("this run", summary.counts)]
    return rows if totals == summary.counts or totals == Counts() else [*rows, ("since it began", totals)]


def equation_lines(rows: Sequence[tuple[str, Counts]], style: Style, unanswered: int = 0) -> list[str]:
    """Counts as sums: the names once, the numbers aligned under them; one row needs no label.

    :param unanswered: of a dry run, the events of which no outcome is known; none: it is not shown.
    """
    more = ["unanswered"] if unanswered else []
    named = [*_TITLES, *more]
    signs = [*_SIGNS, *(" + " for _ in more)]
    label_width = max(len(label) for label, _ in rows) + 2 if len(rows) > 1 else 0
    cells = [[numbers.count(number) for number in (*_numbers(counts), *(unanswered for _ in more))] for _, counts in rows]
    widths = [max(len(title), *(len(row[index]) for row in cells)) for index, title in enumerate(named)]
    titles = "".join(sign + title.rjust(width) for sign, title, width in zip(signs, named, widths, strict=True))
    lines = [f"  {' ' * label_width}{style.dim(titles)}"]
    for (label, counts), row in zip(rows, cells, strict=True):
        shown = [
            " " * len(sign) + _paint(index, counts, style, number.rjust(width))
            for index, (sign, number, width) in enumerate(zip(signs, row, widths, strict=True))
        ]
        lines.append("  " + (style.dim(label.ljust(label_width)) if label_width else "") + "".join(shown))
    return lines


def _paint(index: int, counts: Counts, style: Style, text: str) -> str:
    if index == 0:
        return style.bold(text)
    if index == 1 and counts.delivered:
        return style.green(text)
    return style.yellow(text) if (index == 4 and counts.dead_lettered) or index == 5 else text


def _sinks(summary: RunSummary, style: Style) -> list[str]:
    names = max((len(printable(name)) for name in summary.sinks), default=0)
    digits = max((len(numbers.count(written)) for written in summary.sinks.values()), default=0)
    facts = [
        ("written to" if first else "", f"{printable(name).ljust(names)}  {numbers.count(written).rjust(digits)}")
        for first, (name, written) in zip([True, *[False] * len(summary.sinks)], summary.sinks.items(), strict=False)
    ]
    facts += [
        ("stale", f"{numbers.plural(count, 'event')} older than what {printable(name)} has, where they changed nothing")
        for name, count in summary.stale.items()
        if count
    ]
    if summary.counts.derived:
        facts.append(("derived", f"{numbers.plural(summary.counts.derived, 'event')} that steps made beyond one for one"))
    if summary.reread:
        facts.append(("read again", f"{numbers.plural(summary.reread, 'event')} that had been committed before"))
    return [f"  {style.dim(label.ljust(10))}  {text}" for label, text in facts]


def _causes(groups: Sequence[Group], style: Style, width: int | None) -> list[str]:
    total = sum(group.count for group in groups)
    columns = [
        Column("COUNT", "right", paint=style.yellow),
        Column("FINGERPRINT", paint=style.cyan),
        Column("STEP"),
        Column("MESSAGE", shrinks=True),
    ]
    rows = [
        (numbers.count(group.count), group.fingerprint[:SHORT_FINGERPRINT], group.step, group.message)
        for group in groups[:SHOWN_GROUPS]
    ]
    title = f"{numbers.plural(total, 'dead letter')} open, of {numbers.plural(len(groups), 'cause')}"
    lines = [style.bold(title), *table(columns, rows, style, width, "  ")]
    if len(groups) > SHOWN_GROUPS:
        lines.append(style.dim(f"  and {len(groups) - SHOWN_GROUPS} more"))
    return lines


def _hints(outcome: Outcome, groups: Sequence[Group]) -> list[tuple[str, str]]:
    name = outcome.pipeline.name
    hints = [(f"pipe resume {name}", "goes on")] if _paused(outcome) else []
    if groups:
        hints.append((f"pipe dlq groups {name}", "the causes, with when and how often"))
        hints.append((f"pipe dlq show {groups[0].example[:SHORT_ID]}", "one dead letter in full"))
    return [*hints, (f"pipe status {name}", "where the pipeline stands")]
