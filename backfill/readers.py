"""The journal that a backfill reads: the pipeline's own, or the copy of a native range."""

from __future__ import annotations

from backfill.copies import Copies
from backfill.request import Request
from penstock.config.model import Pipeline
from penstock.errors import UsageError
from penstock.journal.reader import JournalReader


def own_journal(today: Pipeline) -> JournalReader | None:
    """The pipeline's own; None where it keeps none."""
    return JournalReader(today.journal.directory) if today.journal is not None else None


def range_of(request: Request, today: Pipeline) -> JournalReader:
    """What the events of a request lie in.

    :param today: the pipeline as its file has it.
    :raises UsageError: `backfill.no_journal`.
    :raises EnvironmentFault: `backfill.no_copy`.
    """
    if request.copied is not None:
        return JournalReader(Copies.of(today.state, today.name).path(request.copied.name))
    journal = own_journal(today)
    if journal is None:
        raise UsageError(
            "backfill.no_journal",
            f"the pipeline {today.name} keeps no journal, so its past events are not known",
            where=str(today.file),
            help="--source native reads them from the source, where that keeps them; without `journal: off` in its file "
            "they can be backfilled from then on",
        )
    return journal
