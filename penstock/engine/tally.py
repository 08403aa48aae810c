"""What a chain of steps did to a batch besides its outputs: which events failed, and how many of them went where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.errors import ComponentError
from penstock.event import Event


@dataclass(slots=True)
class Failure:
    """Why the received event `origin` failed, where, and how the event looked then."""

    origin: int
    step: str
    error: ComponentError
    event: Event
    attempts: int = 1


@dataclass(slots=True)
class Answered:
    """What the world answered for one received event.

    :ivar texts: by step, the answers as the journal keeps them (`penstock.engine.answers`).
    :ivar names: of those that the state store keeps until the event is committed.
    """

    texts: dict[str, list[bytes]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """What a chain did to a batch besides its outputs.

    :ivar answers: of steps with effects, by origin: the received event's, also where a step numbers its events anew.
    :ivar skipped: why a step was left out for an event (`on_error: skip`), by step and origin.
    """

    failures: dict[int, Failure] = field(default_factory=dict)
    steps: Counter[tuple[str, str]] = field(default_factory=Counter)
    derived: int = 0
    skipped: dict[tuple[str, int], ComponentError] = field(default_factory=dict)
    answers: dict[int, Answered] = field(default_factory=dict)

    def fail(self, step: str, event: Event, error: ComponentError, attempts: int = 1) -> None:
        """The first failure of an event is its reason; the event ends here."""
        self.failures.setdefault(event.origin, Failure(event.origin, step, error, event, attempts))
        self.steps[step, "failed"] += 1

    def unanswered(self, step: str, event: Event, error: ComponentError) -> None:
        """Nobody knows what the step would make of the event; it ends here, and is not counted as failed."""
        self.failures.setdefault(event.origin, Failure(event.origin, step, error, event))
        self.steps[step, "unanswered"] += 1

    def skip(self, step: str, event: Event, error: ComponentError) -> None:
        """The event goes on without this step."""
        self.skipped.setdefault((step, event.origin), error)
        self.steps[step, "skipped"] += 1  # Invariant 13: declared by the pipeline, and counted

    def answered(self, origin: int) -> Answered:
        """What the world answered for this event so far."""
        return self.answers.setdefault(origin, Answered())

    def include(self, inner: Tally, origins: Sequence[int]) -> None:
        """What became of events that were numbered anew for a while; `origins` are their own."""
        for place, failure in inner.failures.items():
            failure.origin = failure.event.origin = origins[place]
            self.failures.setdefault(failure.origin, failure)
        for (step, place), error in inner.skipped.items():
            self.skipped.setdefault((step, origins[place]), error)
        self.steps.update(inner.steps)
        self.derived += inner.derived
