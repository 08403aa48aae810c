"""From dead letters back to the events that the source gave."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from penstock.cloudevents import from_structured
from penstock.engine.lanes import followers
from penstock.engine.letters import DECODE
from penstock.engine.tally import Tally
from penstock.errors import ComponentError, Oversized, Permanent
from penstock.event import Event, decode
from penstock.ledger import Key
from penstock.spi import Batch
from penstock.state.records import DeadLetter, Lane

Received = tuple[Event, ComponentError | None]
"""An event, and why the source could not give it."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Letters of one partition, with their events as far as dedup.

    :ivar at: the moment that programs see.
    """

    letters: Sequence[DeadLetter]
    batch: Batch
    events: list[Event]
    keys: Sequence[Key | None]
    tally: Tally
    at: float

    @property
    def keys_given(self) -> set[bytes]:
        """The dedup keys of those that have one."""
        return {key.key for key in self.keys if key is not None}

    def repeating(self, taken: Collection[bytes]) -> set[int]:
        """Origins whose key is taken, or comes earlier in this portion."""
        known, found = set(taken), set()
        for event, key in zip(self.events, self.keys, strict=False):
            if key is not None and key.key in known:
                found.add(event.origin)
            elif key is not None:
                known.add(key.key)
        return found


def with_followers(letters: Sequence[DeadLetter], waiting: set[int]) -> set[int]:
    """Letters that wait, and with them those behind them in their lanes (Invariant 5)."""
    lanes = [None if letter.lane is None else Lane(letter.partition, letter.lane) for letter in letters]
    return waiting | set(followers(lanes, waiting))


def received_event(letter: DeadLetter) -> Event:
    """The event as the source emitted it, or as a person mended it: the start of the pipeline."""
    event = from_structured(letter.effective)
    event.position = letter.position
    event.original = letter.original if letter.edited is None else None  # an edited event is no longer what these bytes say
    if letter.source_record is not None:
        event.record = decode(letter.source_record)
    if event.raw is None and letter.step == DECODE and letter.edited is None:
        event.raw = letter.original or b""
        event.original = None
    return event


def keys_of_letters(letters: Sequence[DeadLetter], events: Sequence[Event], keys: Sequence[Key | None]) -> Sequence[Key | None]:
    """The keys of events, where those of edited ones are what they were: an edit makes no other change of them (rule 5)."""
    if all(letter.edited is None for letter in letters):
        return keys
    return [_own_key(letters[event.origin], key) for event, key in zip(events, keys, strict=False)]


def _own_key(letter: DeadLetter, key: Key | None) -> Key | None:
    return key if letter.edited is None or letter.key is None else Key(letter.key, letter.brought_by)


def still_failing(letter: DeadLetter, error: ComponentError) -> Permanent:
    """Why it fails again before it is an event. That only the head of a record is kept must not be forgotten."""
    where, why, help = error.where, error.why, error.help
    if not letter.reread:
        return Permanent(error.code, error.message, where=where, why=why, help=help)
    length, digest = letter.original_length, letter.original_digest
    return Oversized(error.code, error.message, length=length, digest=digest, where=where, why=why, help=help)
