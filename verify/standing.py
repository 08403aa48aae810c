"""What has become of an event by now: of the run that received it, and of the jobs that took it up later. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from penstock.engine.lanes import LANE
from penstock.journal.lines import Line, Outcome
from verify.jobs import Deed

SinksOf = Callable[[str], Sequence[str] | None]
"""The sinks of a version, as lines name it; None where it is not stored."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One that got through, of the run or of a job.

    :ivar deed: of a job; None: the run delivered it.
    :ivar sinks: whom it was for; None: all sinks of its version. With a replay those have it, too, that its event had reached
        before it failed at others: one that was added since need not have got it.
    :ivar after: what was tried before, that may have got as far as some sinks.
    """

    deed: Deed | None = None
    sinks: tuple[str, ...] | None = None
    after: Sequence[Deed | None] = ()

    def reaches(self, sink: str) -> bool:
        """Whether it was for this sink, as far as it says."""
        return self.sinks is None or sink in self.sinks


@dataclass(frozen=True, slots=True)
class Standing:
    """:ivar outcome: `dead_lettered` where what was done last failed: then it has a dead letter."""

    outcome: Outcome
    deliveries: tuple[Delivery, ...]

    @property
    def has_deeds(self) -> bool:
        """Whether a job delivered it to some sinks."""
        return any(delivery.deed is not None for delivery in self.deliveries)


RUN = Delivery()
_DELIVERED = Standing("delivered", (RUN,))


def standing_of(line: Line, deeds: Sequence[Deed], sinks_of: SinksOf, replays: Collection[str]) -> Standing:
    """What has become of the event of a line.

    :param deeds: what jobs made of it, in order.
    :param replays: the ids of jobs that take up dead letters.
    """
    if not deeds:
        return _DELIVERED if line.outcome == "delivered" else Standing(line.outcome, ())
    outcome, deliveries = line.outcome, [RUN] if line.outcome == "delivered" else []
    owed = sinks_of(line.version) if line.outcome == "dead_lettered" else None
    tried: list[Deed | None] = [None] if _reached(line.outcome, line.step, line.version, sinks_of) else []
    for deed in deeds:
        kind = deed.kind
        if kind.outcome == "dead_lettered":
            if outcome != "dead_lettered":
                owed = kind.sinks or sinks_of(kind.version)
            if _reached(kind.outcome, kind.step, kind.version, sinks_of):
                tried.append(deed)
            outcome = "dead_lettered"
        elif kind.outcome == "delivered":
            sinks = kind.sinks
            if sinks is not None and outcome == "dead_lettered" and kind.job in replays:
                sinks = None if owed is None else tuple(dict.fromkeys((*owed, *sinks)))
            deliveries.append(Delivery(deed, None if sinks is None else tuple(sinks), tuple(tried)))
            outcome = "delivered"
        elif outcome == "dead_lettered":
            outcome = "delivered" if deliveries else kind.outcome
    return Standing(outcome, tuple(deliveries))


def _reached(outcome: Outcome, step: str | None, version: str, sinks_of: SinksOf) -> bool:
    """Whether it failed at a sink, as far as is known: then others may have taken it."""
    if outcome != "dead_lettered" or step == LANE:
        return False
    sinks = sinks_of(version)
    return sinks is None or step is None or step in sinks
