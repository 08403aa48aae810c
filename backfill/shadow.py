"""A shadow: what the steps make now, compared with what the run made of the same events then.

What was recorded settles most of it: equal check values are equal outputs. Where they differ, or none were kept, the version that
handled the event computes its outputs again; these must agree with what was recorded. Where they do not, and the outputs were not
kept whole, nobody knows what was made: the event is counted under `Result.unlike`, with the reason. An event of a native range
that the journal does not tell of is compared with what the last version makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from backfill.comparison import Comparison, Made, Output
from backfill.request import Result
from penstock.cloudevents import to_structured
from penstock.engine.agreement import agreement, check_values
from penstock.engine.recompute import Recompute, Recomputed, Routed
from penstock.engine.recompute import Result as EventResult
from penstock.errors import Permanent
from penstock.event import Event
from penstock.journal.lines import Line

UNLIKE = "what its version makes today is not what was recorded"
UNLIKE_NATIVE = "what its version makes of what the source has now is not what was recorded"


class Versions(Protocol):
    """The versions that handled the events."""

    def named(self, digits: str) -> Recompute | str:
        """The version that a line names, or why it cannot be run."""
        ...


@dataclass(slots=True)
class Shadow:
    """Adds to a result how batches compare.

    :ivar native: events are as the source has them now, which may differ from what was received.
    """

    result: Result
    comparison: Comparison
    versions: Versions
    native: bool = False

    async def add(self, lines: Sequence[Line], made: Recomputed) -> None:
        """One batch: lines of one moment and one version, and what the steps make of them now."""
        now = made.by_origin()
        left = []
        for origin, line in enumerate(lines):
            if made.outcome(origin) == "unanswered":  # counted, and compared with nothing
                continue
            if _is_same(line, now[origin], made, origin):
                self.comparison.identical(_outcome(made, origin, now[origin]), len(now[origin]))
            else:
                left.append(origin)
        if left:
            await self._add_others([lines[origin] for origin in left], [_made(made, origin, now[origin]) for origin in left])

    async def _add_others(self, lines: Sequence[Line], after: Sequence[Made]) -> None:
        """Those whose check values do not settle it."""
        version = self.versions.named(lines[0].version)
        if isinstance(version, str):
            self._count_unlike(version, len(lines))
            return
        then = await version.run(lines)
        outputs, results = then.by_origin(), then.results()
        for origin, line in enumerate(lines):
            before: Made | None = _made(then, origin, outputs[origin])
            if then.outcome(origin) == "unanswered" or _differs(line, then, origin, results[origin]):
                before = _recorded(line, then.sinks)
            if before is None:
                self._count_unlike("; ".join(version.doubts.values()) or (UNLIKE_NATIVE if self.native else UNLIKE), 1)
            else:
                self.comparison.add(then.received[origin].id, before, after[origin])

    def _count_unlike(self, why: str, count: int) -> None:
        self.result.unlike[why] = self.result.unlike.get(why, 0) + count


def _differs(line: Line, then: Recomputed, origin: int, result: EventResult) -> bool:
    """Whether what its version makes of an event is not what was recorded, where that is known."""
    return line.outcome != "unknown" and agreement(line, then, origin, result).verdict == "different"


def _is_same(line: Line, outputs: Sequence[Routed], made: Recomputed, origin: int) -> bool:
    """Whether the check values say so."""
    if line.outputs is None or origin in made.tally.failures or _failed_in_steps(line, made.sinks):
        return False
    return check_values(outputs, made.filled[origin]) == line.outputs


def _failed_in_steps(line: Line, sinks: Sequence[str]) -> bool:
    """Whether it failed before its outputs went to a sink: what a sink refused was made all the same."""
    return line.outcome == "dead_lettered" and line.step not in sinks


def _recorded(line: Line, sinks: Sequence[str]) -> Made | None:
    """What was made, from the line alone: where whole outputs were kept and offered to sinks."""
    if not line.outputs or _failed_in_steps(line, sinks) or not all(isinstance(output, dict) for output in line.outputs):
        return None
    masks = line.routes if line.routes is not None else [-1] * len(line.outputs)
    outputs = [
        {**output, "sinks": _names(mask, sinks)}
        for output, mask in zip(line.outputs, masks, strict=True)
        if isinstance(output, dict) and mask
    ]
    return Made("delivered" if outputs else "filtered", outputs)


def _outcome(made: Recomputed, origin: int, outputs: Sequence[Routed]) -> str:
    return made.outcome(origin) or ("delivered" if any(mask for _, mask in outputs) else "filtered")


def _made(made: Recomputed, origin: int, outputs: Sequence[Routed]) -> Made:
    failure = made.tally.failures.get(origin)
    if failure is not None:
        return Made(_outcome(made, origin, outputs), (), f"{failure.step}: {failure.error.code}")
    return Made(_outcome(made, origin, outputs), [_structured(event, mask, made.sinks) for event, mask in outputs if mask])


def _structured(event: Event, mask: int, sinks: Sequence[str]) -> Output:
    try:
        said: dict[str, Any] = msgspec.json.decode(to_structured(event))
    except Permanent as error:
        said = {"id": event.id, "data": f"({error.code})"}
    return {**said, "sinks": _names(mask, sinks)}


def _names(mask: int, sinks: Sequence[str]) -> dict[str, bool]:
    """As members, so that each sink is a place of its own."""
    return {sink: True for bit, sink in enumerate(sinks) if mask >> bit & 1}
