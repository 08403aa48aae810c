"""The start of a run, in the order of rule 1: hold the pipeline, issue an epoch, claim every ledger, open the sinks at what was
committed. Only then may the source be opened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from penstock.builtins import room
from penstock.config.model import Pipeline
from penstock.engine.assemble import Assembly
from penstock.engine.deliver import Committer
from penstock.engine.ledgers import STATE, Claims, LedgerState, claim_all
from penstock.engine.letters import LetterMaker
from penstock.engine.retry import persistently
from penstock.engine.sinks import SinkEnd
from penstock.engine.standing import Standing
from penstock.errors import Fenced, Transient
from penstock.ledger import Commit, LedgerSink
from penstock.observe.log import Incident
from penstock.observe.status import RunStatus
from penstock.spi import Concluding, Identifying, Sink, Source
from penstock.state.open import open_store
from penstock.state.records import Version
from penstock.state.store import StateStore

if TYPE_CHECKING:
    from penstock.engine.run import RunOptions


LAST_EPOCH = 1 << 60
Patient = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Does something again until it is done, or `retry` allows no further attempt."""

T = TypeVar("T")


@dataclass(slots=True)
class Claimed:
    """What a run holds once it has claimed: all that delivery needs."""

    epoch: int
    store: StateStore
    ledgers: list[LedgerState]
    standing: Standing
    committer: Committer

    async def finish(self, *, drained: bool) -> None:
        """The run ends by itself: sinks hear of it, and where the source was drained that is noted, so that the time until the
        next run counts for the dedup window (rule 8)."""
        committer = self.committer
        states = await self._conclude()
        if states:
            ledger = next(ledger for ledger in self.ledgers if ledger.sink is None)
            await self._patiently(partial(self.store.commit, _states_alone(self.epoch, ledger, states, committer.running())))
        if drained:
            final = replace(committer.note, running=committer.running(), drained=True, at=committer.clock.now())
            await self._patiently(partial(self.store.note, self.epoch, final))
        committer.status.wait("commit", None)

    async def _conclude(self) -> dict[str, bytes]:
        """What sinks that care say of their end."""
        states: dict[str, bytes] = {}
        for end in self.committer.sinks:
            if end.ledger == STATE and isinstance(end.sink, Concluding):
                said = await self._patiently(end.sink.conclude)
                if said is not None:
                    states[end.name] = said
        return states

    async def _patiently(self, action: Callable[[], Awaitable[T]]) -> T:
        committer = self.committer

        def tell(error: Transient) -> None:
            committer.status.wait("commit", f"{error.code}: {error}")

        return await persistently(action, committer.retry, committer.random, committer.clock, tell)


async def claim_pipeline(
    assembly: Assembly, options: RunOptions, status: RunStatus, stack: AsyncExitStack, *, reads: bool = True
) -> Claimed:
    """Hold, claim, open the sinks; `stack` closes them again, sinks first.

    :param reads: whether the source is read on from here, which a replay does not.
    :raises EnvironmentFault: another run holds the pipeline, or a ledger does not belong to it.
    """
    pipeline, clock = assembly.pipeline, options.clock

    async def patient(action: Callable[[], Awaitable[T]]) -> T:
        return await persistently(action, pipeline.retry, options.random, clock, lambda error: _tell(error, options, status))

    store = await patient(lambda: open_state(pipeline, options, stack))
    await store.hold(wait=options.wait, take_over=options.take_over)
    ledgers = _ledgers(assembly, store)
    for ledger in ledgers:
        if ledger.sink is not None:
            stack.push_async_callback(ledger.sink.close)
            await patient(partial(ledger.sink.open, None))
    identity = await patient(lambda: _identity(assembly.source))
    epoch, standing = await patient(lambda: _claim(assembly, options, store, ledgers, reads, identity))
    await patient(lambda: _end_jobs(store, ledgers))
    status.epoch = epoch
    started = clock.monotonic()
    ends = [_end(assembly, sink, ledgers, status) for sink in assembly.sinks]
    fresh = await _open_plain_sinks(ends, ledgers, stack, patient)
    if fresh:
        await patient(partial(store.commit, _states_alone(epoch, *fresh, standing.note.running)))
    status.wait("start", None)
    status.totals = standing.note.counts
    counts = await store.letter_counts()
    status.open_letters = counts.get("open", 0) + counts.get("parked", 0) + counts.get("replaying", 0)
    committer = Committer(
        store=store,
        ledgers=ledgers,
        sinks=ends,
        epoch=epoch,
        note=standing.note,
        letters=LetterMaker(pipeline.name, pipeline.version, room("fingerprint")),
        retry=pipeline.retry,
        lane=pipeline.dead_letter.lane,
        status=status,
        clock=clock,
        random=options.random,
        faults=options.faults,
        running=lambda: standing.note.running + clock.monotonic() - started,
    )
    return Claimed(epoch, store, ledgers, standing, committer)


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


