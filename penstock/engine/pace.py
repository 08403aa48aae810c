"""At which rate a job goes, and may go; and how many events a portion of it may have."""

from __future__ import annotations

from dataclasses import dataclass

SMOOTHING = 5.0
"""Seconds over which the rate is told."""

LEAST = 50
"""Events below which a portion is not made smaller for its commit's sake: most of that is the same for one event as for fifty."""


@dataclass(slots=True)
class Size:
    """How many events the next portion may have: as many as take the target, at what the last one took. `took` after each.

    It begins with one, and at most doubles: what a step takes is not known before.

    :ivar target: seconds that a portion is to take.
    :ivar most: events of a portion, whatever they take.
    :ivar events: of the next one.
    """

    target: float
    most: int
    events: int = 1

    def took(self, events: int, made: float, committed: float) -> None:
        """A portion of so many events took so many seconds, without those for which it waited for others.

        :param made: to read and to process it; `committed`: to deliver and to commit it.
        """
        if events:
            fitting = max(self._fitting((made + committed) / events), min(LEAST, self._fitting(made / events)))
            self.events = max(1, min(fitting, 2 * self.events, self.most))

    def _fitting(self, each: float) -> int:
        return self.most if each * self.most <= self.target else int(self.target / each)


@dataclass(slots=True)
class Pace:
    """`did` after each portion, then `wait` seconds before the next.

    :ivar limit: events a second; None: as fast as it goes.
    :ivar due: monotonic time at which the next portion may come.
    :ivar rate: events a second, lately; None at first.
    """

    limit: float | None
    due: float
    rate: float | None = None
    _events: float = 0.0
    _since: float | None = None

    def portion(self, count: int) -> int:
        """How many events a portion may have: with a limit, as many as may come in a second."""
        return count if self.limit is None else max(1, min(count, int(self.limit)))

    def did(self, events: int, now: float) -> None:
        """So many more are done. What was not used of the limit is not saved up for longer than a second."""
        if self._since is None:
            self._since = now
        else:
            self._events += events
            passed = now - self._since
            if passed > 0:
                self.rate = self._events / passed
            if passed >= SMOOTHING:
                self._since, self._events = now - passed / 2, self._events / 2
        if self.limit is not None:
            self.due = max(self.due, now - 1.0) + events / self.limit

    def wait(self, now: float) -> float:
        """Seconds until the next portion may come; 0: at once."""
        return 0.0 if self.limit is None else max(0.0, self.due - now)
