"""The report of a backfill on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from penstock.cli import numbers
from penstock.cli.backfill_native import native_lines
from penstock.cli.table import Column, fit, table
from penstock.cli.terminal import Style
from penstock.observe.text import printable, printable_json

CAUSES = 20
"""Places of differences that are listed; `--json` and the page have all."""
_VALUE = 40
_MODES = {"dry_run": "dry run", "shadow": "shadow", "live": "backfill"}

Report = Mapping[str, Any]


def report_lines(report: Report, style: Style, width: int | None) -> list[str]:
    """What there is to say on a terminal: the page and `--json` have all of it."""
    lines = [*_head(report, style), "", *_compared(report, style, width), *_counts(report, style)]
    details = (
        ("steps", _steps(report, style, width)),
        ("dead letters it would make", _letters(report, style, width)),
        ("some outputs", _samples(report, style, width)),
    )
    for title, rows in details if report["mode"] == "dry_run" else ():
        if rows:
            lines += ["", style.bold(title), *rows]
    return lines


def _head(report: Report, style: Style) -> Iterator[str]:
    steps = report["against"] or "the pipeline file"
    yield style.bold(f"{report['pipeline']}: {_MODES[report['mode']]} of job {report['job']} ({report['state']})")
    yield f"events of {report['from']} to before {report['to']}, through the steps of {printable(steps)}"
    if report["filter"]:
        yield f"those alone for which {printable(report['filter'])}"
    if report["ignore"]:
        yield f"differences at {printable(', '.join(report['ignore']))} do not count"
    yield from native_lines(report, style)


def _compared(report: Report, style: Style, width: int | None) -> list[str]:
    compared = report.get("comparison")
    if compared is None:
        return []
    lines = [_verdict(report, style), ""]
    whole = sum(compared[name] for name in ("identical", "changed", "missing", "extra")) or 1
    for name, paint in (("identical", style.green), ("changed", style.yellow), ("missing", style.red), ("extra", style.yellow)):
        count = compared[name]
        shown = f"{count:>14,}  {name:<10}{100 * count / whole:7.2f} %"
        lines.append(paint(shown) if count else style.dim(shown))
    for row in compared["outcomes"]:
        if row["before"] != row["after"]:
            lines.append(f"{row['events']:>14,}  events that were {_plain(row['before'])} and now are {_plain(row['after'])}")
    for why, count in sorted(report["unlike"].items()):
        lines.append(style.yellow(f"{count:>14,}  not compared: {printable(why)}"))
    if compared["causes"]:
        lines += ["", style.bold("what differs"), *_causes(compared["causes"], style, width)]
    return [*lines, ""]


def _verdict(report: Report, style: Style) -> str:
    events = numbers.plural(report["comparison"]["events"], "event")
    return {
        "clean": style.green(f"clean: of {events}, no output differs"),
        "different": style.red(f"different: {events} compared"),
        "incomplete": style.yellow(f"incomplete: {events} compared, no output differs; {_unanswered(report)}"),
        "nothing": style.yellow("no event was compared"),
    }[report["verdict"]]


def _unanswered(report: Report) -> str:
    return f"{numbers.plural(sum(report['unanswered'].values()), 'event')} unanswered"


def _causes(causes: Sequence[Mapping[str, Any]], style: Style, width: int | None) -> list[str]:
    rows = []
    for cause in causes[:CAUSES]:
        example = cause["examples"][0]
        change = f"{_value(example['before'])} → {_value(example['after'])}"
        rows.append((numbers.count(cause["count"]), cause["kind"], cause["path"], change, example["event"]))
    columns = [
        Column("count", "right"),
        Column("kind"),
        Column("where", shrinks=True),
        Column("such as", shrinks=True),
        Column("event", yields=True),
    ]
    more = len(causes) - CAUSES
    return table(columns, rows, style, width, indent="  ") + ([f"  and {more:,} further places"] if more > 0 else [])


def _value(text: str | None) -> str:
    return "nothing" if text is None else fit(printable(text), _VALUE)


def _plain(outcome: str) -> str:
    return outcome.replace("_", "-")


def _counts(report: Report, style: Style) -> Iterator[str]:
    read, estimate = report["read"], report["estimate"]
    took = f"{numbers.duration(report['seconds'])}, {report['events_per_second']:,} events/s"
    yield f"{style.bold('events')}  {numbers.count(read)} looked at in {took}"
    for name in ("delivered", "filtered", "deduplicated", "dead_lettered", "left_out"):
        count = report[name]
        if count or name in ("delivered", "filtered"):
            said = "left out by the filter" if name == "left_out" else _plain(name)
            line = f"{count:>14,}  {said}"
            yield style.yellow(line) if name == "dead_lettered" else line
    for step, count in report["unanswered"].items():
        yield style.yellow(f"{count:>14,}  unanswered: {printable(step)} is not performed here, and no answer of it was kept")
    if len(report["sinks"]) > 1:
        yield from (f"{count:>14,}  outputs for {printable(sink)}" for sink, count in report["sinks"].items())
    if estimate["events"] > read:
        yield (
            f"the whole range: about {numbers.plural(estimate['events'], 'event')}, {estimate['delivered']:,} delivered, "
            f"{estimate['dead_lettered']:,} dead-lettered, {numbers.duration(estimate['seconds'])}"
        )


def _steps(report: Report, style: Style, width: int | None) -> list[str]:
    names = ("in", "out", "failed", "skipped")
    rows = [
        (step["name"], *(numbers.count(step[name]) for name in names), f"{step['microseconds_per_event']:,.1f} µs")
        for step in report["steps"]
    ]
    columns = [Column("step", shrinks=True), *(Column(name, "right") for name in names), Column("an event", "right")]
    return table(columns, rows, style, width, indent="  ") if rows else []


def _letters(report: Report, style: Style, width: int | None) -> list[str]:
    rows = [
        (numbers.count(group["count"]), group["step"], group["code"], group["message"], group["example"])
        for group in report["letters"][:CAUSES]
    ]
    columns = [
        Column("count", "right"),
        Column("step"),
        Column("code", paint=style.yellow),
        Column("message", shrinks=True),
        Column("such as", yields=True),
    ]
    lines = table(columns, rows, style, width, indent="  ") if rows else []
    more = len(report["letters"]) - CAUSES
    return lines + ([f"  and {more:,} further causes"] if more > 0 else [])


def _samples(report: Report, style: Style, width: int | None) -> list[str]:
    lines = []
    for sample in report["samples"]:
        sinks = style.green("→ " + printable(", ".join(sample["sinks"])))
        text = printable_json(msgspec.json.encode(sample["output"])).decode()
        room = None if width is None else max(20, width - 8 - len(sample["event"]) - sum(map(len, sample["sinks"])))
        lines.append(f"  {style.dim(printable(sample['event']))}  {sinks}  {text if room is None else fit(text, room)}")
    return lines
