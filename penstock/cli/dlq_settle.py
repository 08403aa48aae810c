"""`pipe dlq discard`: dead letters, closed."""

from __future__ import annotations

import asyncio
import shlex

import click

from penstock.cli import complete, numbers
from penstock.cli.dlq_filters import Filters, letter_filters, only
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import find_stores
from penstock.cli.stores import StoreRef, letters_of, reading
from penstock.cli.terminal import Terminal
from penstock.errors import UsageError
from penstock.state.records import LetterQuery


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
    choose(filters, take_all)
    query = only(filters.query(settings, terminal), "open", "parked")
    [ref] = find_stores(settings, [pipeline])
    if not yes:
        _ask(ref, query, terminal)
    discarded = asyncio.run(_discard(ref, query))
    if as_json:
        terminal.show_json({"pipeline": ref.pipeline, "discarded": discarded})
    else:
        terminal.say(f"{ref.pipeline}: {numbers.plural(discarded, 'dead letter')} discarded")


def choose(filters: Filters, take_all: bool) -> None:
    """:raises UsageError: `usage.choose`: which letters, is not said, or said twice."""
    if filters.any == take_all:
        raise UsageError(
            "usage.choose",
            "--all does not go together with filters" if take_all else "which dead letters?",
            help="--id ID, --fingerprint F, another filter, or --all",
        )


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
