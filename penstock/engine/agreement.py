"""Whether a recomputed event became what the journal says it became, and where the two part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from penstock.cloudevents import to_structured
from penstock.engine.lanes import LANE
from penstock.engine.prepare import canonical
from penstock.engine.recompute import Recomputed, Result, Routed
from penstock.errors import Permanent
from penstock.event import Event, decode
from penstock.journal.lines import Line, check_value

TRANSFORMS = "transforms"
"""Step of an event whose output has no JSON form, as a worker found."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a comparison found.

    :ivar verdict: `beyond`: what was recorded is no matter of the steps (a repetition, a sink that refused, a held lane).
    :ivar why: what differs, or why it was not compared; None where there is nothing to say.
    """

    verdict: Literal["same", "different", "beyond"]
    why: str | None = None


def agreement(line: Line, made: Recomputed, origin: int, result: Result) -> Agreement:
    """Compare what was recorded of an event with what was recomputed.

    :param made: the computation, `origin` the line's place in it, `result` its result.
    """
    if line.outcome == "deduplicated":
        return Agreement("beyond", "it was a repetition, which a ledger knows, not the steps")
    if line.step == LANE:
        return Agreement("beyond", "it was parked behind another one of its lane")
    if line.outcome == "dead_lettered" and result.outcome == "delivered" and _is_behind_the_steps(line, made):
        return Agreement("beyond", f"{line.step or 'a sink'} refused it, behind the steps")
    if result.outcome == "unanswered":
        return Agreement("beyond", f"what {result.step} was answered then is not known, and the world is not asked again")
    if line.outcome != result.outcome or (result.failure is not None and line.step != result.step):
        recorded, now = told(line.outcome, line.step), told(result.outcome, result.step)
        return Agreement("different", f"it was {recorded}; now it is {now}")
    return _outputs(line, made, origin)


def check_values(outputs: Sequence[Routed], filled: Event) -> list[str | None]:
    """Of an event's outputs, as a line has them (`check_value`); None of one that has no JSON form.

    :param filled: the event as it went into the steps.
    """
    return [_check_value(event, filled, mask) for event, mask in outputs]


def _check_value(event: Event, filled: Event, mask: int) -> str | None:
    try:
        return check_value(event, filled, mask)[1:-1].decode()
    except Permanent:
        return None


def told(outcome: str, step: str | None) -> str:
    """An outcome in words: `dead-lettered at total`."""
    word = {"dead_lettered": "dead-lettered", "stopped": "what a run would stop at,"}.get(outcome, outcome)
    return f"{word} at {step}" if step is not None else word


def _is_behind_the_steps(line: Line, made: Recomputed) -> bool:
    return line.step is None or line.step in made.sinks or line.step == TRANSFORMS


def _outputs(line: Line, made: Recomputed, origin: int) -> Agreement:
    if line.outcome == "dead_lettered":
        return Agreement("same")
    if line.outputs is None:
        return Agreement("same", "its outputs, which the journal does not keep, are not compared")
    now = [(event, mask) for event, mask in zip(made.outputs, made.masks(), strict=True) if event.origin == origin]
    if len(now) != len(line.outputs):
        return Agreement("different", f"it had {len(line.outputs)} outputs; now it has {len(now)}")
    taken = line.routes if line.routes is not None else [-1] * len(now)
    for number, (kept, sinks, (event, mask)) in enumerate(zip(line.outputs, taken, now, strict=True)):
        same_sinks = isinstance(kept, str) or _all(sinks, made) == _all(mask, made)  # a check value is of the sinks too
        if not (same_sinks and _is_kept(kept, event, made.filled[origin], mask)):
            which = f"output {number + 1} of {len(now)}" if len(now) > 1 else "its output"
            return Agreement("different", f"{which}, or where it goes, is another than was recorded")
    return Agreement("same")


def _all(mask: int, made: Recomputed) -> int:
    """The sinks of a bit mask, those that there are."""
    return mask & ((1 << len(made.sinks)) - 1)


def _is_kept(kept: object, event: Event, filled: Event, mask: int) -> bool:
    """Whether an output is the one that was kept: by its check value, or itself."""
    if isinstance(kept, str):
        return _check_value(event, filled, mask) == kept
    try:
        return kept is not None and canonical(kept) == canonical(decode(to_structured(event)))
    except Permanent:  # it has no JSON form, now as then
        return kept is None
