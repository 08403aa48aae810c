"""`pause_after`: so many events in a row failed for good that it is no matter of single events any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.engine.tally import Failure
from penstock.engine.work import Work
from penstock.state.lane_tables import PARKED

AUTHOR = "pause_after"
"""Who pauses a pipeline by this rule."""


@dataclass(slots=True)
class FailureRow:
    """Counts failures in read order, over the groups of a run. An event that was delivered or filtered ends a row; a repetition,
    and one that is parked behind another, neither ends nor lengthens it.

    :ivar limit: None: nobody asked for it.
    """

    limit: int | None
    length: int = 0

    def after(self, works: Sequence[Work], refusals: Sequence[Mapping[int, Failure]]) -> str | None:
        """Why the pipeline is to pause, where the row is long enough; it begins anew then.

        :param works: of a group that is committed; `refusals`: for each, by origin, why sinks refused an event.
        """
        if self.limit is None:
            return None
        latest: Failure | None = None
        for work, refused in zip(works, refusals, strict=True):
            latest = self._count(work, {**refused, **work.failures}) or latest
        if self.length < self.limit or latest is None:
            return None
        number, self.length = self.length, 0
        return f"{number} events in a row failed, the last in {latest.step} with {latest.error.code}"

    def _count(self, work: Work, failures: Mapping[int, Failure]) -> Failure | None:
        """The failure that made the row long enough, or the latest of a row that still grows."""
        latest, limit = None, self.limit or 0
        for origin in range(len(work.batch.events)) if failures else ():
            failure = failures.get(origin)
            if failure is None and origin not in work.verdicts.dropped:
                if self.length >= limit:
                    return latest
                self.length = 0
            elif failure is not None and failure.error.code != PARKED and origin not in work.verdicts.reread:
                self.length += 1
                latest = failure
        if not failures and len(work.batch.events) > len(work.verdicts.dropped) and self.length < limit:
            self.length = 0
        return latest
