"""How `pipe status` tells of a journal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from penstock.cli import numbers
from penstock.cli.terminal import Style
from penstock.clock import rfc3339
from penstock.journal.examine import FULL, Outline, outline
from penstock.observe.text import printable
from penstock.places import LEAST_FREE


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A journal that only its owner may look at, say."""

    directory: Path
    why: str


Seen = Outline | Unreadable | None
"""A journal as it was looked at; None where none is kept, or none was begun."""


def look_at_journal(directory: Path | None) -> Seen:
    """What can be said of it; whatever that is, the rest of a pipeline is told all the same."""
    if directory is None:
        return None
    try:
        return outline(directory)
    except OSError as error:
        return Unreadable(directory, error.strerror or str(error))


def journal_document(journal: Seen) -> dict[str, Any] | None:
    """Its part of `pipe status --json`."""
    if journal is None:
        return None
    if isinstance(journal, Unreadable):
        return {"directory": str(journal.directory), "problem": journal.why}
    return {
        "directory": str(journal.directory),
        "segments": journal.segments,
        "bytes": journal.size,
        "oldest_at": rfc3339(journal.first) if journal.first is not None else None,
        "newest_at": rfc3339(journal.last) if journal.last is not None else None,
        "free_bytes": journal.free,
    }


def journal_lines(journal: Outline | Unreadable, now: float, style: Style) -> list[str]:
    """How large it is, how far back it reaches, and whether its disk is full."""
    if isinstance(journal, Unreadable):
        return [f"  {style.yellow(f'cannot be read: {journal.why}')}, in {printable(str(journal.directory))}"]
    size = f"{numbers.size(journal.size)} in {numbers.plural(journal.segments, 'segment')}"
    oldest = f", oldest event {numbers.age(now - journal.first)}" if journal.first is not None else ""
    lines = [f"  {size}{oldest}, in {printable(str(journal.directory))}"]
    if is_full(journal):
        lines.append(f"  {style.red(full_line(journal))}")
    elif journal.free < LEAST_FREE:
        lines.append(f"  {style.yellow(f'{numbers.size(journal.free)} free on its disk')}")
    return lines


def is_full(journal: Seen) -> TypeGuard[Outline]:
    """Whether its disk is as good as full."""
    return isinstance(journal, Outline) and journal.free < FULL


def full_line(journal: Outline) -> str:
    """What that means."""
    return f"its disk is full: {numbers.size(journal.free)} free; a run waits, acknowledging nothing, until there is room"
