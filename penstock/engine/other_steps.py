"""The steps of a stored version in place of today's, for jobs whose outputs go to today's sinks: replays and live backfills.

steps = await steps_of(today, digest, store, log)       # a pipeline: today's, or a stored one within today's limits
refuse_other_keys(ours, theirs, steps.version, help)
routing = Routing.between(steps, today)
routes = routing.today(routes, len(outputs))            # what its steps made, for today's sinks
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from penstock.config.model import Pipeline
from penstock.config.stored import Around, Stored
from penstock.engine.prepare import Keys
from penstock.engine.versions import find_version, is_version, load_stored
from penstock.errors import UsageError
from penstock.journal.lines import VERSION_DIGITS
from penstock.observe.log import Incident, Log
from penstock.state.store import StateStore


async def steps_of(today: Pipeline, digest: str, store: StateStore, log: Log) -> Pipeline:
    """The pipeline whose steps have this digest, or this beginning of one. What may have changed in them since is logged.

    :raises UsageError: `version.unknown`, `version.ambiguous`, `version.cannot_be_built`, `version.no_secret`.
    """
    if is_version(today, digest):
        return today
    stored = load_stored(find_version(await store.versions(), digest), around(today))
    refuse_lacking(stored)
    for step, doubt in stored.doubts.items():
        log(Incident("warning", "version.doubt", f"{today.name}: step {step}: {doubt}"))
    limits = {name: getattr(today, name) for name in ("workers", "worker_memory", "transform_timeout", "dedup")}
    if any(step.effects for step in stored.pipeline.steps):
        limits["workers"] = 0  # a worker has no state store, and may be killed between the world's answer and its reply
    return replace(stored.pipeline, **limits)


def around(today: Pipeline) -> Around:
    """Where stored versions are brought back to life, in this process."""
    return Around(today.file, today.project, today.state, os.environ, today)


def refuse_lacking(stored: Stored) -> None:
    """:raises UsageError: `version.no_secret`, a step would do its work with asterisks for a key (Invariant 13)."""
    if stored.lacking:
        steps = ", ".join(sorted(stored.lacking))
        raise UsageError(
            "version.no_secret",
            f"version {stored.pipeline.version[:VERSION_DIGITS]} had a secret in {steps}, and today's file has none there",
            why="no version keeps secrets: those of steps with the same name and kind are taken from today's file",
            help="give today's file a step of that name and kind with the secret, or deliver with other steps",
        )


def refuse_other_keys(ours: Keys | None, theirs: Keys | None, version: str, help: str) -> None:
    """:raises UsageError: `replay.other_keys`, a repetition of what the version delivers would not be known for one."""
    if (ours and ours.space) != (theirs and theirs.space):
        raise UsageError(
            "replay.other_keys",
            f"version {version[:VERSION_DIGITS]} gives events other ids than today's pipeline, and so other dedup keys",
            why="a repetition of what is delivered so would not be known for one",
            help=help,
        )


@dataclass(frozen=True, slots=True)
class Routing:
    """From the sinks of a version to those of today, by name.

    :ivar bits: for each sink of the version, its number today; None: there is none of that name.
    :ivar same: both have the same sinks in the same order.
    """

    bits: Sequence[int | None]
    same: bool

    @classmethod
    def between(cls, steps: Pipeline, today: Pipeline) -> Routing:
        """Whose steps are run, and whose sinks take what they make."""
        theirs, ours = [sink.name for sink in steps.sinks], [sink.name for sink in today.sinks]
        return cls([ours.index(name) if name in ours else None for name in theirs], theirs == ours)

    @property
    def mask(self) -> int:
        """Today's sinks that the version has, too."""
        return sum(1 << bit for bit in self.bits if bit is not None)

    def today(self, routes: list[int] | None, outputs: int) -> list[int] | None:
        """Bit masks over the version's sinks (None: all of them take all) as masks over today's."""
        if self.same:
            return routes
        if routes is None:
            return [self.mask] * outputs
        return [sum(1 << bit for n, bit in enumerate(self.bits) if bit is not None and route >> n & 1) for route in routes]
