"""What tests of replays share: a step that is mended, replays while no run is alive, and what became of letters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from engine_parts import kept

from dlq.replay import ReplaySummary, replay
from penstock.clock import Clock, SystemClock
from penstock.config.model import Pipeline
from penstock.errors import Permanent
from penstock.event import Event
from penstock.faults import Faults
from penstock.state.records import LetterQuery

NOBODY = LetterQuery()


class Check:
    """A step that refuses what a test has not mended yet, and counts its calls."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.asked: list[str] = []

    def __call__(self, event: Event) -> Any:
        self.asked.append(event.id)
        return Permanent("step.bad", f"{event.id} is bad") if event.id in self.refused else event


async def again(
    pipeline: Pipeline,
    query: LetterQuery = NOBODY,
    *,
    faults: Faults | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    clock: Clock | None = None,
) -> ReplaySummary:
    call = replay(pipeline, query, clock=clock or SystemClock(), faults=faults or Faults(), progress=progress, dry_run=dry_run)
    return await asyncio.wait_for(call, 20)


def numbers(count: int) -> list[dict[str, int]]:
    return [{"n": n} for n in range(count)]


async def statuses(pipeline: Pipeline) -> dict[str, tuple[str, int, Sequence[str]]]:
    return {letter.event_id: (letter.status, letter.attempts, letter.owed) for letter in (await kept(pipeline)).letters}


def said(summary: ReplaySummary) -> tuple[int, int, int, int, int]:
    return summary.selected, summary.delivered, summary.filtered, summary.deduplicated, summary.failed_again
