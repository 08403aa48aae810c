"""Which events of a batch are new, to which ledgers: rules 2, 5, 6 and 7.

A repetition is settled with its first in read order, before anything divides the batch. What every ledger already holds is
`reread`; what some ledger knows by key is a repetition for that ledger.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from penstock.engine.ledgers import LedgerState
from penstock.engine.prepare import canonical
from penstock.event import Event
from penstock.ledger import Key
from penstock.spi import Batch
from penstock.state.records import OpenLetter, Repeat
from penstock.state.store import StateStore


@dataclass(slots=True)
class Verdicts:
    """What is known of a batch's events before they are processed, by their index in the batch.

    :ivar held: for each ledger, the events that it has taken already (by position, or by a key that they brought themselves) or
        that a dead letter stands for: not offered again.
    :ivar repeated: for each ledger, the events whose key another event brought.
    :ivar recorded: for each ledger, the events of a job whose own key it has already, and that it takes all the same.
    :ivar settled: for each ledger, the events without a position whose outcome its counts have, though it did not take them:
        repetitions, and events that a dead letter stands for.
    :ivar reread: events that every ledger holds, or has settled: no outcome, not received.
    :ivar dropped: events that need no processing: repetitions everywhere, and `reread` ones.
    :ivar repeats: repetitions of open dead letters.
    :ivar superseding: dead letters that the success of an event resolves.
    :ivar twins: repetitions inside the batch, by the index of their first.
    :ivar standing: events read again that have a dead letter of their own since an earlier run; some ledgers still take them,
        their outcome is settled.
    """

    held: dict[str, set[int] | range] = field(default_factory=dict)
    repeated: dict[str, set[int]] = field(default_factory=dict)
    recorded: dict[str, set[int]] = field(default_factory=dict)
    settled: dict[str, set[int]] = field(default_factory=dict)
    reread: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    repeats: list[Repeat] = field(default_factory=list)
    superseding: dict[int, list[str]] = field(default_factory=dict)
    twins: dict[int, list[int]] = field(default_factory=dict)
    standing: dict[int, OpenLetter] = field(default_factory=dict)

    def counted(self, letter: OpenLetter, origin: int) -> bool:
        """Whether this repetition of the letter's event was counted before a crash: with the commit of a ledger that owes the
        letter and holds the repetition by position, or has settled it."""
        return any(origin in self.held.get(ledger, ()) or origin in self.settled.get(ledger, ()) for ledger in letter.owed)

    def counts(self, ledger: str, origin: int, batch: Batch) -> bool:
        """Whether the ledger's counts have the event's outcome. A dead letter without a position stands since step 1, so that
        it alone does not say so."""
        if origin in self.settled.get(ledger, ()):
            return True
        letter = None if batch.events[origin].position else self.standing.get(origin)
        return origin in self.held.get(ledger, ()) and (letter is None or ledger not in letter.owed)

    def redelivers(self, origin: int) -> bool:
        """Whether some ledger takes an event of a job though it has it already."""
        return any(origin in origins for origins in self.recorded.values())

    def skips(self, ledger: str, origin: int) -> bool:
        """Whether the ledger's sinks take no output of this event."""
        return origin in self.held.get(ledger, ()) or origin in self.repeated.get(ledger, ())


def held_by_position(batch: Batch, ledgers: Sequence[LedgerState]) -> dict[str, set[int] | range]:
    """The head of the batch that each ledger holds already; empty but for the first batches after a crash."""
    held: dict[str, set[int] | range] = {}
    for ledger in ledgers:
        stands = ledger.ahead.get(batch.partition)
        if stands is None:
            continue
        count = bisect_right([event.position for event in batch.events], stands)
        if count:
            held[ledger.name] = range(count)
        if batch.end is not None and batch.end.order > stands:
            del ledger.ahead[batch.partition]
    return held


def first_conflict(events: Sequence[Event], keys: Sequence[Key | None]) -> int | None:
    """Index in `events` of the first repetition, inside the batch, that comes with other data than its first: the batch is cut
    there, for whether it is a repetition depends on its first's outcome (rule 7)."""
    if len({key.key for key in keys if key is not None}) == len(keys):
        return None
    first: dict[bytes, Event] = {}
    for index, (event, key) in enumerate(zip(events, keys, strict=True)):
        if key is None:
            continue
        other = first.setdefault(key.key, event)
        if other is not event and canonical(other.data) != canonical(event.data):
            return index
    return None


def data_digest(event: Event) -> bytes:
    """Tells the same data from other data."""
    return blake2b(canonical(event.data), digest_size=16).digest()


async def judge(
    batch: Batch,
    events: Sequence[Event],
    keys: Sequence[Key | None],
    ledgers: Sequence[LedgerState],
    store: StateStore,
    held: dict[str, set[int] | range],
    *,
    standing: Mapping[int, OpenLetter] | None = None,
    letters_too: bool = True,
    again: Collection[int] = (),
) -> Verdicts:
    """Look the keys up in every ledger and among the open dead letters, and decide. Without dedup, `keys` is empty.

    :param standing: of the events that some ledger holds, those with a dead letter of their own.
    :param letters_too: False for a replay, whose events are these very dead letters.
    :param again: of a replay, the events that ledgers are to take although they had them: their own keys do not stand in their
        way.
    """
    verdicts = Verdicts(held=held, standing=dict(standing or {}))
    if not keys:
        _conclude(batch, [ledger.name for ledger in ledgers], verdicts)
        return verdicts
    fresh = _settle_twins(events, keys, verdicts)
    wanted = [key.key for _, key in fresh]
    known = {ledger.name: await ledger.seen(wanted) for ledger in ledgers}
    letters: dict[bytes, list[OpenLetter]] = {}
    if letters_too and await store.has_open_letters():
        for letter in await store.open_letters(wanted):
            letters.setdefault(letter.key, []).append(letter)
    if letters_too:  # of a replay's events the first outcome was counted long ago: what counts is who has taken them since
        await _find_settled(events, keys, known, letters, ledgers, verdicts)
    if any(known.values()) or letters:
        for event, key in fresh:
            _judge_one(event, key, known, letters.get(key.key, ()), batch, verdicts, event.origin in again)
    _conclude(batch, [ledger.name for ledger in ledgers], verdicts)
    return verdicts


