"""`pipe dlq stats`: dead letters in figures, and a check for alarms."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import click

from penstock.cli import complete, numbers
from penstock.cli.dlq_filters import Filters, letter_filters
from penstock.cli.dlq_render import section
from penstock.cli.lane_lines import LANES, lane_lines, parked_document, retries_document, retry_lines
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import find_stores, load_named
from penstock.cli.sparkline import levels_of, sparkline
from penstock.cli.stores import each_store, letters_of
from penstock.cli.table import Column, table
from penstock.cli.terminal import Style, Terminal
from penstock.clock import SystemClock
from penstock.errors import ExitStatus
from penstock.observe.text import printable
from penstock.state.records import LetterStats, ParkedLane, Retries, count_unsettled
from penstock.state.store import StateStore

Waiting = tuple[Retries, tuple[int, Sequence[ParkedLane]]]
"""What waits for a retry, and the lanes that are parked, as `LaneBook.parked` gives them."""
Found = tuple[LetterStats, dict[str, Any], Waiting]

_MOST_ROWS = 10
_MOST_DAYS = 60
_DAY = 86_400


@click.command(
    "stats",
    cls=Verb,
    help="""Dead letters in figures: by status, code, step, type and day, of every status unless one is asked for.

    --check ends with 4 where as many are not settled as `dead_letter.alert_threshold` of the pipeline says, or --threshold: for
    cron and monitoring.""",
)
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE…]", shell_complete=complete.pipelines)
@letter_filters
@click.option("--check", is_flag=True, help="End with 4 where the threshold is reached.")
@click.option("--threshold", type=click.IntRange(1), metavar="N", help="For --check, in the place of the file's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def stats(
    settings: Settings, pipelines: tuple[str, ...], filters: Filters, check: bool, threshold: int | None, as_json: bool
) -> int:
    terminal, now = Terminal.of_process(), SystemClock().now()
    query = filters.query(settings, terminal)
    if not filters.status:
        query = query.of_any_status()

    async def of(store: StateStore) -> Found:
        queue = letters_of(store)
        figures, waiting = await queue.stats(query), (await store.lanes.retries(), await store.lanes.parked(LANES))
        documents = {"retries": retries_document(waiting[0]), "parked": parked_document(*waiting[1])}
        return figures, {**queue.stats_document("", figures), **documents}, waiting

    refs = find_stores(settings, pipelines, whole=False)
    found = asyncio.run(each_store(refs, of, None))
    filled = [(name, *each) for name, each in found if each is not None]
    if as_json:
        terminal.show_json({"items": [{**document, "pipeline": name} for name, _, document, _ in filled], "next": None})
    elif not any(figures.letters for _, figures, _, _ in filled):
        terminal.say("no dead letters")
    else:
        for name, figures, _, (retries, lanes) in filled:
            terminal.show(*stats_lines(name, figures, now, terminal.style, terminal.width, levels_of(terminal.out)))
            terminal.show(*retry_lines(retries, now), *lane_lines(*lanes, terminal.style, terminal.width))
    if not check:
        return int(ExitStatus.DONE)
    limits = {name: _limit(settings, name, threshold) for name, *_ in filled}
    return _checked(terminal, {name: figures for name, figures, *_ in filled}, limits)


def _limit(settings: Settings, pipeline: str, threshold: int | None) -> int | None:
    return threshold if threshold is not None else load_named(settings, pipeline).dead_letter.alert_threshold


def _checked(terminal: Terminal, found: Mapping[str, LetterStats], limits: Mapping[str, int | None]) -> int:
    status = ExitStatus.DONE
    for name, figures in found.items():
        limit, count = limits[name], count_unsettled(figures.by_status)
        if limit is not None and count >= limit:
            status = ExitStatus.FOUND
            what = f"{printable(name)}: {numbers.plural(count, 'dead letter')} open, and {numbers.count(limit)} are an alarm"
            terminal.say(f"{terminal.err_style.yellow('warning[dlq.threshold]')}: {what}")
    return int(status)


def stats_lines(name: str, figures: LetterStats, now: float, style: Style, width: int | None, levels: str) -> list[str]:
    """All figures of one pipeline."""
    lines = [f"{style.bold(printable(name))}  {_summary(figures, now)}", ""]
    for title, counts in (
        ("status", figures.by_status), ("code", figures.by_code), ("step", figures.by_step), ("type", figures.by_type),
    ):  # fmt: skip
        lines += section(f"by {title}", _axis(counts, style, width), style)
    return lines + section("by day of first failure", _days(figures.by_day, style, levels), style)


def _summary(figures: LetterStats, now: float) -> str:
    parts = [numbers.plural(figures.letters, "dead letter"), f"{numbers.count(figures.bytes)} bytes as they came"]
    if figures.repeats:
        parts.append(f"came again {numbers.plural(figures.repeats, 'time')}")
    if figures.oldest is not None:
        parts.append(f"the oldest open one {numbers.age(now - figures.oldest)}, {numbers.utc(figures.oldest)}")
    return ", ".join(parts)


def _axis(counts: Mapping[str, int], style: Style, width: int | None) -> list[str]:
    rows = [(name, numbers.count(count)) for name, count in counts.items()]
    columns = [Column("", shrinks=True), Column("", "right", paint=style.bold)]
    lines = table(columns, rows[:_MOST_ROWS], style, None if width is None else width - 2)[1:]
    rest = sum(list(counts.values())[_MOST_ROWS:])
    return [*lines, f"… {numbers.count(rest)} of {len(rows) - _MOST_ROWS} others"] if rest else lines


def _days(days: Mapping[int, int], style: Style, levels: str) -> list[str]:
    if not days:
        return []
    last = max(days)
    first = max(min(days), last - (_MOST_DAYS - 1) * _DAY)
    shown = [days.get(day, 0) for day in range(first, last + _DAY, _DAY)]
    older = sum(count for day, count in days.items() if day < first)
    ends = f"{numbers.utc(first)[:10]} to {numbers.utc(last)[:10]}, at most {numbers.count(max(shown))} a day"
    before = f", {numbers.count(older)} before" if older else ""
    return [f"{style.yellow(sparkline(shown, levels))}  {ends}{before}"]
