"""The report of a verification on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penstock.cli import numbers
from penstock.cli.terminal import Style
from penstock.observe.text import printable
from penstock.state.records import STATUSES

SHOWN = 20
"""Gaps that are named; `--json` has up to 1,000."""

Report = Mapping[str, Any]


def report_lines(report: Report, style: Style, width: int | None) -> list[str]:
    """What there is to say on a terminal: `--json` has all of it."""
    lines = [*_journal(report, style), *_letters(report, style), *_source(report, style)]
    for sink in report["sinks"]:
        lines += _sink(sink, style)
    if report["named"]:
        lines += ["", style.bold("not accounted for"), *_named(report, style)]
    return [*lines, "", _verdict(report, style)]


def _line(count: int, words: str) -> str:
    return f"{count:>14,}  {words}"


def _title(word: str, said: str, style: Style) -> str:
    return f"{style.bold(word)}  {said}"


def _journal(report: Report, style: Style) -> Iterator[str]:
    journal = report["journal"]
    yield _title("journal", f"{numbers.plural(journal['events'], 'event')} of {printable(report['pipeline'])}", style)
    for name in ("delivered", "filtered", "deduplicated", "dead_lettered"):
        if journal[name] or name == "delivered":
            yield _line(journal[name], name.replace("_", "-"))
    if journal["received_again"]:
        yield _line(journal["received_again"], "lines of events that were received again")
    yield from _gaps(report, "journal", style)


def _letters(report: Report, style: Style) -> Iterator[str]:
    letters = report["dead_letters"]
    told: list[tuple[int, str]] = [(letters[status], status) for status in STATUSES if letters.get(status)]
    told += [(letters["settled_and_gone"], "failed longer ago than settled dead letters are kept")]
    told += [(letters["imported"], "imported, without a line here")]
    told += [(letters["older_than_the_journal"], "older than what the journal tells")]
    told = [(count, words) for count, words in told if count]
    if told or report["gaps_by_part"].get("dead letters"):
        yield _title("dead letters", "", style).rstrip()
        yield from (_line(count, words) for count, words in told)
        yield from _gaps(report, "dead letters", style)


def _source(report: Report, style: Style) -> Iterator[str]:
    source = report["source"]
    if not source["looked"]:
        yield _title(f"source {printable(source['kind'])}", f"not looked at: {printable(source['why'])}", style)
        return
    yield _title(f"source {printable(source['kind'])}", numbers.plural(source["events"], "event"), style)
    yield _line(source["journalled"], "in the journal")
    if source["not_read_yet"]:
        yield _line(source["not_read_yet"], "not read yet")
    if source["gone"]:
        yield _line(source["gone"], "in the journal that the source no longer has")


def _sink(sink: Mapping[str, Any], style: Style) -> Iterator[str]:
    title = f"sink {printable(sink['name'])}"
    if not sink["looked"]:
        yield _title(title, f"not looked at: {printable(sink['why'])}", style)
        return
    yield _title(title, f"{numbers.plural(sink['outputs'], 'output')} looked for", style)
    yield _line(sink["outputs"] - sink["absent"], "there")
    if sink["absent"]:
        yield style.red(_line(sink["absent"], "absent"))
    for why, count in sorted(sink["left_out"].items()):
        yield style.yellow(_line(count, f"events not looked for: {printable(why)}"))


def _gaps(report: Report, part: str, style: Style) -> Iterator[str]:
    count = report["gaps_by_part"].get(part, 0)
    if count:
        yield style.red(_line(count, "missing"))


def _named(report: Report, style: Style) -> Iterator[str]:
    """As many of each part as there is room for."""
    named: Sequence[Mapping[str, str]] = report["named"]
    parts = list(dict.fromkeys(gap["part"] for gap in named))
    shown = 0
    for part in parts:
        of_part = [gap for gap in named if gap["part"] == part][: max(1, SHOWN // len(parts))]
        shown += len(of_part)
        for gap in of_part:
            event = f"{style.bold(printable(gap['event']))}: " if gap["event"] else ""
            where = style.dim(f"  ({printable(gap['where'])})") if gap["where"] else ""
            yield f"  {style.red(printable(part))}  {event}{printable(gap['what'])}{where}"
            if gap["help"]:
                yield f"    {style.cyan('help:')} {printable(gap['help'])}"
    more = report["gaps"] - shown
    if more > 0:
        yield f"  and {more:,} more: --json names {len(named):,}"


def _verdict(report: Report, style: Style) -> str:
    left_out = sum(sum(sink["left_out"].values()) for sink in report["sinks"])
    if report["accounted"]:
        note = f"; {numbers.plural(left_out, 'delivery', 'deliveries')} could not be looked for" if left_out else ""
        return style.green("every event is accounted for") + style.yellow(note)
    return style.red(f"{numbers.plural(report['gaps'], 'gap')}: not every event is accounted for")
