"""Delivery and commit: a group of batches goes to its sinks, and becomes durable in one commit, in the order that
docs/guarantees.md gives ("One commit, in this order").

One group is committed at a time: those of the source and those of a job take turns, first come, first served (rule 10). While a
commit waits for a disk or a server, further batches are processed and become the next group.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from penstock.clock import Clock
from penstock.config.model import Retry
from penstock.engine.group import Group
from penstock.engine.journalling import Journalling
from penstock.engine.lanes import LANE, LaneStops, parked_error, stop_at_failures, works_before
from penstock.engine.ledgers import STATE, LedgerState, groups_of, names_of
from penstock.engine.letters import LetterMaker
from penstock.engine.outcomes import finished_keys, settled_keys
from penstock.engine.parking import Parking
from penstock.engine.retry import Waits, gave_up
from penstock.engine.sinks import FlushNeeded, SinkEnd
from penstock.engine.tally import Failure
from penstock.engine.turn import Turn
from penstock.engine.work import Work
from penstock.errors import BatchError, Fatal, Transient
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Commit, JobRecord, Key
from penstock.observe.status import RunStatus
from penstock.state.lane_tables import PARKED
from penstock.state.pipeline_records import Note
from penstock.state.records import DeadLetter
from penstock.state.store import StateStore


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
    retry: Retry
    lane: str
    status: RunStatus
    clock: Clock
    random: random.Random
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
            await self._park(lambda parking: parking.settle(group))
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
            raise Fatal(
                "sink.batch_too_large",
                "one batch makes more output than a sink may hold before a commit",
                where=f"partition {works[0].batch.partition}",
                help="lower batching.count or batching.bytes",
            )
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
        await self._journal(Journalling.rollback)
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
        await self._journal(lambda journalling: journalling.write(group))  # step 0
        self.faults.hit("after_journal")
        own = [ledger for ledger in self.ledgers if ledger.sink is not None]
        letters = [] if group.job else list(self._letters(group, number).values())
        self.faults.hit("before_commit")
        if group.job:
            self.faults.hit("before_job_commit")
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
        self.faults.hit("before_note")
        if group.job:
            self.faults.hit("before_job_note")
        if state is None:
            await self._patiently(lambda: self.store.note(self.epoch, note))
        else:
            commit = self._commit_for(state, group, note.group)
            await self._surely(state, note.group, lambda: self.store.commit_group(commit, letters, note))
            state.took(commit, group.positions)
            for sink in self.sinks:
                sink.settle(commit.sink_states.get(sink.name))
        self.faults.hit("after_note")
        if group.job:
            self.faults.hit("after_job_note")
        await self._journal(Journalling.commit)
        self.status.counts = self.status.counts.plus(group.counts)
        self.status.totals = note.counts
        self.status.open_letters += group.new_letters() - len(note.superseded) - len(note.resolved)
        for ledger in self.ledgers:
            ledger.noted()
        if group.turn is not None and note.job is not None:
            group.turn.progress = note.job
            await self._park(lambda parking: parking.released(group))
        self.note = Note(
            group=note.group, counts=note.counts, ledgers=note.ledgers, groups=note.groups, running=note.running, at=note.at
        )

    async def _commit_to_sink(self, ledger: LedgerState, group: Group, number: int) -> None:
        """Rows and ledger in one transaction. What can never go in becomes a dead letter first, then the others are offered."""
        sink = ledger.sink
        assert sink is not None
        bit = next(b for b, end in enumerate(self.sinks) if end.name == ledger.name)
        while True:
            offered = [
                (w, event)
                for w, work in enumerate(group.works)
                for event in work.for_sink(bit, ledger.name)
                if ledger.name not in group.failed.get((w, event.origin), ())
            ]
            commit = self._commit_for(ledger, group, number)
            positional = (
                group.positions or group.job
            )  # without positions all take part: equal groups say that all counted the same
            if positional and not (offered or commit.keys or commit.jobs or ledger.catches_up(group.positions)):
                ledger.unwritten.update(group.positions)
                return  # it owes nothing of this group, which the note says for it (rule 2)
            events = [event for _, event in offered]
            try:
                await self._surely(ledger, number, lambda e=events, c=commit: sink.write_and_commit(e, c))  # type: ignore[misc]
            except BatchError as error:
                await self._refused(ledger.name, group, number, offered, error)
                continue
            self.status.sinks[ledger.name] += len(events)
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
        await self._journal(lambda journalling: journalling.correct(group, sorted(places)))
        made = {} if group.job else self._letters(group, number)  # a replay's letters are there, and told with the note
        again = [letter for place, letter in made.items() if place in places or letter.status == "parked"]
        await self._put(group, number, again)

    async def _put(self, group: Group, number: int, letters: Sequence[DeadLetter]) -> None:
        """Step 1, and what a ledger's refusal changes in it."""
        repeats, superseded = group.find_repeats(self.letters.pipeline), group.find_superseded()
        fresh = list((Counter(repeats) - Counter(group.repeats)).elements())
        if letters or fresh or superseded != group.superseded:
            await self._patiently(lambda: self.store.put_dead_letters(self.epoch, number, letters, fresh, superseded))
        group.repeats, group.superseded = repeats, superseded

    def _recorded(self, ledger: LedgerState, work: Work, failed: set[int]) -> Iterator[str]:
        """The names under which a ledger records the events of a job: all that it did not refuse are behind it, where they are
        dead letters; of past events those alone that it takes something of, for another job may be for what it did not get."""
        taken: Collection[int] = work.names
        if not work.letters:
            bits = [bit for bit, end in enumerate(self.sinks) if end.ledger == ledger.name]
            taken = {event.origin for bit in bits for event in work.for_sink(bit, ledger.name)}
        for origin, name in work.names.items():
            if origin in taken and origin not in failed and origin not in work.failures:
                yield name

    def _commit_for(self, ledger: LedgerState, group: Group, number: int) -> Commit:
        keys: list[Key] = []
        settled: list[Key] = []
        jobs: list[JobRecord] = []
        for w, work in enumerate(group.works):
            failed = group.refused_by(ledger, w)
            keys.extend(finished_keys(work, ledger.name, failed))  # Invariant 4: with the delivery, never before it
            settled.extend(settled_keys(work, ledger.name, failed))
            jobs.extend(JobRecord(group.job, name) for name in self._recorded(ledger, work, failed))
        positions = ledger.forward(group.positions)  # Invariant 2: of this group, with its outcomes, and never backwards
        return Commit(
            epoch=self.epoch,
            previous=ledger.group,
            group=number,
            positions=positions,
            counts=ledger.counted(positions, self.note.counts.plus(group.counts)),
            keys=keys,
            settled=settled,
            running=self.running(),
            sink_states=group.sink_states if ledger.sink is None else {},
            jobs=jobs,
            journal=group.journal,
            forgotten=ledger.noted_records,
        )

    def _note(self, group: Group, number: int, drained: bool, last: bool) -> Note:
        again = list(self._letters(group, number).values()) if group.job else []
        unresolved = {letter.id for letter in again}
        return Note(
            group=number,
            positions=group.positions,
            counts=self.note.counts.plus(group.counts),
            ledgers=names_of(self.ledgers),
            groups=groups_of(self.ledgers),
            running=self.running(),
            drained=drained,
            at=self.clock.now(),
            journal=group.journal,
            repeats=[] if group.repeats else group.find_repeats(self.letters.pipeline),  # told once, in step 1 or here
            superseded=[repeat.letter for repeat in group.find_superseded()],
            resolved=[letter for work in group.works for letter in work.letters.values() if letter not in unresolved],
            failed_again=again,
            job=group.progress(last=last),
            answered=group.answers(parked=False),
            set_aside=group.answers(parked=True),
        )

    async def _park(self, action: Callable[[Parking], Awaitable[None]]) -> None:
        """Something about held lanes, where they are parked."""
        parking = self.parking
        if parking is not None:
            await self._patiently(lambda: action(parking))

    def _letters(self, group: Group, number: int) -> dict[tuple[int, int], DeadLetter]:
        maker = self.letters if group.turn is None else replace(self.letters, version=group.turn.version)
        return group.make_letters(self.ledgers, self.sinks, maker, self.clock.now(), number)

    async def _journal(self, action: Callable[[Journalling], Awaitable[None]]) -> None:
        """Something in the journal, where one is kept: retried until it is done, as a full disk is for the state store."""
        journalling = self.journalling
        if journalling is not None:
            await self._patiently(lambda: action(journalling))

    # Waiting.

    async def _patiently(self, action: Callable[[], Awaitable[None]]) -> None:
        """A step in the state store: retried until it is done, for nothing can go on without it."""
        await self._retried(action, None)

    async def _surely(self, ledger: LedgerState, number: int, action: Callable[[], Awaitable[None]]) -> None:
        """A commit: an unknown outcome is resolved by reading the ledger (Invariant 7)."""

        async def stands() -> bool:
            return await ledger.ledger.committed() == (self.epoch, number)

        await self._retried(action, stands)

    async def _retried(self, action: Callable[[], Awaitable[None]], done: Callable[[], Awaitable[bool]] | None) -> None:
        waits = Waits(self.retry, self.random, self.clock)
        attempted = False
        while True:
            try:
                if not (attempted and done is not None and await done()):
                    attempted = True
                    await action()
                self.status.wait("commit", None)
                return
            except Transient as error:
                delay = waits.after(error)
                if delay is None:
                    raise gave_up(error) from error
                self.status.wait("commit", f"{error.code}: {error}")
                self.status.retries["commit"] += 1
            await self.clock.sleep(delay)
