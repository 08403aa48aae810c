"""What `pipe explain` finds out about one event of a journal: computed again, compared with what was recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from penstock.cli.archives import Archive, Found
from penstock.cli.stores import if_it_ran
from penstock.config.model import Pipeline
from penstock.engine.agreement import Agreement, agreement
from penstock.engine.recompute import Recompute
from penstock.engine.trace import Trace, trace
from penstock.engine.versions import Versions
from penstock.errors import PenstockError, UsageError
from penstock.journal.lines import Line
from penstock.state.records import STATUSES, DeadLetter, LetterQuery
from penstock.state.store import StateStore

LIMITS = frozenset({"worker.timeout", "worker.died"})
"""Codes of dead letters of events that came to a limit of a worker."""


@dataclass(frozen=True, slots=True)
class Other:
    """What the pipeline of another file makes of the event."""

    file: str
    pipeline: Pipeline
    trace: Trace


@dataclass(frozen=True, slots=True)
class Explained:
    """All about one event.

    :ivar pipeline: under which it was computed; None where that cannot be done (`fault`), or need not be: the steps never saw a
        repetition.
    :ivar which: whether that is the version that handled it, and whether that is today's.
    :ivar agreement: with what was recorded, where it was computed under the version that handled it.
    :ivar letter: its dead letter as it stands now, where it has one.
    """

    found: Found
    which: Literal["today", "stored", "asked"]
    pipeline: Pipeline | None = None
    trace: Trace | None = None
    doubts: dict[str, str] = field(default_factory=dict)
    agreement: Agreement | None = None
    letter: DeadLetter | None = None
    against: Other | None = None
    fault: PenstockError | None = None


@dataclass(slots=True)
class Explainer:
    """Explains events.

    :ivar version: digest of the version to compute under, in the place of the one that handled an event.
    :ivar against: pipeline of another file, by how the file was named.
    """

    version: str | None = None
    against: tuple[str, Pipeline] | None = None
    _versions: dict[str, Versions] = field(default_factory=dict)
    _other: Recompute | None = None

    async def explain(self, found: Found) -> Explained:
        """:raises UsageError: `version.*`, where a version was asked for that is not there."""
        line, archive = found.line, found.archive
        letter = await letter_of(archive, line)
        against = await self._against(found)
        which = self._which(found)
        if line.outcome == "deduplicated" and self.version is None:
            why = "it was a repetition, which a ledger knew: the steps were not asked"
            return Explained(found, which, agreement=Agreement("beyond", why), letter=letter, against=against)
        if self.version is None and (limit := limit_of(letter)) is not None:
            return Explained(found, which, agreement=Agreement("beyond", limit), letter=letter, against=against)
        try:
            recompute = await self._of(archive).of(self.version or line.version)
        except UsageError as fault:
            if self.version is not None:
                raise
            return Explained(found, which, letter=letter, against=against, fault=fault)
        traced = await trace(recompute, line)
        agreed = agreement(line, traced.made, 0, traced.result) if self.version is None else None
        return Explained(found, which, recompute.pipeline, traced, dict(recompute.doubts), agreed, letter, against)

    def _which(self, found: Found) -> Literal["today", "stored", "asked"]:
        if self.version is not None:
            return "asked"
        today = found.archive.today
        return "today" if today is not None and today.version.startswith(found.line.version) else "stored"

    def _of(self, archive: Archive) -> Versions:
        if archive.name not in self._versions:
            self._versions[archive.name] = archive.versions()
        return self._versions[archive.name]

    async def _against(self, found: Found) -> Other | None:
        if self.against is None:
            return None
        file, pipeline = self.against
        if self._other is None:
            self._other = Recompute(pipeline)
        return Other(file, pipeline, await trace(self._other, found.line))


async def letter_of(archive: Archive, line: Line) -> DeadLetter | None:
    """The dead letter of an event as it stands; None where it has none, or it was removed since."""
    if line.letter is None:
        return None
    query = LetterQuery(ids=(line.letter,), status=STATUSES)

    async def read(store: StateStore) -> DeadLetter | None:
        letters, _ = await store.letters(query, bodies=False)
        return letters[0] if letters else None

    try:
        return await if_it_ran(archive.store, read, None)
    except UsageError:  # dlq.unknown: its retention is over
        return None


def limit_of(letter: DeadLetter | None) -> str | None:
    """Why an event is not computed again here: it came to a limit of its worker, which nothing enforces here."""
    if letter is None or letter.code not in LIMITS:
        return None
    return f"{letter.message}: it is not computed again here, where nothing would end that"
