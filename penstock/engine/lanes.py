"""What a failure does to the events behind it.

`dead_letter.lane: stop`: what came before the event that failed is delivered and committed, then the run ends. `park`: the
events of its lane wait (`parking`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Final

from penstock.engine.dedup import Verdicts
from penstock.engine.tally import Failure
from penstock.engine.work import Work
from penstock.errors import Fatal, Permanent
from penstock.state.lane_tables import PARKED
from penstock.state.records import Lane

LANE = "lane"
"""Step of what was parked."""

NO_KEY: Final = Lane("", "\0")
"""Of events without a key: nothing may pass one that fails."""

_LONGEST = 200


def lane_key(key: str) -> str:
    """How a partition key names its lane: itself, unless it is too long for an index, or no text for a database."""
    if len(key) <= _LONGEST and "\0" not in key:
        return key
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{key[:40].replace(chr(0), ' ')}… {digest}"


def parked_error() -> Permanent:
    """Why an event that did not fail is a dead letter."""
    return Permanent(
        PARKED,
        "an event before it in its lane failed",
        help="it goes on by itself once the head of its lane is delivered or discarded",
    )


def followers(lanes: Sequence[Lane | None], failed: Collection[int]) -> list[int]:
    """What comes behind a failed one of its lane, and has not failed itself, by index."""
    held, found = set(), []
    for index, lane in enumerate(lanes):
        if index in failed:
            held.add(lane)
        elif lane is not None and lane in held:
            found.append(index)
    return found


class LaneStops(Exception):  # a verdict about a group: everything before the event is still to be committed
    """The event that nothing may pass: `failure.origin` in the group's work number `work`."""

    def __init__(self, work: int, failure: Failure) -> None:
        super().__init__(failure.error.message)
        self.work, self.failure = work, failure

    def reason(self) -> Fatal:
        """Why the run ends."""
        failure, error = self.failure, self.failure.error
        return Fatal(
            error.code,
            error.message,
            where=f"step {failure.step}, event {failure.event.source} {failure.event.id}",
            why=error.why or "dead_letter.lane is `stop`",
            help=error.help or "mend the cause and run again: nothing from this event on was acknowledged",
        )


def stop_at_failures(works: Sequence[Work]) -> None:
    """:raises LaneStops: at the first event, in read order, that failed in a step."""
    for w, work in enumerate(works):
        if work.failures:
            raise LaneStops(w, work.failures[min(work.failures)])


def works_before(works: Sequence[Work], stop: LaneStops) -> list[Work]:
    """What was read before the event, as far as a checkpoint can lie right before it."""
    head = head_of(works[stop.work], stop.failure.origin)
    return [*works[: stop.work], *([head] if head is not None else [])]


def head_of(work: Work, count: int) -> Work | None:
    """The first `count` events of a batch, with what became of them. None where the batch cannot be cut there."""
    batch, verdicts = work.batch, work.verdicts
    if count == 0 or (batch.end is not None and batch.cut is None):  # a checkpoint can only lie around all of it
        return None
    if work.derived or (batch.end is None and verdicts.repeats):  # nobody knows how many of these come from the head
        return None
    head, _ = batch.divide(count)
    kept = [n for n, event in enumerate(work.outputs) if event.origin < count]
    return replace(
        work,
        batch=head,
        events=[event for event in work.events if event.origin < count],
        keys={origin: key for origin, key in work.keys.items() if origin < count},
        verdicts=_verdicts_of(verdicts, count, head.events[-1].position),
        outputs=[work.outputs[n] for n in kept],
        routes=None if work.routes is None else [work.routes[n] for n in kept],
        failures={origin: failure for origin, failure in work.failures.items() if origin < count},
        answers={origin: answered for origin, answered in work.answers.items() if origin < count},
        whole=0,
    )


def _verdicts_of(verdicts: Verdicts, count: int, last: bytes) -> Verdicts:
    """Of the first `count` events, of which the last is at `last`."""
    return Verdicts(
        held={ledger: {n for n in held if n < count} for ledger, held in verdicts.held.items()},
        repeated={ledger: {n for n in repeated if n < count} for ledger, repeated in verdicts.repeated.items()},
        reread={n for n in verdicts.reread if n < count},
        dropped={n for n in verdicts.dropped if n < count},
        repeats=[repeat for repeat in verdicts.repeats if repeat.position <= last],
        superseding={n: letters for n, letters in verdicts.superseding.items() if n < count},
        twins={n: [twin for twin in twins if twin < count] for n, twins in verdicts.twins.items() if n < count},
        standing={n: letter for n, letter in verdicts.standing.items() if n < count},
    )
