"""Whether the steps of a version may deliver to today's sinks: asked when a live backfill is made, and again when it begins."""

from __future__ import annotations

from backfill.request import Request
from penstock.config.model import Pipeline
from penstock.engine.claim import version_of
from penstock.engine.other_steps import around, refuse_lacking
from penstock.engine.promotion import refuse_unpromoted
from penstock.engine.versions import load_stored
from penstock.errors import UsageError
from penstock.journal.lines import VERSION_DIGITS
from penstock.state.store import StateStore


async def admit(steps: Pipeline, request: Request, today: Pipeline, store: StateStore) -> None:
    """:raises UsageError: `backfill.unknown_sink`, `lane.key_changed`, `version.not_promoted`, `version.no_secret`,
    `version.cannot_be_built`: from what is stored of it."""
    check_sinks(steps, request, today)
    check_lanes(steps, today)
    await refuse_unpromoted(steps, today, store)
    if steps.version != today.version:
        refuse_lacking(load_stored(version_of(steps, 0.0), around(today)))


def check_sinks(steps: Pipeline, request: Request, today: Pipeline) -> None:
    """Each sink that is to get something is there today, and has a route in these steps.

    :raises UsageError: `backfill.unknown_sink`.
    """
    theirs, ours = [sink.name for sink in steps.sinks], [sink.name for sink in today.sinks]
    for name in request.sinks:
        if name not in ours:
            raise UsageError("backfill.unknown_sink", f"no sink is called {name!r}", help=f"there are {', '.join(ours)}")
        if name not in theirs:
            raise UsageError(
                "backfill.unknown_sink",
                f"version {steps.version[:VERSION_DIGITS]} has no sink {name!r}, and so nothing for it",
                help=f"it has {', '.join(theirs)}",
            )
    gone = [name for name in theirs if name not in ours]
    if gone and not request.sinks:
        raise UsageError(
            "backfill.unknown_sink",
            f"version {steps.version[:VERSION_DIGITS]} routes to {', '.join(gone)}, which {today.name} does not have today",
            why="what goes there would be lost",
            help=f"give it back to the pipeline, or deliver to one that it has: --sink {ours[0]}",
        )


def check_lanes(steps: Pipeline, today: Pipeline) -> None:
    """What is parked, and what comes now, is in the lanes of today's key.

    :raises UsageError: `lane.key_changed`.
    """
    then, now = steps.event.partition_key, today.event.partition_key
    if today.dead_letter.lane == "park" and then != now:
        raise UsageError(
            "lane.key_changed",
            f"version {steps.version[:VERSION_DIGITS]} has another event.partition_key: {then!r} there, {now!r} today",
            why="its events would be in other lanes than what is parked, and pass it",
            help="deliver with steps that have today's key: --against a file that has it",
        )
