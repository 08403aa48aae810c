"""`pipe dlq edit`: the events of dead letters, mended. What came stays for good, and `--restore` brings it back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any, Protocol

import click
import msgspec

from penstock.builtins import room
from penstock.cli import complete, numbers
from penstock.cli.dlq_editor import in_editor
from penstock.cli.dlq_filters import Filters, letter_filters, only
from penstock.cli.dlq_render import SHORT_ID, hint_lines
from penstock.cli.dlq_settle import confirm
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import find_stores
from penstock.cli.sender import sender
from penstock.cli.stores import StoreRef, letter_anywhere, reading
from penstock.cli.terminal import Style, Terminal
from penstock.errors import ExitStatus, UsageError
from penstock.observe.text import printable
from penstock.state.letter_desk import Act
from penstock.state.records import DeadLetter, LetterQuery
from penstock.state.store import StateStore

_SHOWN_ERRORS = 5
_MOST_BYTES = 64 << 20

Editor = Callable[[DeadLetter], bytes | None]


class Edit(Protocol):
    """What would become of one letter (`dlq.queue.Edit`)."""

    @property
    def letter(self) -> DeadLetter: ...
    @property
    def after(self) -> bytes | None: ...
    @property
    def error(self) -> UsageError | None: ...


class Mending(Protocol):
    """What the command uses of the dead letter queue (`dlq.queue.DeadLetterQueue`) to mend letters."""

    def edits(self, query: LetterQuery, editor: Editor) -> AsyncIterator[Edit]: ...
    async def keep(self, letter: DeadLetter, record: bytes | None, act: Act) -> None: ...
    def patch(self, program: str) -> Editor: ...
    def edited(self, letter: DeadLetter, text: bytes) -> bytes | None: ...
    def editable(self, letter: DeadLetter) -> bytes: ...


@dataclass(slots=True)
class Tally:
    """What became of the letters that were selected."""

    changed: int = 0
    unchanged: int = 0
    failed: int = 0


@click.command(
    "edit",
    cls=Verb,
    help="""Mend the event of a dead letter: in $EDITOR, by a jq program that gives the whole event back, or from a file.

    With --pipeline and filters, or --all, --jq mends many. A replay sends the edited event, under the dedup key of what came.
    What came is kept for good, and so is who changed what, and why.

    \b
    pipe dlq edit 7d4f11a9db
    pipe dlq edit 7d4f11a9db --jq '.data.total |= tonumber' --reason 'the shop sent text'
    pipe dlq edit --pipeline orders --code validate.failed --jq '.data.total |= tonumber' --dry-run""",
)
@click.argument("letter", metavar="[ID]", required=False)
@click.option("--pipeline", metavar="NAME", help="Whose dead letters.", shell_complete=complete.pipelines)
@letter_filters
@click.option("--all", "take_all", is_flag=True, help="All of the pipeline that are open.")
@click.option("--jq", "program", metavar="PROGRAM", help="Over the event, such as '.data.total |= tonumber'.")
@click.option(
    "--file", "file", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE", help="The edited event; -: stdin."
)
@click.option("--restore", is_flag=True, help="What came, again.")
@click.option("--reason", metavar="TEXT", help="Why: it is kept in the history.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before several are changed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def edit(settings: Settings, /, letter: str | None, pipeline: str | None, filters: Filters, take_all: bool, **how: Any) -> int:
    terminal = Terminal.of_process()
    asked = Asked(**{name: how[name] for name in Asked.__slots__})
    _check(letter, pipeline, filters, take_all, asked)
    if letter is not None:
        refs = find_stores(settings, [pipeline] if pipeline else [], whole=False)
        ref = asyncio.run(letter_anywhere(refs, letter)).ref
        query = LetterQuery(ids=[letter], status=())
    else:
        [ref] = find_stores(settings, [pipeline or ""], whole=False)
        query = only(filters.query(settings, terminal), "open", "parked")
    many = letter is None and not asked.dry_run
    if many and not asked.yes:
        confirm(terminal, "edit", asyncio.run(_mend(ref, query, asked, None)).changed, ref.pipeline)
    tally = asyncio.run(_mend(ref, query, asked, terminal))
    _tell(terminal, ref, tally, asked, how["as_json"])
    return int(ExitStatus.FOUND if tally.failed else ExitStatus.DONE)


@dataclass(frozen=True, slots=True)
class Asked:
    """How letters are to be mended."""

    program: str | None
    file: Path | None
    restore: bool
    reason: str | None
    dry_run: bool
    yes: bool


def _check(letter: str | None, pipeline: str | None, filters: Filters, take_all: bool, asked: Asked) -> None:
    """:raises UsageError: `usage.choose`: which letters, or how, is not said, or said twice."""
    chosen = filters.any or take_all
    if letter is not None and chosen:
        raise UsageError("usage.choose", "an ID does not go together with filters", help="leave one of them out")
    if letter is None and (pipeline is None or filters.any == take_all):
        raise UsageError(
            "usage.choose", "which dead letters?", help="an ID; or --pipeline NAME with a filter such as --code, or with --all"
        )
    if sum((asked.program is not None, asked.file is not None, asked.restore)) > 1:
        raise UsageError("usage.choose", "--jq, --file and --restore exclude each other", help="leave all but one out")
    if letter is None and asked.program is None and not asked.restore:
        raise UsageError("usage.choose", "several dead letters are mended by a program", help="--jq PROGRAM, or --restore")


async def _mend(ref: StoreRef, query: LetterQuery, asked: Asked, terminal: Terminal | None) -> Tally:
    """:param terminal: None: only count what would change."""
    tally = Tally()
    async with reading(ref) as store:
        queue = _mending(store)
        act = Act(sender(), asked.reason)
        async for found in queue.edits(query, _editor(queue, asked, terminal)):
            if found.error is not None:
                _failed(tally, found, query, terminal)
            elif (found.letter.edited is None) if asked.restore else (found.after is None):
                tally.unchanged += 1
            else:
                tally.changed += 1
                if terminal is not None and asked.dry_run:
                    terminal.show(*diff_lines(found.letter, found.after or found.letter.record, terminal.style))
                elif terminal is not None:
                    await queue.keep(found.letter, found.after, act)
    return tally


def _failed(tally: Tally, found: Edit, query: LetterQuery, terminal: Terminal | None) -> None:
    """One of several is told, and stays as it is; one that was named is an error."""
    if found.error is not None and query.ids:
        raise found.error
    tally.failed += 1
    if terminal is not None and found.error is not None and tally.failed <= _SHOWN_ERRORS:
        terminal.say(f"{found.letter.id[:SHORT_ID]}: {printable(found.error.message)}")


def _mending(store: StateStore) -> Mending:
    queue: Mending = room("dlq")(store)
    return queue


def _editor(queue: Mending, asked: Asked, terminal: Terminal | None) -> Editor:
    if asked.restore:
        return lambda letter: None
    if asked.program is not None:
        return queue.patch(asked.program)
    if asked.file is not None:
        text = _read(asked.file)
        return lambda letter: queue.edited(letter, text)

    def by_hand(letter: DeadLetter) -> bytes | None:
        if terminal is None:
            return None
        return in_editor(queue.editable(letter), _head(letter), lambda text: queue.edited(letter, text), terminal)

    return by_hand


def _read(file: Path) -> bytes:
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(_MOST_BYTES)
        with file.open("rb") as stream:
            return stream.read(_MOST_BYTES)
    except OSError as error:
        raise UsageError("dlq.cannot_read", f"cannot read {file}", why=error.strerror) from error


def _head(letter: DeadLetter) -> list[str]:
    lines = [f"The event of the dead letter {letter.id}, as a replay would send it. Lines that begin with # here are left out;"]
    lines += ["a file that is saved as it is changes nothing.", ""]
    told = [f"{letter.code} in {letter.step}: {letter.why or letter.message}", *(v.message for v in letter.violations)]
    return lines + [printable(line) for text in told for line in text.splitlines()] + [""]


def diff_lines(letter: DeadLetter, after: bytes, style: Style) -> list[str]:
    """What an edit changes."""
    old, new = (msgspec.json.format(text, indent=2).decode().splitlines() for text in (letter.effective, after))
    lines, name = [], letter.id[:SHORT_ID]
    for line in unified_diff(old, new, f"{name} as it is", f"{name} edited", lineterm=""):
        shown = printable(line)
        paint = style.red if line.startswith("-") else style.green if line.startswith("+") else style.dim
        lines.append(paint(shown) if not line.startswith(" ") else shown)
    return lines


def _tell(terminal: Terminal, ref: StoreRef, tally: Tally, asked: Asked, as_json: bool) -> None:
    if as_json:
        figures = {"changed": tally.changed, "unchanged": tally.unchanged, "failed": tally.failed}
        terminal.show_json({"pipeline": ref.pipeline, "dry_run": asked.dry_run, **figures})
        return
    what = "restored" if asked.restore else "edited"
    done = f"{numbers.plural(tally.changed, 'dead letter')} {'would be ' if asked.dry_run else ''}{what}"
    rest = [(tally.unchanged, "unchanged"), (tally.failed, "cannot be edited so, and stay as they are")]
    terminal.say(", ".join([f"{ref.pipeline}: {done}", *(f"{numbers.count(n)} {text}" for n, text in rest if n)]))
    if tally.changed and not asked.dry_run:
        terminal.say(*hint_lines([(f"pipe dlq replay {ref.pipeline} …", "sends them")], terminal.err_style))
