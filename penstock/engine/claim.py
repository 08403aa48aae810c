"""The start of a run, in the order of rule 1: hold the pipeline, issue an epoch, claim every ledger, open the sinks at what was
committed. Only then may the source be opened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from penstock.builtins import room
from penstock.config.model import Pipeline
from penstock.engine.assemble import Assembly
from penstock.engine.claimed import Claimed, states_alone
from penstock.engine.deliver import Committer
from penstock.engine.journalling import Journalling
from penstock.engine.ledgers import STATE, Claims, LedgerState, claim_all
from penstock.engine.letters import LetterMaker
from penstock.engine.overwriting import refuse_overwriting_retries
from penstock.engine.parking import claim_lanes
from penstock.engine.patience import Patience
from penstock.engine.promotion import refuse_unpromoted
from penstock.engine.retry import persistently
from penstock.engine.sinks import SinkEnd
from penstock.engine.standing import Standing
from penstock.errors import EnvironmentFault, Fenced, Transient, Unavailable
from penstock.journal.journal import Journal
from penstock.journal.lines import VERSION_DIGITS
from penstock.journal.segments import roll_for
from penstock.ledger import LedgerSink
from penstock.observe.log import Incident
from penstock.observe.status import RunStatus
from penstock.spi import Identifying, Sink, Source
from penstock.state.open import open_store
from penstock.state.pipeline_records import Version
from penstock.state.records import count_unsettled
from penstock.state.store import StateStore

if TYPE_CHECKING:
    from penstock.engine.run import RunOptions


LAST_EPOCH = 1 << 60
AGAIN = 0.5
"""Seconds until a stand-by looks again whether the run of an older program has ended."""

T = TypeVar("T")


async def claim_pipeline(
    assembly: Assembly, options: RunOptions, status: RunStatus, stack: AsyncExitStack, *, reads: bool = True
) -> Claimed:
    """Hold, claim, open the sinks; `stack` closes them again, sinks first. What is unavailable is waited for, as `retry` says.

    :param reads: whether the source is read on from here, which a replay does not.
    :raises EnvironmentFault: another run holds the pipeline, or a ledger does not belong to it.
    """
    refuse_overwriting_retries(assembly.pipeline.dead_letter, assembly.sinks)
    start = _Start(assembly, options, status, stack)
    store = await start.open_state()
    await start.hold(store)
    await start.admit(store)
    ledgers = await start.open_ledgers(store)
    identity = await start.patiently(lambda: _identity(assembly.source))
    epoch, standing = await start.patiently(lambda: _claim(assembly, options, store, ledgers, reads, identity))
    status.epoch = epoch
    await start.patiently(lambda: _recover_jobs(store, ledgers, epoch))
    parking = await start.patiently(lambda: claim_lanes(assembly.pipeline, store, epoch, options.log))
    committer = start.make_committer(store, ledgers, epoch, standing)
    committer.parking = parking
    committer.journalling = await start.open_journal(committer)
    await start.open_plain_sinks(committer)
    await start.report(committer)
    return Claimed(epoch, store, ledgers, standing, committer)


@dataclass(frozen=True, slots=True)
class _Start:
    """What the steps of one start share. `stack` closes what they open."""

    assembly: Assembly
    options: RunOptions
    status: RunStatus
    stack: AsyncExitStack

    async def patiently(self, action: Callable[[], Awaitable[T]]) -> T:
        """The action's result, tried again as `retry` allows."""
        retry, options = self.assembly.pipeline.retry, self.options
        return await persistently(action, retry, options.random, options.clock, self._tell)

    def _tell(self, error: Transient) -> None:
        """The run has not begun, so nothing else could say that it waits."""
        if self.status.waiting is None:
            said = f"{self.status.pipeline}: cannot start yet: {error}"
            self.options.log(Incident("warning", error.code, said, error.help))
        self.status.wait("start", f"{error.code}: {error}")

    async def open_state(self) -> StateStore:
        """The pipeline's state store. An older version is not migrated under its live run: a stand-by waits for its end."""
        while True:
            try:
                return await self.patiently(self._open_state)
            except EnvironmentFault as fault:
                if fault.code != "state.held" or not self.options.wait:
                    raise
                await self.options.clock.sleep(AGAIN)

    async def _open_state(self) -> StateStore:
        pipeline, options = self.assembly.pipeline, self.options
        store = open_store(pipeline.state, pipeline.name, options.clock, options.faults, pipeline.state_server)
        try:
            await store.open()
        except BaseException:
            await store.close()
            raise
        self.stack.push_async_callback(store.close)
        return store

    async def hold(self, store: StateStore) -> None:
        """Become the one run. A stand-by outlasts any outage of the server that it watches the leader through."""
        options = self.options

        async def attempt() -> None:
            try:
                await store.read_note()  # it answers: from here on it is the other run that is waited for
                self.status.wait("start", None)
                await store.hold(wait=options.wait, take_over=options.take_over)
            except Transient as error:
                if options.wait:
                    raise Unavailable(error.code, error.message, why=error.why, help=error.help) from error
                raise

        await self.patiently(attempt)

    async def admit(self, store: StateStore) -> None:
        """:raises UsageError: `version.not_promoted`, where the pipeline's policy asks for it."""
        pipeline = self.assembly.pipeline
        await self.patiently(lambda: refuse_unpromoted(pipeline, pipeline, store))

    async def open_ledgers(self, store: StateStore) -> list[LedgerState]:
        """The sinks that hold their own are opened; the state store's ledger is that of all others."""
        ledgers = ledgers_of(self.assembly, store)
        for ledger in ledgers:
            if ledger.sink is not None:
                self.stack.push_async_callback(ledger.sink.close)
                await self.patiently(partial(ledger.sink.open, None))
        return ledgers

    def make_committer(self, store: StateStore, ledgers: list[LedgerState], epoch: int, standing: Standing) -> Committer:
        """What delivers from now on; the pipeline's running time goes on from what was noted."""
        pipeline, options = self.assembly.pipeline, self.options
        clock, started = options.clock, options.clock.monotonic()
        return Committer(
            store=store,
            ledgers=ledgers,
            sinks=[_end(self.assembly, sink, self.status) for sink in self.assembly.sinks],
            epoch=epoch,
            note=standing.note,
            letters=LetterMaker(pipeline.name, pipeline.version, room("fingerprint"), pipeline.dead_letter.retry),
            patience=Patience(pipeline.retry, options.random, clock, self.status),
            lane=pipeline.dead_letter.lane,
            status=self.status,
            clock=clock,
            faults=options.faults,
            running=lambda: standing.note.running + clock.monotonic() - started,
        )

    async def open_journal(self, committer: Committer) -> Journalling | None:
        """The journal, cut to where the run goes on: what lies behind belongs to no commit. Where one begins is noted before
        anything is written to it, so that a crash in the first group can be undone, too."""
        pipeline, options = self.assembly.pipeline, self.options
        declared = pipeline.journal
        if declared is None:
            return None
        journal = Journal(declared.directory, options.faults, roll_for(declared.max_size))
        self.stack.push_async_callback(journal.close)
        note = committer.note
        said = await self.patiently(lambda: journal.open(note.journal))
        if said is not None:  # Invariant 13: what came in before is not in it
            self.options.log(Incident("warning", "journal.other", f"{pipeline.name}: {said}"))
        if journal.place() != note.journal:
            note = committer.note = replace(note, journal=journal.place())
            await self.patiently(lambda: committer.store.note(committer.epoch, note))
        return Journalling(journal, pipeline.name, pipeline.version[:VERSION_DIGITS], declared.outputs, list(self.assembly.sinks))

    async def open_plain_sinks(self, committer: Committer) -> None:
        """Each at what its last committed flush returned. A state that is new, because its sink is, or because it is in use
        again, is committed before the first write, so that a crash in that write can be undone."""
        state = next((ledger for ledger in committer.ledgers if ledger.sink is None), None)
        if state is None:
            return
        fresh: dict[str, bytes] = {}
        for end in committer.sinks:
            if end.ledger == STATE and (found := await self._open_plain(end, state)) is not None:
                fresh[end.name] = found
        if fresh:
            commit = states_alone(committer.epoch, state, fresh, committer.note.running)
            await self.patiently(partial(committer.store.commit, commit))

    async def _open_plain(self, end: SinkEnd, state: LedgerState) -> bytes | None:
        """What it says of itself, where that is not what was committed."""
        sink: Sink = end.sink
        end.committed = state.sink_states.get(end.name)
        self.stack.push_async_callback(sink.close)
        await self.patiently(partial(sink.open, end.committed))
        found = await self.patiently(sink.flush)
        if found is None or found == end.committed:
            return None
        end.committed = found
        return found

    async def report(self, committer: Committer) -> None:
        """The status tells what the pipeline came to so far."""
        counts = await self.patiently(committer.store.letter_counts)
        status = self.status
        status.open_letters = count_unsettled(counts)
        status.totals = committer.note.counts
        status.wait("start", None)


