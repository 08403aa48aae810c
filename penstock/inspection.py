"""The contract of sinks that can look whether what was delivered is there: what `pipe verify` asks of them.

A sink that keeps what it is given, and can be read, implements `Verifying` beside `penstock.spi.Sink`. An inspection changes
nothing, takes no lock that a run would wait for, and may go on beside a run that writes to the same place.

    async with sink.inspection() as inspection:
        await inspection.expect(tokens, events)      # any number of times, in order of delivery
        if await inspection.absent() and inspection.removes:
            await inspection.later(events)           # any number of times, in order of delivery
        count, absences = await inspection.absences(20)

It says that something is absent, never that there is too much: whoever else writes to the place may have put it there. Where it
is in doubt, it takes an event for present.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from penstock.event import Event


@dataclass(frozen=True, slots=True)
class Absence:
    """An event whose effect the sink does not show.

    :ivar token: as it was given to `Inspection.expect`.
    :ivar why: one line, such as `no row has its key`: no secrets (Invariant 9), and no values of the event.
    """

    token: int
    why: str


class Inspection(Protocol):
    """One look at a sink, for the events of one range: one call at a time, `expect`…, `absent`, `later`…, `absences`.

    Memory is bounded by the number of events, not by their size: 24 bytes for each is what sinks of this package hold at most
    (Invariant 8).

    Every method raises what the sink's own `open` and `write` raise where it cannot be asked or is not what the configuration
    says: `Transient`, `EnvironmentFault`. After an error the inspection is over.

    :ivar removes: what is delivered later can remove or replace what was delivered before, as the sink is configured. Where it
        cannot, `later` is of no use.
    """

    @property
    def removes(self) -> bool: ...

    async def expect(self, tokens: Sequence[int], events: Sequence[Event]) -> None:
        """These were delivered, in this order, behind those of earlier calls: one that came later may have replaced or removed
        what came before.

        :param tokens: one for each event; they rise, within a call and from call to call. Nothing is absent twice.
        :param events: as they were given to the sink.
        """
        ...

    async def absent(self) -> int:
        """How many of the expected seem to be absent, as far as is known now.

        Its first call ends the expecting, and may read all that the sink holds. Each takes time for every one that is absent, so
        between calls of `later` it is asked now and then.
        """
        ...

    async def later(self, events: Sequence[Event]) -> None:
        """These were delivered, too, in this order, and none of them is looked for: they may have replaced or removed what was
        expected.

        They are those behind the range up to now, for the sink shows what they left. Of what was delivered out of order (replays,
        lanes that were parked) nobody need know the place: it is given here, whether it is expected as well or not. An event too
        many hides an absence at worst, and never makes one.
        """
        ...

    async def absences(self, most: int) -> tuple[int, list[Absence]]:
        """How many are absent, and the first `most` of them, by their tokens."""
        ...


@runtime_checkable
class Verifying(Protocol):
    """A sink that can look whether what it was given is there: feeds `pipe verify`. Asked in place of `open`."""

    def inspection(self) -> AbstractAsyncContextManager[Inspection]:
        """Opened where it is entered, and closed where it is left; nothing is changed anywhere.

        :raises Transient: when it is entered: the server is not there.
        :raises EnvironmentFault: when it is entered: the sink is not what the configuration says, or it may not be read.
        """
        ...
