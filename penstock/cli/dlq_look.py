"""`pipe dlq groups | ls | show`: dead letters, looked at. Works beside a live run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click

from penstock.cli import complete, numbers
from penstock.cli.dlq_filters import Filters, letter_filters
from penstock.cli.dlq_render import group_hints, group_lines, hint_lines, letter_lines, show_lines
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.positions import position_teller
from penstock.cli.project import find_stores
from penstock.cli.sparkline import levels_of
from penstock.cli.stores import StoreRef, each_store, if_it_ran, letter_anywhere, letters_of
from penstock.cli.terminal import Terminal
from penstock.errors import UsageError
from penstock.observe.text import printable
from penstock.state.records import DeadLetter, Group, LetterQuery, Timeline
from penstock.state.store import StateStore

CELLS = 16
"""Stretches of time that a sparkline shows, at most."""


@click.command("groups", cls=Verb, help="Dead letters by cause, most frequent first.")
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE…]", shell_complete=complete.pipelines)
@letter_filters
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def groups(settings: Settings, pipelines: tuple[str, ...], filters: Filters, as_json: bool) -> None:
    terminal = Terminal.of_process()
    query = filters.query(settings, terminal)
    found = asyncio.run(_all_groups(find_stores(settings, pipelines, whole=False), query))
    if as_json:
        terminal.show_json({"items": [document for _, _, _, documents in found for document in documents], "next": None})
        return
    filled = [(name, items, line) for name, items, line, _ in found if items]
    for name, items, line in filled:
        total = sum(group.count for group in items)
        title = f"{numbers.plural(total, 'dead letter')}, {numbers.plural(len(items), 'cause')}"
        terminal.show(f"{terminal.style.bold(printable(name))}  {title}", "")
        terminal.show(*group_lines(items, terminal.style, terminal.width, line, levels_of(terminal.out)), "")
    if not filled:
        terminal.say("no dead letters")
    elif terminal.interactive:
        terminal.say(*hint_lines(group_hints(*filled[0][:2]), terminal.err_style))


Grouped = tuple[list[Group], Timeline | None, list[dict[str, Any]]]


async def _all_groups(
    refs: Sequence[StoreRef], query: LetterQuery
) -> list[tuple[str, list[Group], Timeline | None, list[dict[str, Any]]]]:
    async def of(store: StateStore) -> Grouped:
        queue = letters_of(store)
        items = await queue.groups(query)
        line = await queue.timeline(query, CELLS)
        return items, line, queue.group_documents(items, line)

    nothing: Grouped = ([], None, [])
    return [(name, *grouped) for name, grouped in await each_store(refs, of, nothing)]


@click.command("ls", cls=Verb, help="Single dead letters, in order of first failure.")
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE…]", shell_complete=complete.pipelines)
@letter_filters
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, metavar="N", help="How many.")
@click.option("--after", metavar="CURSOR", help="Go on behind a listing's `next`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def ls(settings: Settings, pipelines: tuple[str, ...], filters: Filters, limit: int, after: str | None, as_json: bool) -> None:
    terminal = Terminal.of_process()
    query = filters.query(settings, terminal)
    items, documents, cursor = asyncio.run(_page(find_stores(settings, pipelines, whole=False), query, after, limit))
    if as_json:
        terminal.show_json({"items": documents, "next": cursor})
        return
    if not items:
        terminal.say("no dead letters")
        return
    terminal.show(*letter_lines(items, terminal.style, terminal.width))
    if cursor is not None:
        terminal.say(f"there are more: --after {cursor}")


async def _page(
    refs: Sequence[StoreRef], query: LetterQuery, after: str | None, limit: int
) -> tuple[list[DeadLetter], list[dict[str, Any]], str | None]:
    """One page over several pipelines, in their order; a cursor is `PIPELINE/` and the store's own."""
    start, _, cursor = (after or "/").partition("/")
    names = [ref.pipeline for ref in refs]
    if start and start not in names:
        raise UsageError("dlq.bad_cursor", f"{after!r} is no cursor of this listing", help="take it from `next`")
    items: list[DeadLetter] = []
    documents: list[dict[str, Any]] = []
    rest = refs[names.index(start) :] if start else refs

    async def fill(store: StateStore) -> str | None:
        queue = letters_of(store)
        found, following = await queue.page(query, after=cursor or None, limit=limit - len(items))
        items.extend(found)
        documents.extend(queue.documents(found))
        return following

    for index, ref in enumerate(rest):
        following = await _fill(ref, fill, strict=len(refs) == 1)
        if following is not None:
            return items, documents, f"{ref.pipeline}/{following}"
        if len(items) == limit and index + 1 < len(rest):
            return items, documents, f"{rest[index + 1].pipeline}/"
        cursor = ""
    return items, documents, None


async def _fill(ref: StoreRef, fill: Callable[[StateStore], Awaitable[str | None]], *, strict: bool) -> str | None:
    """Where several pipelines are listed, one that lacks the id or fingerprint has nothing to list."""
    try:
        return await if_it_ran(ref, fill, None)
    except UsageError as error:
        if strict or error.code != "dlq.unknown":
            raise
        return None


@click.command("show", cls=Verb, help="One dead letter: what is wrong, where, how often, its data, what was done with it.")
@click.argument("letter", metavar="ID")
@click.option("--pipeline", metavar="NAME", help="Look in this pipeline only.", shell_complete=complete.pipelines)
@click.option("--json", "as_json", is_flag=True, help="Print everything that is kept, as JSON.")
@pass_settings
def show(settings: Settings, letter: str, pipeline: str | None, as_json: bool) -> None:
    terminal = Terminal.of_process()
    refs = find_stores(settings, [pipeline] if pipeline else [], whole=not as_json)
    found = asyncio.run(letter_anywhere(refs, letter))
    if as_json:
        terminal.show_json(found.document)
    else:
        terminal.show(*show_lines(found.letter, position_teller(found.ref.source), terminal.style, found.history, found.lane))