async def _end_jobs(store: StateStore, ledgers: list[LedgerState]) -> None:
    """A job that has not ended by now died with its command: what it delivered the claim has settled, the rest is open again.
    Its records go last (rule 10), with those of a job that had ended, but died before it took them away."""
    for job in await store.open_jobs():
        await store.finish_job(job.id)
    for ledger in ledgers:
        for name in {record.job for record in ledger.claim.jobs} if ledger.claim else ():
            await ledger.ledger.forget_jobs(name)


async def _identity(source: Source) -> str:
    return await source.identify() if isinstance(source, Identifying) else source.identity


async def open_state(pipeline: Pipeline, options: RunOptions, stack: AsyncExitStack) -> StateStore:
    """The pipeline's state store, open until the stack is left."""
    store = open_store(pipeline.state, pipeline.name, options.clock, options.faults, pipeline.state_server)
    stack.push_async_callback(store.close)
    await store.open()
    return store


def version_of(pipeline: Pipeline, now: float) -> Version:
    """The pipeline as the state store keeps it."""
    return Version(pipeline.version, pipeline.resolved, pipeline.schemas, pipeline.steps_digest, now)


def _tell(error: Transient, options: RunOptions, status: RunStatus) -> None:
    """The run has not begun, so nothing else could say that it waits."""
    if status.waiting is None:
        options.log(Incident("warning", error.code, f"{status.pipeline}: cannot start yet: {error}", error.help))
    status.wait("start", f"{error.code}: {error}")


def _ledgers(assembly: Assembly, store: StateStore) -> list[LedgerState]:
    plain = [name for name, sink in assembly.sinks.items() if not isinstance(sink, LedgerSink)]
    ledgers = [LedgerState(name, sink, [name], sink) for name, sink in assembly.sinks.items() if isinstance(sink, LedgerSink)]
    if plain:
        ledgers.append(LedgerState(STATE, store, plain))
    return ledgers


def _end(assembly: Assembly, name: str, ledgers: list[LedgerState], status: RunStatus) -> SinkEnd:
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


async def _open_plain_sinks(
    ends: list[SinkEnd], ledgers: list[LedgerState], stack: AsyncExitStack, patient: Patient
) -> tuple[LedgerState, dict[str, bytes]] | None:
    """Each at what its last committed flush returned; the states that are new, because a sink is, or because it is in use again,
    which are to be committed before their first write, so that a crash in that write can be undone."""
    state = next((ledger for ledger in ledgers if ledger.sink is None), None)
    if state is None:
        return None
    fresh: dict[str, bytes] = {}
    for end in ends:
        if end.ledger != STATE:
            continue
        sink: Sink = end.sink
        end.committed = state.sink_states.get(end.name)
        stack.push_async_callback(sink.close)
        await patient(partial(sink.open, end.committed))
        found = await patient(sink.flush)
        if found is not None and found != end.committed:
            fresh[end.name] = end.committed = found
    return (state, fresh) if fresh else None


def _states_alone(epoch: int, ledger: LedgerState, states: dict[str, bytes], running: float) -> Commit:
    """What sinks say of themselves outside any group: number, positions and totals stay as they are."""
    return Commit(epoch, ledger.group, ledger.group, {}, ledger.counts, running=running, sink_states=states)
