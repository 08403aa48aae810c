"""Jobs that a run makes by itself: a `retry` takes up the dead letters whose next retry is due, a `release` the lanes whose head
is parked, since what was before it is settled (rules 10 and 12). Somebody who hurries makes a `retry` of all that wait.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from penstock.state.job_records import Job
from penstock.state.records import LetterQuery
from penstock.state.store import StateStore

ALL = float(1 << 53)
"""Seconds since 1970 by which everything is due."""


class DueOptions(msgspec.Struct):
    """What such a job is to do; stored as JSON.

    :ivar due: what is due by then, in seconds since 1970.
    :ivar upto: bound of the letters that there were when it was made (`StateStore.bounded`).
    """

    due: float
    upto: int


async def make_due(store: StateStore, status: Literal["open", "parked"], now: float) -> Job:
    """A job for all that is due now, together."""
    _, upto = await store.bounded(LetterQuery())
    kind = "retry" if status == "open" else "release"
    return await store.jobs.create(kind, _encoded(DueOptions(now, upto)), "")


async def make_hurried(store: StateStore, by: str) -> Job:
    """A job for all letters that wait for a retry, due or not."""
    _, upto = await store.bounded(LetterQuery())
    waiting = (await store.lanes.retries()).waiting
    return await store.jobs.create("retry", _encoded(DueOptions(ALL, upto)), by, total=waiting)


def _encoded(options: DueOptions) -> str:
    return msgspec.json.encode(options).decode()
