"""`pipe dlq discard`: dead letters, closed."""

from __future__ import annotations

import asyncio
import shlex

import click

from penstock.cli import complete, numbers
from penstock.cli.dlq_filters import Filters, letter_filters, only
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import find_stores
from penstock.cli.sender import sender
from penstock.cli.stores import StoreRef, letters_of, reading
from penstock.cli.terminal import Terminal
from penstock.errors import UsageError
from penstock.state.letter_desk import Act
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
@click.option("--reason", metavar="TEXT", help="Why: it is kept in their history.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def discard(
    settings: Settings, pipeline: str, filters: Filters, take_all: bool, reason: str | None, yes: bool, as_json: bool
) -> None:
    terminal = Terminal.of_process()
    choose(filters, take_all)
    query = only(filters.query(settings, terminal), "open", "parked")
    [ref] = find_stores(settings, [pipeline], whole=False)
    if not yes:
        _ask(ref, query, terminal)
    discarded = asyncio.run(_discard(ref, query, Act(sender(), reason)))
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
    if count or not terminal.asks:
        confirm(terminal, "discard", count, ref.pipeline)


def confirm(terminal: Terminal, verb: str, count: int, pipeline: str) -> None:
    """Whether so many letters are to be changed.

    :param verb: what is done, in its plain form.
    :raises UsageError: `usage.not_confirmed`: nobody can answer, or the answer was no.
    """
    many, done = numbers.plural(count, "dead letter"), f"{verb}ed"
    help = f"--yes {verb}s without asking"
    if not terminal.interactive or not terminal.asks:
        raise UsageError("usage.not_confirmed", f"{many} would be {done}", help=help)
    if not click.confirm(f"{verb.capitalize()} {many} of {shlex.quote(pipeline)}?", err=True):
        raise UsageError("usage.not_confirmed", f"nothing was {done}", help=help)


async def _count(ref: StoreRef, query: LetterQuery) -> int:
    async with reading(ref) as store:
        return sum(group.count for group in await letters_of(store).groups(query))


async def _discard(ref: StoreRef, query: LetterQuery, act: Act) -> int:
    async with reading(ref) as store:
        return await letters_of(store).discard(query, act)
