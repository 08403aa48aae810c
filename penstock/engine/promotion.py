"""`promote: required`: a changed version delivers nothing before somebody has let it through (`penstock.state.promotions`)."""

from __future__ import annotations

from penstock.config.model import Pipeline
from penstock.errors import UsageError
from penstock.journal.lines import VERSION_DIGITS
from penstock.state.store import StateStore


async def refuse_unpromoted(steps: Pipeline, today: Pipeline, store: StateStore) -> None:
    """:param steps: of the version that is to deliver; `today`: whose policy counts.
    :raises UsageError: `version.not_promoted`.
    """
    if today.promote != "required" or await store.promotions.admits(steps.version):
        return
    against = "" if steps.version == today.version else f" --against {steps.version[:VERSION_DIGITS]}"
    raise UsageError(
        "version.not_promoted",
        f"nobody has let this version of {today.name} through: {steps.version[:VERSION_DIGITS]}",
        where=str(today.file),
        why="the pipeline says `promote: required`, and another version ran before",
        help=f"pipe backfill {today.name} --from -7d --to now --mode shadow{against}, then pipe backfill promote JOB",
    )