async def _claim(
    assembly: Assembly, options: RunOptions, store: StateStore, ledgers: list[LedgerState], reads: bool, identity: str
) -> tuple[int, Standing]:
    keys, dedup = assembly.keys, assembly.dedup
    version = version_of(assembly.pipeline, options.clock.now())
    epoch = 0
    while True:
        epoch = await store.issue_epoch(version, above=2 * epoch)
        claims = Claims(
            pipeline=assembly.pipeline.name,
            epoch=epoch,
            source=identity,
            key_space=keys.space if keys else "",
            window=dedup.window if dedup else 0.0,
            adopt=options.adopt,
            positions=assembly.source.has_positions,
            reads=reads,
        )
        try:
            return epoch, await claim_all(store, ledgers, claims, options.clock, options.log)
        except Fenced:  # only where ledgers are adopted, which another state store may have taken far beyond this one's epochs
            if not options.adopt or epoch > LAST_EPOCH:
                raise


async def _recover_jobs(store: StateStore, ledgers: list[LedgerState], epoch: int) -> None:
    """What a run that died was at waits again; what it delivered the claim has settled. The records of jobs that have ended go:
    their last run died before it took them away (rule 10)."""
    going_on = {job.id for job in await store.jobs.recover(epoch)}
    for ledger in ledgers:
        for name in {record.job for record in ledger.claim.jobs} - going_on if ledger.claim else ():
            await ledger.ledger.forget_jobs(name)


