"""Delivery and commit: a group of batches goes to its sinks, and becomes durable in one commit, in the order that
docs/guarantees.md gives ("One commit, in this order").

One group is committed at a time: those of the source and those of a job take turns, first come, first served (rule 10). While a
commit waits for a disk or a server, further batches are processed and become the next group.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from penstock.clock import Clock
from penstock.engine.commit_contents import Common, commit_of, note_of
from penstock.engine.group import Group
from penstock.engine.journalling import Journalling
from penstock.engine.lanes import LANE, LaneStops, parked_error, stop_at_failures, works_before
from penstock.engine.ledgers import STATE, LedgerState
from penstock.engine.letters import LetterMaker
from penstock.engine.parking import Parking
from penstock.engine.patience import Patience
from penstock.engine.sinks import FlushNeeded, SinkEnd, batch_too_large
from penstock.engine.tally import Failure
from penstock.engine.turn import Turn
from penstock.engine.work import Work
from penstock.errors import BatchError, Fatal
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Commit
from penstock.observe.status import RunStatus
from penstock.state.lane_tables import PARKED
from penstock.state.pipeline_records import Note
from penstock.state.records import DeadLetter
from penstock.state.store import StateStore

P = TypeVar("P")


@dataclass(slots=True)
class Committer:
    """Commits groups, one after the other. Built by a run (or a job) after it has claimed its ledgers.

    :ivar lane: what a failure does to the events behind it, of the source: those of a job pass it.
    :ivar parking: the lanes that are held, where they are parked.
    """

    store: StateStore
    ledgers: Sequence[LedgerState]
    sinks: Sequence[SinkEnd]
    epoch: int
    note: Note
    letters: LetterMaker
    patience: Patience
    lane: str
    status: RunStatus
    clock: Clock
    faults: Faults
    running: Callable[[], float]
    journalling: Journalling | None = None
    parking: Parking | None = None
    _taking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _broken: BaseException | None = None

    async def commit(self, works: list[Work], *, drained: bool = False, turn: Turn | None = None) -> list[dict[int, Failure]]:
        """Deliver the works and make their outcomes durable. Whoever calls meanwhile waits.

        :param turn: of a job: its progress is that behind the works, when this returns.
        :returns: for each work, by origin, why a sink refused an event for good.
        :raises Fatal: the run must stop; nothing of the group counts then but what its ledgers committed, and a claim sorts that
            out; with `lane: stop`, also what came before the event that failed. No further group is committed: each raises
            the same.
        """
        async with self._taking:
            if self._broken is not None:  # what the group before has written is not committed: nobody may commit it along
                raise self._broken
            if turn is not None:
                turn.began = self.clock.monotonic()
            try:
                return await self._commit(works, drained, turn, last=True)
            except BaseException as error:
                self._broken = error
                raise
            finally:
                for sink in self.sinks:
                    sink.forget()

    async def _commit(self, works: list[Work], drained: bool, turn: Turn | None, *, last: bool) -> list[dict[int, Failure]]:
        group = Group.of(works, turn)
        try:
            if self._stops(group):
                stop_at_failures(works)
            await self._ask(self.parking, lambda parking: parking.settle(group))
            self.faults.hit("before_sink_write")
            await self._write_plain_sinks(group)
            self.faults.hit("after_sink_write")
            started = self.clock.monotonic()
            await self._commit_ledgers(group, drained, last)
        except FlushNeeded:
            return await self._commit_halves(works, drained, turn, last)
        except LaneStops as stop:
            await self._commit_before(works, stop)
            raise stop.reason() from stop.failure.error
        self.status.commit_seconds.observe(self.clock.monotonic() - started)
        return [group.refusals(w) for w in range(len(works))]

    def _stops(self, group: Group) -> bool:
        """Whether the first failure ends the run: what a job replays is a dead letter already, in no lane."""
        return self.lane == "stop" and not group.job

    async def _commit_halves(self, works: list[Work], drained: bool, turn: Turn | None, last: bool) -> list[dict[int, Failure]]:
        """A sink cannot take the group before a commit: two smaller ones."""
        if len(works) == 1:
            raise batch_too_large(works[0].batch.partition)
        await self._take_back()
        half = len(works) // 2
        first = await self._commit(works[:half], False, turn, last=False)
        return [*first, *await self._commit(works[half:], drained, turn, last=last)]

    async def _commit_before(self, works: list[Work], stop: LaneStops) -> None:
        """What came before the event at which the lane stops. Ledgers that have taken the group already hold it."""
        await self._take_back()
        before = works_before(works, stop)
        for ledger in self.ledgers:
            if ledger.group > self.note.group:
                for work in before:
                    work.verdicts.held[ledger.name] = range(len(work.batch.events))
        if before:
            await self._commit(before, False, None, last=True)

    async def _take_back(self) -> None:
        await self._ask(self.journalling, Journalling.rollback)
        for sink in self.sinks:
            if sink.ledger == STATE:
                await sink.take_back()

    # Sinks that hold no ledger: written and flushed before the state store's commit covers them.

    async def _write_plain_sinks(self, group: Group) -> None:
        for bit, sink in enumerate(self.sinks):
            if sink.ledger != STATE:
                continue
            events = [(w, event) for w, work in enumerate(group.works) for event in work.for_sink(bit, STATE)]
            lanes = () if self.parking is None else self.parking.lanes(group, events)
            failures, state = await sink.deliver([event for _, event in events], halts=self._stops(group), lanes=lanes)
            for index, error in sorted(failures.items()):
                work, event = events[index]
                step = LANE if error.error.code == PARKED else sink.name
                self._sink_failed(group, work, sink.name, Failure(event.origin, step, error.error, event, error.attempts))
            if failures:
                numbers = [number for work in group.works for number in work.numbers(bit, STATE)]
                group.refused.update((events[i][0], events[i][1].origin, sink.name, numbers[i]) for i in failures)
            if state is not None and state != sink.committed:
                group.sink_states[sink.name] = state

    def _sink_failed(self, group: Group, work: int, sink: str, failure: Failure) -> None:
        if isinstance(failure.error, Fatal):
            raise failure.error
        if self._stops(group):  # Invariant 5: nothing of the lane goes past it
            raise LaneStops(work, failure)
        if self.parking is not None:
            self.parking.failed(group, work, failure)
        group.refuse(work, sink, failure)

    # The commit proper.

    async def _commit_ledgers(self, group: Group, drained: bool, last: bool) -> None:
        number = self.note.group + 1
        await self._ask(self.journalling, lambda journalling: journalling.write(group))  # step 0
        self.faults.hit("after_journal")
        own = [ledger for ledger in self.ledgers if ledger.sink is not None]
        letters = [] if group.job else list(self._letters(group, number).values())
        self._hit(group, "before_commit", "before_job_commit")
        if own:
            await self._put(group, number, letters)  # step 1
            for ledger in own:  # step 2
                await self._commit_to_sink(ledger, group, number)
                self.faults.hit("between_ledgers")
        await self._commit_to_state(group, self._note(group, number, drained, last), [] if own else letters)

    async def _commit_to_state(self, group: Group, note: Note, letters: Sequence[DeadLetter]) -> None:
        """The state store's own ledger, last of step 2, and the note of step 3, in one transaction; with no other ledger, step 1
        as well."""
        state = next((ledger for ledger in self.ledgers if ledger.sink is None), None)
        self._hit(group, "before_note", "before_job_note")
        if state is None:
            await self.patience.until_done(lambda: self.store.note(self.epoch, note))
        else:
            commit = self._commit_for(state, group, note.group)
            write = partial(self.store.commit_group, commit, letters, note)
            await self.patience.until_known(write, partial(self._stands, state, note.group))
            state.took(commit, group.positions)
            for sink in self.sinks:
                sink.settle(commit.sink_states.get(sink.name))
        self._hit(group, "after_note", "after_job_note")
        await self._ask(self.journalling, Journalling.commit)
        await self._stand_at(note, group)

    async def _stand_at(self, note: Note, group: Group) -> None:
        """Everything is durable: what is known of the pipeline is as of this group."""
        self.status.counts = self.status.counts.plus(group.counts)
        self.status.totals = note.counts
        self.status.open_letters += group.new_letters() - len(note.superseded) - len(note.resolved)
        for ledger in self.ledgers:
            ledger.noted()
        if group.turn is not None and note.job is not None:
            group.turn.progress = note.job
            await self._ask(self.parking, lambda parking: parking.released(group))
        self.note = Note(
            group=note.group, counts=note.counts, ledgers=note.ledgers, groups=note.groups, running=note.running, at=note.at
        )

    def _hit(self, group: Group, place: str, of_job: str) -> None:
        self.faults.hit(place)
        if group.job:
            self.faults.hit(of_job)

    async def _commit_to_sink(self, ledger: LedgerState, group: Group, number: int) -> None:
        """Rows and ledger in one transaction. What can never go in becomes a dead letter first, then the others are offered."""
        sink = ledger.sink
        assert sink is not None
        bit = next(b for b, end in enumerate(self.sinks) if end.name == ledger.name)
        while True:
            offered = group.offered(bit, ledger.name)
            commit = self._commit_for(ledger, group, number)
            if not (offered or _must_commit(ledger, group, commit)):
                ledger.unwritten.update(group.positions)
                return  # it owes nothing of this group, which the note says for it (rule 2)
            write = partial(sink.write_and_commit, [event for _, event in offered], commit)
            try:
                await self.patience.until_known(write, partial(self._stands, ledger, number))
            except BatchError as error:
                await self._refused(ledger.name, group, number, offered, error)
                continue
            self.status.sinks[ledger.name] += len(offered)
            ledger.took(commit, group.positions)
            return

    async def _refused(
        self, name: str, group: Group, number: int, offered: Sequence[tuple[int, Event]], error: BatchError
    ) -> None:
        if not error.failed:  # offered again, the same group would be refused again, for ever
            raise Fatal(
                "sink.nothing_named",
                f"sink {name} refused a group and named no event of it",
                help="this is a bug of the component: report it",
            ) from error
        places = set()
        for index, cause in sorted(error.failed.items()):
            work, event = offered[index]
            self._sink_failed(group, work, name, Failure(event.origin, name, cause, event))
            places.add((work, event.origin))
        for index in self.parking.behind(group, offered, error.failed) if self.parking is not None else ():
            work, event = offered[index]
            group.refuse(work, name, Failure(event.origin, LANE, parked_error(), event, attempts=0))
            places.add((work, event.origin))
        await self._ask(self.journalling, lambda journalling: journalling.correct(group, sorted(places)))
        made = {} if group.job else self._letters(group, number)  # a replay's letters are there, and told with the note
        again = [letter for place, letter in made.items() if place in places or letter.status == "parked"]
        await self._put(group, number, again)

    async def _put(self, group: Group, number: int, letters: Sequence[DeadLetter]) -> None:
        """Step 1, and what a ledger's refusal changes in it."""
        repeats, superseded = group.find_repeats(self.letters.pipeline), group.find_superseded()
        fresh = list((Counter(repeats) - Counter(group.repeats)).elements())
        if letters or fresh or superseded != group.superseded:
            await self.patience.until_done(lambda: self.store.put_dead_letters(self.epoch, number, letters, fresh, superseded))
        group.repeats, group.superseded = repeats, superseded

    def _commit_for(self, ledger: LedgerState, group: Group, number: int) -> Commit:
        return commit_of(group, ledger, self.sinks, self._common(group, number))

    def _note(self, group: Group, number: int, drained: bool, last: bool) -> Note:
        again = list(self._letters(group, number).values()) if group.job else []
        common = self._common(group, number)
        return note_of(group, self.ledgers, self.letters.pipeline, again, common, drained=drained, last=last)

    def _common(self, group: Group, number: int) -> Common:
        return Common(self.epoch, number, self.note.counts.plus(group.counts), self.running(), self.clock.now())

    def _letters(self, group: Group, number: int) -> dict[tuple[int, int], DeadLetter]:
        maker = self.letters if group.turn is None else replace(self.letters, version=group.turn.version)
        return group.make_letters(self.ledgers, self.sinks, maker, self.clock.now(), number)

    async def _ask(self, part: P | None, action: Callable[[P], Awaitable[None]]) -> None:
        """Something that the journal, or what parks lanes, is to do, where there is one: a full disk is waited for as the state
        store's is."""
        if part is not None:
            await self.patience.until_done(lambda: action(part))

    async def _stands(self, ledger: LedgerState, number: int) -> bool:
        return await ledger.ledger.committed() == (self.epoch, number)


def _must_commit(ledger: LedgerState, group: Group, commit: Commit) -> bool:
    """Whether a ledger that is offered nothing takes part all the same. Without positions all do: equal groups say that all
    counted the same."""
    positional = group.positions or group.job
    return not positional or bool(commit.keys or commit.jobs) or ledger.catches_up(group.positions)
