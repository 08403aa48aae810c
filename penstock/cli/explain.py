"""`pipe explain`: what became of past events, and why, computed again from the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import click

from penstock.cli import complete, numbers
from penstock.cli.archives import Archive, Found, all_archives, archive_of, find_event
from penstock.cli.explain_json import explained_document
from penstock.cli.explain_text import explained_lines
from penstock.cli.explainer import Explained, Explainer
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.positions import position_teller
from penstock.cli.project import load_named, project_root
from penstock.cli.terminal import Terminal
from penstock.cli.times import find_zone, parse_time
from penstock.cli.where import Where
from penstock.clock import rfc3339
from penstock.config.loader import find_pipeline
from penstock.config.units import format_duration
from penstock.errors import PenstockError, UsageError
from penstock.journal.follow import received
from penstock.journal.index import segment_numbers
from penstock.journal.lines import Line
from penstock.journal.reader import ids_of
from penstock.observe.text import printable

SMALL = 50_000
"""Events of a journal that is looked through from end to end for ids that begin as asked, without being told of a time."""
_CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class Span:
    """Times of receipt, in seconds since 1970, half-open.

    :ivar default: nobody asked for it.
    """

    start: float
    end: float
    default: bool = False

    def __str__(self) -> str:
        return f"received from {rfc3339(self.start)} to before {rfc3339(self.end)}"


@click.command(
    "explain",
    cls=Verb,
    help="""What became of a past event: each step's input and output, computed again from the journal under the version of the
    pipeline that handled it, and where the outputs went.

    ID is an event's id, or a beginning of one together with a time (--last). Instead of an id, --where tells events by what is
    in them.""",
)
@click.argument("words", nargs=-1, metavar="[ID] [PIPELINE]")
@click.option("--where", metavar="JQ", help="Events for which this holds, such as '.data.total > 100 and .type == \"order\"'.")
@click.option("--last", metavar="DURATION", help="Received within the last 30m, 2h, 7d.")
@click.option("--from", "start", metavar="TIME", help="Received at or after: 2026-11-01, -2h, yesterday, RFC 3339.")
@click.option("--to", "end", metavar="TIME", help="Received before.")
@click.option(
    "--against", metavar="FILE", shell_complete=complete.files, help="What the pipeline of this file would make of it, too."
)
@click.option("--version", metavar="DIGEST", help="Compute under this stored version, not under the one that handled it.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=10, show_default=True, metavar="N", help="How many events.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def explain(
    settings: Settings,
    words: tuple[str, ...],
    where: str | None,
    last: str | None,
    start: str | None,
    end: str | None,
    against: str | None,
    version: str | None,
    limit: int,
    as_json: bool,
) -> None:
    terminal = Terminal.of_process()
    span = span_of(settings, last, start, end, datetime.now(UTC))
    by_id = where is None and (span is None or len(words) > 1 or not _is_pipeline(settings, words))
    identity, name = _sort(words, by_id=by_id)
    explainer = Explainer(version, None if against is None else (against, load_named(settings, against)))
    search = Search(settings, terminal, Where.compile(where), span, limit)
    found = search.by_id(identity, name) if identity is not None else search.by_time(name)
    asyncio.run(_show(found, explainer, terminal, as_json))


def span_of(settings: Settings, last: str | None, start: str | None, end: str | None, now: datetime) -> Span | None:
    """What the options say; None where they say nothing.

    :raises UsageError: a time that is none, or two that say different things.
    """
    if last is not None:
        if start is not None or end is not None:
            raise UsageError("usage.choose", "--last goes with neither --from nor --to", help="give one or the other")
        return Span(parse_time(f"-{last}", now, None).timestamp(), now.timestamp() + 1)
    if start is None and end is None:
        return None
    zone = find_zone(settings.tz)
    begin = 0.0 if start is None else parse_time(start, now, zone).timestamp()
    return Span(begin, now.timestamp() + 1 if end is None else parse_time(end, now, zone).timestamp())


def _sort(words: Sequence[str], *, by_id: bool) -> tuple[str | None, str | None]:
    """The id and the pipeline among the arguments."""
    if len(words) > (2 if by_id else 1):
        raise UsageError("usage.invalid", f"{len(words)} arguments are too many", help="pipe explain ID PIPELINE")
    if not by_id:
        return None, words[0] if words else None
    if not words:
        help = "pipe explain ID, or pipe explain --where '.data.total > 100' --last 1h"
        raise UsageError("usage.choose", "which event?", help=help)
    return words[0], words[1] if len(words) > 1 else None


def _is_pipeline(settings: Settings, words: Sequence[str]) -> bool:
    """Whether the only argument beside a time names a pipeline: what it received then is asked for."""
    if not words:
        return True
    try:
        find_pipeline(words[0], project_root(settings))
    except UsageError as error:
        return error.code != "usage.unknown_pipeline"
    return True


@dataclass(slots=True)
class Search:
    """Looks for the events that are to be explained; says on stderr what it does not look at."""

    settings: Settings
    terminal: Terminal
    where: Where
    span: Span | None
    limit: int

    def by_id(self, identity: str, name: str | None) -> list[Found]:
        """Events with this id, oldest first; else the one event whose id begins so.

        :raises UsageError: `explain.not_found`, with what the journals cover; `explain.ambiguous`, with the candidates.
        """
        archives, faults = self._archives(name)
        found = [event for archive in archives for event in find_event(archive, identity) if self._is_within(event)]
        if not found:
            candidates = [(archive, each) for archive in archives for each in self._beginning(archive, identity)]
            if len(candidates) > 1:
                raise _ambiguous(identity, [each for _, each in candidates])
            if not candidates:
                raise self._not_found(identity, archives, faults)
            archive, whole = candidates[0]
            found = [event for event in find_event(archive, whole) if self._is_within(event)]
        if len(found) > self.limit:
            self.terminal.say(f"{len(found):,} events have this id: the last {self.limit} are shown (--limit)")
        return found[-self.limit :]

    def by_time(self, name: str | None) -> list[Found]:
        """Events that were received in the time that was asked for, and are wanted.

        :raises UsageError: `explain.not_found`.
        """
        if self.span is None:
            now = datetime.now(UTC).timestamp()
            self.span = Span(now - 3600, now + 1, default=True)
        self.terminal.say(f"{self.span}{'; --last, --from and --to say otherwise' if self.span.default else ''}")
        archives, faults = self._archives(name)
        matching = (Found(archive, line) for archive in archives for line in self.where.among(self._lines(archive)))
        found = list(islice(matching, self.limit + 1))
        self._tell_failures()
        if not found:
            raise self._not_found(None, archives, faults)
        if len(found) > self.limit:
            self.terminal.say(f"there are more: the first {self.limit} are shown (--limit)")
        return [_settled(event) for event in found[: self.limit]]

    def _archives(self, name: str | None) -> tuple[list[Archive], list[PenstockError]]:
        if name is not None:
            return [archive_of(self.settings, name)], []
        archives, faults = all_archives(self.settings)
        for fault in faults:
            self.terminal.say_error(fault)
        return archives, faults

    def _lines(self, archive: Archive) -> Iterator[Line]:
        assert self.span is not None
        start, end = rfc3339(self.span.start), rfc3339(self.span.end)
        records = received(archive.directory, self.span.start, self.span.end)
        return (record.line for record in records if start <= record.line.at < end)

    def _is_within(self, event: Found) -> bool:
        return self.span is None or rfc3339(self.span.start) <= event.line.at < rfc3339(self.span.end)

    def _beginning(self, archive: Archive, beginning: str) -> list[str]:
        """Ids that begin so, for which lines are read one by one: within the time asked for, or of a small journal all."""
        span = self.span
        if span is None:
            if archive.reader.extent().lines > SMALL:
                return []
            span = Span(0.0, datetime.now(UTC).timestamp() + 1)
        ids = (each for record in received(archive.directory, span.start, span.end) for each in ids_of(record.line))
        return list(islice(dict.fromkeys(each for each in ids if each.startswith(beginning)), _CANDIDATES + 1))

    def _tell_failures(self) -> None:
        if self.where.failure is not None:
            failed = numbers.plural(self.where.failed, "event")
            self.terminal.say(f"--where failed for {failed}, which are left out: {printable(self.where.failure.message)}")

    def _not_found(self, identity: str | None, archives: Sequence[Archive], faults: Sequence[PenstockError]) -> UsageError:
        what = f"no event has the id {identity!r}" if identity is not None else "no such event was received"
        covered = [_coverage(archive) for archive in archives]
        if faults:
            covered.append(f"{numbers.plural(len(faults), 'pipeline')} could not be looked into")
        help = None
        if identity is not None and self.span is None:
            help = "of a long journal, --last 1h looks for ids that begin so, too"
        elif identity is None and self.where.program is not None:
            help = "the program sees the event: its data is `.data`"
        return UsageError("explain.not_found", what, why="; ".join(covered) or "there is no journal here", help=help)


def _settled(event: Found) -> Found:
    """The event with what was written of it later."""
    found = find_event(event.archive, ids_of(event.line)[-1])
    line = event.line
    same = (each for each in found if (each.line.at, each.line.position) == (line.at, line.position))
    return next(same, event)


def _coverage(archive: Archive) -> str:
    """What a journal holds, and what it has let go."""
    extent = archive.reader.extent(count=False)
    if extent.first is None or extent.last is None:
        return f"the journal of {archive.name} is empty"
    told = f"the journal of {archive.name} covers {rfc3339(extent.first)} to {rfc3339(extent.last)}"
    numbers_there = segment_numbers(archive.directory)
    if not numbers_there or numbers_there[0] == 1:
        return told
    journal = archive.today.journal if archive.today is not None else None
    kept = f" ({format_duration(journal.retention)}, {journal.max_size >> 20} MiB)" if journal is not None else ""
    return f"{told}, and what came before is gone by its retention{kept}"


def _ambiguous(beginning: str, candidates: Sequence[str]) -> UsageError:
    shown = ", ".join(printable(each) for each in candidates[:_CANDIDATES])
    more = ", …" if len(candidates) > _CANDIDATES else ""
    many = f"more than {_CANDIDATES}" if more else str(len(candidates))
    return UsageError(
        "explain.ambiguous", f"{many} events begin with {beginning!r}", why=f"they are {shown}{more}", help="write more of it"
    )


async def _show(found: Sequence[Found], explainer: Explainer, terminal: Terminal, as_json: bool) -> None:
    if as_json:
        items = [explained_document(await explainer.explain(event)) for event in found]
        terminal.show_json({"items": items, "next": None})
        return
    for number, event in enumerate(found):
        if number:
            terminal.show("", terminal.style.dim("─" * min(terminal.width or 60, 60)), "")
        _show_one(await explainer.explain(event), terminal)


def _show_one(explained: Explained, terminal: Terminal) -> None:
    archive = explained.found.archive
    kind = archive.today.source.kind if archive.today is not None else None
    if kind is None and explained.pipeline is not None:
        kind = explained.pipeline.source.kind
    terminal.show(*explained_lines(explained, position_teller(kind), terminal.style))
