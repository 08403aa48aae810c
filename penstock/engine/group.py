"""A group: the batches of one commit, and what is known of their delivery. Pure bookkeeping; `deliver` does what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock.engine.ledgers import STATE, LedgerState
from penstock.engine.letters import LetterMaker, letter_id
from penstock.engine.outcomes import count_outcomes
from penstock.engine.sinks import SinkEnd
from penstock.engine.tally import Failure
from penstock.engine.turn import Turn
from penstock.engine.work import Work
from penstock.event import Event
from penstock.ledger import Counts
from penstock.spi import Position
from penstock.state.job_records import JobProgress
from penstock.state.lane_tables import PARKED
from penstock.state.records import DeadLetter, Delivered, Lane, Repeat

_ROOM = 1 << 32
"""Events of a group, at most: numbers of arrival rise from group to group."""


@dataclass(slots=True)
class Group:
    """The batches of one commit.

    :ivar turn: of a job whose works these are; None for those of the source.
    :ivar failed: by work (its index) and origin: for each sink that failed, why.
    :ivar refused: the outputs that sinks without a ledger did not take, as (work, origin, sink, number of the output).
    :ivar repeats, superseded: what step 1 told the state store of older dead letters.
    :ivar sink_states: what the sinks without a ledger returned from their flush.
    :ivar positions: where the partitions stand after the group.
    :ivar journal: how far the journal reaches with the group's lines; empty where none is kept.
    """

    works: list[Work]
    turn: Turn | None = None
    failed: dict[tuple[int, int], dict[str, Failure]] = field(default_factory=dict)
    refused: set[tuple[int, int, str, int]] = field(default_factory=set)
    repeats: list[Repeat] = field(default_factory=list)
    superseded: list[Repeat] = field(default_factory=list)
    sink_states: dict[str, bytes] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)
    journal: str = ""
    _counts: Counts | None = field(default=None, init=False)

    @classmethod
    def of(cls, works: list[Work], turn: Turn | None = None) -> Group:
        """In read order: a partition's last batch says where it stands. A job's moves none."""
        if turn is not None:
            return cls(works, turn)
        return cls(works, positions={work.batch.partition: work.batch.end for work in works if work.batch.end is not None})

    @property
    def job(self) -> str:
        """The job whose group this is, which moves no position and no count; empty for the source's."""
        return "" if self.turn is None else self.turn.job

    def lane(self, w: int, origin: int) -> Lane | None:
        """The lane of an event of a work; None: it has none, or nobody parks."""
        work = self.works[w]
        key = work.lanes.get(origin)
        return None if key is None else Lane(work.batch.partition, key)

    def refused_origins(self, w: int) -> set[int]:
        """The events of a work that some sink refused for good."""
        return {origin for place, origin in self.failed if place == w}

    def refusals(self, w: int) -> dict[int, Failure]:
        """The same, each with the reason."""
        return {origin: reason_of(failed) for origin, failed in self._failed_of(w)}

    def refused_by(self, ledger: LedgerState, w: int) -> set[int]:
        """The events of a work that a sink of this ledger refused for good: the ledger owes them."""
        return {origin for (place, origin), sinks in self.failed.items() if place == w and _concerns(ledger, sinks)}

    def refuse(self, work: int, sink: str, failure: Failure) -> None:
        """A sink refused an event of a work for good."""
        self.failed.setdefault((work, failure.origin), {}).setdefault(sink, failure)
        self._counts = None

    def offered(self, bit: int, name: str) -> list[tuple[int, Event]]:
        """What goes to a sink with a ledger of its own, each with its work (its index): without what it refused for good."""
        return [
            (w, event)
            for w, work in enumerate(self.works)
            for event in work.for_sink(bit, name)
            if name not in self.failed.get((w, event.origin), ())
        ]

    @property
    def counts(self) -> Counts:
        """The outcomes as they are known now; a job's are counted apart."""
        if self._counts is None:
            self._counts = Counts() if self.job else self.outcomes()
        return self._counts

    def outcomes(self) -> Counts:
        """What became of the works' events, as far as it is known now. A dead letter that every ledger has taken meanwhile is a
        repetition of what they took."""
        counts = Counts()
        for w, work in enumerate(self.works):
            counts = counts.plus(count_outcomes(work, self.refused_origins(w)))
            if work.letters:
                known = len(work.verdicts.reread)
                counts = counts.plus(Counts(received=known, deduplicated=known))
        return counts

    def progress(self, *, last: bool) -> JobProgress | None:
        """How far the job is behind the group; None for the source's.

        :param last: as `Turn.advanced` has it.
        """
        return None if self.turn is None else self.turn.advanced(self.outcomes(), last=last)

    def make_letters(
        self, ledgers: Sequence[LedgerState], sinks: Sequence[SinkEnd], maker: LetterMaker, now: float, number: int
    ) -> dict[tuple[int, int], DeadLetter]:
        """One dead letter for each event that failed, in a step (owed by every ledger that has not passed it) or in sinks; in the
        order in which they were read.

        :param number: of the group.
        """
        letters, first = {}, number * _ROOM
        for w, work in enumerate(self.works):
            for origin, failure in work.failures.items():
                owed = [ledger.name for ledger in ledgers if not work.verdicts.skips(ledger.name, origin)]
                letters[w, origin] = maker.make(work, failure, owed, (), now, first + origin)
            for origin, failed in self._failed_of(w):
                owed = [ledger.name for ledger in ledgers if _concerns(ledger, failed)]
                delivered = self._delivered(w, origin, sinks)
                letters[w, origin] = maker.make(work, reason_of(failed), owed, delivered, now, first + origin)
            first += len(work.batch.events)
        return dict(sorted(letters.items()))

    def _failed_of(self, w: int) -> list[tuple[int, dict[str, Failure]]]:
        return [(origin, failed) for (place, origin), failed in self.failed.items() if place == w]

    def _delivered(self, w: int, origin: int, sinks: Sequence[SinkEnd]) -> list[Delivered]:
        """Outputs of an event that sinks outside a ledger took, though it failed in one of them (rule 9)."""
        if not any(sink.ledger == STATE and sink.name in self.failed[w, origin] for sink in sinks):
            return []
        work, taken = self.works[w], []
        for bit, sink in enumerate(sinks):
            if sink.ledger == STATE:
                outputs = zip(work.for_sink(bit, STATE), work.numbers(bit, STATE), strict=True)
                numbers = [number for event, number in outputs if event.origin == origin]
                taken += [Delivered(sink.name, n) for n in numbers if (w, origin, sink.name, n) not in self.refused]
        return taken

    def find_repeats(self, pipeline: str) -> list[Repeat]:
        """Repetitions of open dead letters, and of events whose dead letter this very group makes."""
        repeats = []
        for w, work in enumerate(self.works):
            repeats.extend(work.verdicts.repeats)
            for first, twins in work.verdicts.twins.items():
                standing = work.verdicts.standing.get(first)
                if standing or first in work.failures or (w, first) in self.failed:
                    letter = letter_id(pipeline, work.batch.events[first])
                    fresh = [twin for twin in twins if not (standing and work.verdicts.counted(standing, twin))]
                    repeats.extend(Repeat(letter, work.batch.partition, work.batch.events[twin].position) for twin in fresh)
        return repeats

    def answers(self, *, parked: bool) -> list[str]:
        """Names of the answers that the state store keeps for the group's events: of those that are parked, or of all others."""
        return [
            name
            for w, work in enumerate(self.works)
            for origin, answered in work.answers.items()
            if answered.names and self._is_parked(w, origin) is parked
            for name in answered.names
        ]

    def _is_parked(self, w: int, origin: int) -> bool:
        failures = [self.works[w].failures.get(origin), *self.failed.get((w, origin), {}).values()]
        return any(failure is not None and failure.error.code == PARKED for failure in failures)

    def find_superseded(self) -> list[Repeat]:
        """The older dead letters whose key got through with other data, each with the event that brought it."""
        found: list[Repeat] = []
        for w, work in enumerate(self.works):
            for origin, letters in work.verdicts.superseding.items():
                if origin not in work.failures and (w, origin) not in self.failed:
                    position = work.batch.events[origin].position
                    found.extend(Repeat(letter, work.batch.partition, position) for letter in letters)
        return found

    def new_letters(self) -> int:
        """How many of the group's dead letters are the first of their event; a replay makes none."""
        if self.job:
            return 0
        return sum(
            len((work.failures.keys() | self.refused_origins(w)) - work.verdicts.standing.keys())
            for w, work in enumerate(self.works)
        )


def reason_of(failed: Mapping[str, Failure]) -> Failure:
    """Why an event failed in sinks. One that is parked is so whatever other sinks said of it."""
    parked = (failure for failure in failed.values() if failure.error.code == PARKED)
    return next(parked, None) or next(iter(failed.values()))


def _concerns(ledger: LedgerState, sinks: Mapping[str, Failure]) -> bool:
    return any(name == ledger.name or name in ledger.sinks for name in sinks)
