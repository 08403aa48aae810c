"""Which outcome each received event ended in (rule 4), and which keys a ledger may record of it (rule 6)."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.engine.dedup import settlement
from penstock.engine.work import Work
from penstock.journal.lines import Outcome
from penstock.ledger import Counts, Key


def count_outcomes(work: Work, sink_failed: set[int]) -> Counts:
    """Over all sinks: dead-lettered if one failed, else delivered if any took it, else deduplicated if any knew it, or filtered.

    :param sink_failed: origins that a sink refused for good.
    """
    verdicts = work.verdicts
    received = len(work.batch.events) - len(verdicts.reread)
    dead = set(work.failures) | sink_failed
    if verdicts.standing:  # dead since before a crash, for a ledger that holds it: whatever the others make of it now
        dead |= verdicts.standing.keys() - verdicts.reread
    taken = _taken(work)
    delivered = len(taken - dead) if dead else len(taken)
    dead_count = len(dead)
    if verdicts.dropped or verdicts.repeated:
        repeated = set().union(*verdicts.repeated.values()) if verdicts.repeated else set()
        known = (verdicts.dropped | repeated) - verdicts.reread - taken - dead
        deduplicated = len(known)
    else:
        deduplicated = 0
    filtered = received - delivered - dead_count - deduplicated  # Invariant 3: what is left, so that the sum holds
    return Counts(received, delivered, filtered, deduplicated, dead_count, work.derived)


def unusual_outcomes(work: Work, sink_failed: set[int]) -> dict[int, Outcome]:
    """The outcome of every event that was not delivered, by origin, as `count_outcomes` counts them; without those that every
    ledger held already.

    :param sink_failed: origins that a sink refused for good.
    """
    verdicts = work.verdicts
    found: dict[int, Outcome] = {}
    taken = _taken(work)
    if len(taken) < len(work.batch.events):
        repeated = set().union(verdicts.dropped, *verdicts.repeated.values())
        for origin in range(len(work.batch.events)):
            if origin not in taken:
                found[origin] = "deduplicated" if origin in repeated else "filtered"
    for origin in (*work.failures, *sink_failed, *verdicts.standing):
        found[origin] = "dead_lettered"
    for origin in verdicts.reread:
        found.pop(origin, None)
    return found


def _taken(work: Work) -> set[int]:
    """Origins of which some sink takes (or took, before a crash) an output: routed to a sink whose ledger does not know it as a
    repetition. What a ledger holds already was taken by it."""
    repeated = work.verdicts.repeated
    if not repeated:
        if work.routes is None:
            return {event.origin for event in work.outputs}
        return {event.origin for event, route in zip(work.outputs, work.routes, strict=True) if route}
    taken = set()
    for index, event in enumerate(work.outputs):
        route = -1 if work.routes is None else work.routes[index]
        for bit, ledger in enumerate(work.sink_ledgers):
            if route >> bit & 1 and event.origin not in repeated.get(ledger, ()):
                taken.add(event.origin)
    return taken


def finished_keys(work: Work, ledger: str, failed: set[int]) -> Iterator[Key]:
    """Keys of the events that end in this ledger with this commit: delivered or filtered, not failed, not known before."""
    if not work.keys:
        return
    verdicts = work.verdicts
    known = (*verdicts.held.get(ledger, ()), *verdicts.repeated.get(ledger, ()), *verdicts.recorded.get(ledger, ()))
    ended = {*work.failures, *failed, *verdicts.dropped, *known}
    if not ended:
        yield from work.keys.values()
        return
    for origin, key in work.keys.items():
        if origin not in ended:
            yield key


def settled_keys(work: Work, ledger: str, failed: set[int]) -> Iterator[Key]:
    """Of the events without a position that this commit counts and this ledger does not take: repetitions, and those that
    failed. When the source gives one of them again, nothing else tells that it was counted."""
    verdicts = work.verdicts
    for origin in {*work.failures, *failed, *verdicts.dropped, *verdicts.repeated.get(ledger, ())} & work.keys.keys():
        if not (work.letters or work.batch.events[origin].position or verdicts.counts(ledger, origin, work.batch)):
            yield settlement(work.keys[origin])
