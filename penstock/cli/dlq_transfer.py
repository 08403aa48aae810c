"""`pipe dlq export | import`: dead letters to a file, and from one, exactly."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import click

from penstock.builtins import room
from penstock.cli import complete, numbers
from penstock.cli.dlq_files import read_lines, written
from penstock.cli.dlq_filters import Filters, letter_filters
from penstock.cli.dlq_redaction import Redaction, redaction_of, redaction_options
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import find_stores
from penstock.cli.sender import sender
from penstock.cli.stores import StoreRef, each_store, telling
from penstock.cli.terminal import Terminal
from penstock.errors import ExitStatus
from penstock.observe.text import printable, printable_json
from penstock.state.letter_desk import Act
from penstock.state.records import LetterQuery
from penstock.state.store import StateStore

_TOLD = 10
_KEPT = 1000


class Imported(Protocol):
    """What became of one line (`dlq.shipping.Imported`)."""

    @property
    def line(self) -> int: ...
    @property
    def outcome(self) -> str: ...
    @property
    def id(self) -> str | None: ...
    @property
    def why(self) -> str: ...


class Carrying(Protocol):
    """What carries letters about (`dlq.shipping.Shipping`)."""

    def export(self, query: LetterQuery, redaction: Any | None = None) -> AsyncIterator[bytes]: ...
    def take_in(self, lines: Iterable[bytes], own: str, act: Act, *, adopt: bool) -> AsyncIterator[Imported]: ...


@click.command(
    "export",
    cls=Verb,
    help="""Everything that is kept of dead letters, one JSON object a line, from which `import` makes them again.

    A file is compressed where its name ends with .gz or .zst, readable by you alone, and there as a whole or not at all. With
    --redact or --redact-likely what is secret or personal is left out: such a file is for others to look at, and cannot be
    imported.""",
)
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE…]", shell_complete=complete.pipelines)
@letter_filters
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write to a new file.")
@redaction_options("--redact-likely", is_flag=True, help="Leave out what is likely to be secret or personal.")
@pass_settings
def export(
    settings: Settings,
    pipelines: tuple[str, ...],
    filters: Filters,
    output: Path | None,
    redact: tuple[str, ...],
    keep: tuple[str, ...],
    redact_likely: bool,
) -> None:
    terminal = Terminal.of_process()
    query = filters.query(settings, terminal)
    refs = find_stores(settings, pipelines, whole=False)
    redaction = redaction_of(redact, keep) if redact or redact_likely else None
    with _destination(output) as out:
        is_terminal = output is None and sys.stdout.isatty()

        async def write(store: StateStore) -> int:
            count = 0
            async for text in _carrying(store).export(query, redaction):
                out.write((printable_json(text) if is_terminal else text) + b"\n")
                count += 1
            return count

        done = asyncio.run(each_store(refs, write, 0))
        out.flush()
    terminal.say(f"{numbers.plural(sum(count for _, count in done), 'dead letter')} exported{_redacted(redaction)}")


def _redacted(redaction: Redaction | None) -> str:
    if redaction is None:
        return ""
    paths = sorted(redaction.changed)
    return (
        f"; redacted: {printable(', '.join(paths[:_TOLD]))}{', …' if len(paths) > _TOLD else ''}"
        if paths
        else "; nothing was redacted"
    )


@contextmanager
def _destination(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
    else:
        with written(output) as out:
            yield out


def _carrying(store: StateStore) -> Carrying:
    shipping: Carrying = room("shipping")(store)
    return shipping


@click.command(
    "import",
    cls=Verb,
    help="""Take in dead letters of a pipeline from an export (- is standard input), with their edits and history.

    What is there already stays as it is, so that doing it again changes nothing. Letters of other pipelines are refused;
    with --as they become this one's. Exit status 4: some were left out; which, and why, is said.""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE")
@click.option("--as", "adopt", is_flag=True, help="Take in those of other pipelines as this one's.")
@click.option("--reason", metavar="TEXT", help="Why: it is kept in their history.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def import_(settings: Settings, pipeline: str, file: Path, adopt: bool, reason: str | None, as_json: bool) -> int:
    terminal = Terminal.of_process()
    [ref] = find_stores(settings, [pipeline], whole=False)
    with read_lines(file) as lines:
        counts, left = asyncio.run(_import(ref, lines, Act(sender(), reason), adopt))
    if as_json:
        skipped = [{"line": each.line, "id": each.id, "outcome": each.outcome, "why": each.why} for each in left]
        terminal.show_json({"pipeline": ref.pipeline, "added": counts["added"], "there": counts["there"], "skipped": skipped})
    else:
        terminal.say(*import_lines(ref.pipeline, counts, left))
    return int(ExitStatus.FOUND if left else ExitStatus.DONE)


async def _import(ref: StoreRef, lines: Iterable[bytes], act: Act, adopt: bool) -> tuple[Counter[str], list[Imported]]:
    """How many came to what, and the first of those that were left out."""
    counts: Counter[str] = Counter()
    left: list[Imported] = []
    async with telling(ref) as store:
        async for each in _carrying(store).take_in(lines, ref.pipeline, act, adopt=adopt):
            counts[each.outcome] += 1
            if each.outcome not in ("added", "there") and len(left) < _KEPT:
                left.append(each)
    return counts, left


def import_lines(pipeline: str, counts: Counter[str], left: list[Imported]) -> list[str]:
    """What became of the lines of an import."""
    out = sum(counts.values()) - counts["added"] - counts["there"]
    parts = [f"{numbers.plural(counts['added'], 'dead letter')} taken in"]
    parts += [f"{numbers.count(n)} {text}" for n, text in ((counts["there"], "there already"), (out, "left out")) if n]
    lines = [f"{pipeline}: {', '.join(parts)}"]
    lines += [f"  line {each.line}: {printable(each.why)}" for each in left[:_TOLD]]
    if out > _TOLD:
        lines.append(f"  … and {numbers.count(out - _TOLD)} more: --json has them")
    if counts["other_pipeline"]:
        lines.append("  --as takes in those of other pipelines")
    return lines
