"""What has become of an event by now: of the run that received it, and of the jobs that took it up later. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.engine.lanes import LANE
from penstock.journal.lines import Line, Outcome
from verify.jobs import Deed


@dataclass(frozen=True, slots=True)
class Delivery:
    """One that got through, of the run or of a job.

    :ivar deed: of a job; None: the run delivered it.
    :ivar sinks: whom it was for; None: all sinks of its version.
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


def standing_of(line: Line, deeds: Sequence[Deed], sinks_of_version: Sequence[str] | None) -> Standing:
    """What has become of the event of a line.

    :param deeds: what jobs made of it, in order.
    :param sinks_of_version: of the version that received it, where that is known.
    """
    if not deeds:
        return _DELIVERED if line.outcome == "delivered" else Standing(line.outcome, ())
    outcome, deliveries = line.outcome, [RUN] if line.outcome == "delivered" else []
    tried: list[Deed | None] = [None] if _may_have_reached_sinks(line, sinks_of_version) else []
    owed: tuple[str, ...] | None = None
    for deed in deeds:
        kind = deed.kind
        if kind.outcome == "dead_lettered":
            outcome, owed = "dead_lettered", kind.sinks if line.outcome != "dead_lettered" else None
            tried.append(deed)
        elif kind.outcome == "delivered":
            deliveries.append(Delivery(deed, kind.sinks if kind.sinks is not None else owed, tuple(tried)))
            outcome = "delivered"
        elif outcome == "dead_lettered":
            outcome = "delivered" if deliveries else kind.outcome
    return Standing(outcome, tuple(deliveries))


def _may_have_reached_sinks(line: Line, sinks: Sequence[str] | None) -> bool:
    """Whether it failed at a sink: then others may have taken it."""
    failed = line.outcome == "dead_lettered" and line.step != LANE
    return failed and (sinks is None or line.step is None or line.step in sinks)