async def _identity(source: Source) -> str:
    return await source.identify() if isinstance(source, Identifying) else source.identity


def version_of(pipeline: Pipeline, now: float) -> Version:
    """The pipeline as the state store keeps it."""
    return Version(pipeline.version, pipeline.resolved, pipeline.schemas, pipeline.steps_digest, now)


def ledgers_of(assembly: Assembly, store: StateStore) -> list[LedgerState]:
    """The ledgers of a pipeline, unclaimed: that of each sink that holds one, then the state store's for all others."""
    plain = [name for name, sink in assembly.sinks.items() if not isinstance(sink, LedgerSink)]
    ledgers = [LedgerState(name, sink, [name], sink) for name, sink in assembly.sinks.items() if isinstance(sink, LedgerSink)]
    if plain:
        ledgers.append(LedgerState(STATE, store, plain))
    return ledgers


def _end(assembly: Assembly, name: str, status: RunStatus) -> SinkEnd:
    surroundings, pipeline = assembly.surroundings, assembly.pipeline
    sink = assembly.sinks[name]
    return SinkEnd(
        name=name,
        sink=sink,  # type: ignore[arg-type]  # one with a ledger of its own is never written through its end
        ledger=name if isinstance(sink, LedgerSink) else STATE,
        retry=pipeline.retry,
        chunk=pipeline.batching.count,
        clock=surroundings.clock,
        random=surroundings.random,
        faults=surroundings.faults,
        status=status,
    )