def _settle_twins(events: Sequence[Event], keys: Sequence[Key | None], verdicts: Verdicts) -> list[tuple[Event, Key]]:
    """The events whose key comes first in the batch; the others are told to the verdicts."""
    keyed = [(event, key) for event, key in zip(events, keys, strict=True) if key is not None]
    if len({key.key for _, key in keyed}) == len(keyed):
        return keyed
    first: dict[bytes, tuple[Event, Key]] = {}
    came: set[Key] = set()
    for event, key in keyed:
        other, _ = first.setdefault(key.key, (event, key))
        if other is not event:
            verdicts.dropped.add(event.origin)
            if key in came:  # the same event, given twice by a source without positions (rule 5)
                verdicts.reread.add(event.origin)
            else:
                verdicts.twins.setdefault(other.origin, []).append(event.origin)
        came.add(key)
    return list(first.values())


def settlement(key: Key) -> Key:
    """What a ledger records of an event without a position that it counts and does not take, so that it is counted once though
    the source may give it again. It keeps the key's first half, which may order the keys."""
    return Key(key.key[:8] + blake2b(key.key + key.brought_by, digest_size=8).digest(), key.brought_by)


async def _find_settled(
    events: Sequence[Event],
    keys: Sequence[Key | None],
    known: Mapping[str, Mapping[bytes, bytes]],
    letters: Mapping[bytes, Sequence[OpenLetter]],
    ledgers: Sequence[LedgerState],
    verdicts: Verdicts,
) -> None:
    """Repetitions and dead events without a position that a ledger has counted before."""
    if not events or events[0].position:
        return
    taken = set(letters).union(*known.values())
    twins = {origin for several in verdicts.twins.values() for origin in several}
    suspects = {
        settlement(key).key: event.origin
        for event, key in zip(events, keys, strict=True)
        if key is not None and (key.key in taken or event.origin in twins)
    }
    if not suspects:
        return
    for ledger in ledgers:
        found = await ledger.seen(list(suspects))
        if found:
            verdicts.settled[ledger.name] = {suspects[key] for key in found}


def _judge_one(
    event: Event,
    key: Key,
    known: Mapping[str, Mapping[bytes, bytes]],
    letters: Sequence[OpenLetter],
    batch: Batch,
    verdicts: Verdicts,
    again: bool,
) -> None:
    for ledger, seen in known.items():
        by = seen.get(key.key)
        if by is None:
            continue
        if by == key.brought_by and again:
            verdicts.recorded.setdefault(ledger, set()).add(event.origin)
        elif by == key.brought_by:  # an event read again is never its own repetition (rule 5)
            _add_held(verdicts, ledger, event.origin)
        else:
            verdicts.repeated.setdefault(ledger, set()).add(event.origin)
    if letters:
        _judge_letters(event, key, letters, batch, verdicts)


def _judge_letters(event: Event, key: Key, letters: Sequence[OpenLetter], batch: Batch, verdicts: Verdicts) -> None:
    """Its own dead letter comes first, then one with the same data; what all the letters of its key differ from gets through."""
    own = next((letter for letter in letters if letter.brought_by == key.brought_by), None)
    if own is not None:
        verdicts.standing[event.origin] = own
        for ledger in own.owed:
            _add_held(verdicts, ledger, event.origin)
        return
    digest = data_digest(event)
    same = next((letter for letter in letters if letter.data_digest == digest), None)
    if same is None:
        verdicts.superseding[event.origin] = [letter.id for letter in letters]
        return
    for ledger in same.owed:
        verdicts.repeated.setdefault(ledger, set()).add(event.origin)
    origins = (event.origin, *verdicts.twins.get(event.origin, ()))
    verdicts.repeats.extend(
        Repeat(same.id, batch.partition, batch.events[origin].position)
        for origin in origins
        if not verdicts.counted(same, origin)
    )


def _add_held(verdicts: Verdicts, ledger: str, origin: int) -> None:
    held = verdicts.held.get(ledger, ())
    if isinstance(held, set):
        held.add(origin)
    elif origin not in held:
        verdicts.held[ledger] = {*held, origin}


def _conclude(batch: Batch, ledgers: Sequence[str], verdicts: Verdicts) -> None:
    if not verdicts.held and not verdicts.repeated and not verdicts.settled:
        return
    for origin in range(len(batch.events)):
        if all(verdicts.counts(ledger, origin, batch) for ledger in ledgers):
            verdicts.reread.add(origin)
            verdicts.dropped.add(origin)
        elif all(origin in verdicts.repeated.get(ledger, ()) for ledger in ledgers) or (
            origin in verdicts.standing and all(verdicts.skips(ledger, origin) for ledger in ledgers)
        ):  # what one ledger took and the others know from another event is processed once more, for its outcome
            verdicts.dropped.add(origin)
