"""A turn: one group of a job, committed between two of the source (rule 10). It moves no position and no count of the pipeline;
how far the job is goes with its note, in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.ledger import Counts
from penstock.state.job_records import JobProgress

OUTCOMES = ("received", "delivered", "filtered", "deduplicated", "dead_lettered", "derived")
"""What every job counts of its events, by the names of `Counts`."""


@dataclass(slots=True)
class Turn:
    """What a job brings along with the works of one group.

    :ivar progress: how far the job was before them; the committer puts here how far it is behind them.
    :ivar cursor: where it goes on behind them; `until`: how much of its total is done then.
    :ivar others: what else the job counts of them.
    :ivar version: of the pipeline whose steps processed them.
    :ivar began: monotonic time at which its commit did, behind those that it waited for.
    """

    progress: JobProgress
    cursor: bytes
    until: int
    version: str
    others: Mapping[str, int] = field(default_factory=dict)
    began: float = 0.0

    @property
    def job(self) -> str:
        """Its id."""
        return self.progress.job

    def advanced(self, outcomes: Counts, *, last: bool) -> JobProgress:
        """How far the job is behind a group that came to these outcomes.

        :param last: whether the works end with this group: where they were divided, the cursor goes with their last part.
        """
        before = self.progress
        counts = dict(before.counts)
        for name in OUTCOMES:
            counts[name] = counts.get(name, 0) + getattr(outcomes, name)
        if not last:
            done = min(self.until, before.done + outcomes.received)
            return JobProgress(before.job, before.cursor, done, before.total, counts, before.rate)
        for name, number in self.others.items():
            counts[name] = counts.get(name, 0) + number
        return JobProgress(before.job, self.cursor, self.until, before.total, counts, before.rate)
