"""What the state store keeps of what people ask of a pipeline: signals, pauses. Stored formats are versioned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SignalOutcome = Literal["accepted", "refused"]


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """Something that was asked of a pipeline.

    :ivar id: rises, and is never used again.
    :ivar made_by: `user@host`.
    :ivar taken_at: when a run began with it, the last one that did; None before.
    :ivar outcome: None while it waits.
    :ivar why: why it was refused, or what there is to say of it.
    """

    id: int
    kind: str
    arguments: tuple[str, ...]
    made_at: float
    made_by: str
    taken_at: float | None = None
    decided_at: float | None = None
    outcome: SignalOutcome | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """A pipeline reads nothing.

    :ivar by: `user@host`, or what else asked for it.
    """

    since: float
    by: str
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Inbox:
    """What a run follows: whether its pipeline is paused, and the signals without an outcome, oldest first."""

    pause: Pause | None
    waiting: Sequence[SignalRecord]
