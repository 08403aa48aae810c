"""`pipe dlq replay | discard`: dead letters, settled."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import click

from penstock.builtins import room
from penstock.cli import complete, numbers
from penstock.cli.dlq_filters import Filters, letter_filters, only
from penstock.cli.dlq_render import hint_lines
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import find_stores, load_named
from penstock.cli.stores import StoreRef, letters_of, reading
from penstock.cli.terminal import Style, Terminal
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.engine.ledgers import STATE
from penstock.errors import ExitStatus, UsageError
from penstock.faults import Faults
from penstock.observe.text import printable
from penstock.state.records import LetterQuery


class Replayed(Protocol):
    """What a replay reports (`dlq.replay.ReplaySummary`)."""

    job: str
    selected: int
    delivered: int
    filtered: int
    deduplicated: int
    failed_again: int
    left: int
    unknown_ledgers: Mapping[str, int]


@click.command(
    "replay",
    cls=Verb,
    help="""Send dead letters from the start through today's pipeline. What arrives is resolved, what fails again stays open.

    Choose with --id, --fingerprint or another filter, or take --all. No run of the pipeline may be alive meanwhile. What a sink
    is owed that the pipeline no longer has stays open (dlq.unknown_ledger): --renamed says which sink took its place.""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@letter_filters
@click.option("--all", "take_all", is_flag=True, help="All that are open.")
@click.option("--dry-run", is_flag=True, help="Process them, and deliver nothing.")
@click.option(
    "--renamed", multiple=True, metavar="OLD=NEW", help="Give sink NEW what is owed to OLD, which the pipeline no longer has."
)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the pipeline file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def replay(
    settings: Settings,
    pipeline: str,
    filters: Filters,
    take_all: bool,
    dry_run: bool,
    renamed: tuple[str, ...],
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    terminal = Terminal.of_process()
    _choose(filters, take_all)
    pairs = dict(map(_pair, renamed))
    query = only(filters.query(settings, terminal), "open", "parked")
    loaded = load_named(settings, pipeline, overrides)
    with _progress(terminal) as progress:
        summary = asyncio.run(_replay(loaded, query, progress, dry_run, pairs))
    if as_json:
        terminal.show_json(replay_document(loaded, summary))
    else:
        terminal.say(*replay_lines(loaded, summary, dry_run, terminal.err_style))
    return int(ExitStatus.FOUND if summary.failed_again or summary.unknown_ledgers else ExitStatus.DONE)


async def _replay(
    pipeline: Pipeline, query: LetterQuery, progress: Callable[[int, int], None], dry_run: bool, renamed: Mapping[str, str]
) -> Replayed:
    summary: Replayed = await room("replay")(
        pipeline,
        query,
        clock=SystemClock(),
        faults=Faults.from_environment(),
        progress=progress,
        dry_run=dry_run,
        renamed=renamed,
    )
    return summary


def _pair(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not (old and new):
        raise UsageError("usage.bad_pair", f"{text!r} is not OLD=NEW", help="--renamed OLD=NEW, two names of sinks")
    return old, new


def _choose(filters: Filters, take_all: bool) -> None:
    if filters.any == take_all:
        raise UsageError(
            "usage.choose",
            "--all does not go together with filters" if take_all else "which dead letters?",
            help="--id ID, --fingerprint F, another filter, or --all",
        )


@contextmanager
def _progress(terminal: Terminal) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; nothing elsewhere."""
    if not terminal.interactive:
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=terminal.err, force_terminal=True, highlight=False)
    columns = (TextColumn("replay"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, expand=True) as bars:
        bar = bars.add_task("replay", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def replay_document(pipeline: Pipeline, summary: Replayed) -> dict[str, Any]:
    """What `--json` prints."""
    names = ("job", "selected", "delivered", "filtered", "deduplicated", "failed_again", "left")
    values = {name: getattr(summary, name) for name in names}
    unknown = dict(sorted(summary.unknown_ledgers.items()))
    return {"pipeline": pipeline.name, "version": pipeline.version, **values, "unknown_ledgers": unknown}


def replay_lines(pipeline: Pipeline, summary: Replayed, dry_run: bool, style: Style) -> list[str]:
    """What became of them."""
    if not summary.selected:
        return [f"{pipeline.name}: no open dead letter was selected"]
    again = "would fail again" if dry_run else "failed again"
    parts = [
        (summary.delivered, style.green(f"{numbers.count(summary.delivered)} delivered")),
        (summary.filtered, f"{numbers.count(summary.filtered)} filtered"),
        (summary.deduplicated, f"{numbers.count(summary.deduplicated)} deduplicated"),
        (summary.failed_again, style.yellow(f"{numbers.count(summary.failed_again)} {again}")),
        (summary.left, style.yellow(f"{numbers.count(summary.left)} left open")),
    ]
    said = ", ".join(text for number, text in parts if number)
    what = "would be replayed" if dry_run else "replayed"
    lines = [f"{style.bold(pipeline.name)}: {numbers.plural(summary.selected, 'dead letter')} {what}: {said}"]
    if summary.failed_again and not dry_run:
        lines += hint_lines([(f"pipe dlq groups {pipeline.name}", "why they failed again")], style)
    return lines + _unknown_lines(pipeline, summary.unknown_ledgers, style)


def _unknown_lines(pipeline: Pipeline, unknown: Mapping[str, int], style: Style) -> list[str]:
    """What stays open because nobody is there to take it, and what can be done."""
    if not unknown:
        return []
    code = style.yellow("warning[dlq.unknown_ledger]")
    lines = []
    for ledger, count in sorted(unknown.items()):
        whose = "the sinks without a ledger of their own" if ledger == STATE else f"sink {printable(ledger)}"
        lines.append(
            f"{code}: {numbers.plural(count, 'dead letter')} owed to {whose}, which the pipeline no longer has: left open"
        )
    name = shlex.quote(sorted(unknown)[0])
    replay, discard = f"pipe dlq replay {pipeline.name} … --renamed {name}=SINK", f"pipe dlq discard {pipeline.name} …"
    return lines + hint_lines([(replay, "give it to the sink that took its place"), (discard, "if nobody wants it")], style)


@click.command(
    "discard",
    cls=Verb,
    help="""Close dead letters without delivering their events. They stay on record, and so do their dedup keys.

    Choose with --id, --fingerprint or another filter, or take --all.""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@letter_filters
@click.option("--all", "take_all", is_flag=True, help="All that are open.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def discard(settings: Settings, pipeline: str, filters: Filters, take_all: bool, yes: bool, as_json: bool) -> None:
    terminal = Terminal.of_process()
    _choose(filters, take_all)
    query = only(filters.query(settings, terminal), "open", "parked")
    [ref] = find_stores(settings, [pipeline])
    if not yes:
        _ask(ref, query, terminal)
    discarded = asyncio.run(_discard(ref, query))
    if as_json:
        terminal.show_json({"pipeline": ref.pipeline, "discarded": discarded})
    else:
        terminal.say(f"{ref.pipeline}: {numbers.plural(discarded, 'dead letter')} discarded")


def _ask(ref: StoreRef, query: LetterQuery, terminal: Terminal) -> None:
    """:raises UsageError: `usage.not_confirmed`: nobody can answer, or the answer was no."""
    count = asyncio.run(_count(ref, query))
    help = "--yes discards without asking"
    if not terminal.interactive or not terminal.asks:
        raise UsageError("usage.not_confirmed", f"{numbers.plural(count, 'dead letter')} would be discarded", help=help)
    if count and not click.confirm(f"Discard {numbers.plural(count, 'dead letter')} of {shlex.quote(ref.pipeline)}?", err=True):
        raise UsageError("usage.not_confirmed", "nothing was discarded", help=help)


async def _count(ref: StoreRef, query: LetterQuery) -> int:
    async with reading(ref) as store:
        return sum(group.count for group in await letters_of(store).groups(query))


async def _discard(ref: StoreRef, query: LetterQuery) -> int:
    async with reading(ref) as store:
        return await letters_of(store).discard(query)
