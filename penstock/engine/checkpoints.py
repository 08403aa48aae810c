"""Moving a checkpoint by hand: as a run would, so under the pipeline's hold and a new epoch, in every ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from penstock.config.model import Pipeline
from penstock.engine.assemble import Assembly, Surroundings, assemble
from penstock.engine.claim import claim_pipeline
from penstock.engine.claimed import Claimed
from penstock.engine.run import RunOptions
from penstock.ledger import Commit, Counts
from penstock.observe.status import RunStatus
from penstock.spi import Position, Restartable, Source


async def reset_positions(pipeline: Pipeline, partitions: Sequence[str], options: RunOptions) -> None:
    """Set partitions back to their beginning: the source's own (`Restartable`), or none.

    Ledgers go first and the note last: a claim takes the later of the two, so dying in between changes nothing.

    :raises EnvironmentFault: `state.held`, where a run is alive; or what a claim raises.
    """
    async with AsyncExitStack() as stack:
        assembly, claimed = await _claim(pipeline, options, stack)
        beginnings = _beginnings(assembly.source, claimed.standing.positions, partitions)
        for state in claimed.ledgers:
            if state.sink is not None:
                counts = state.claim.counts if state.claim is not None else Counts()
                running = claimed.standing.note.running
                await state.ledger.commit(Commit(claimed.epoch, state.group, state.group, beginnings, counts, running=running))
        await claimed.store.reset(claimed.epoch, beginnings)


async def adopt_ledgers(pipeline: Pipeline, options: RunOptions) -> int:
    """Claim every ledger whatever state store or source it belonged to.

    :return: the epoch under which they were claimed.
    :raises EnvironmentFault: `state.held`, where a run is alive.
    """
    async with AsyncExitStack() as stack:
        _, claimed = await _claim(pipeline, replace(options, adopt=True), stack)
        return claimed.epoch


async def _claim(pipeline: Pipeline, options: RunOptions, stack: AsyncExitStack) -> tuple[Assembly, Claimed]:
    assembly = assemble(pipeline, Surroundings(options.clock, options.random, options.faults))
    stack.push_async_callback(assembly.source.close)
    return assembly, await claim_pipeline(assembly, options, RunStatus(pipeline.name, pipeline.version), stack)


def _beginnings(source: Source, positions: Mapping[str, Position], partitions: Sequence[str]) -> dict[str, Position]:
    if not isinstance(source, Restartable):
        return {partition: Position(b"") for partition in partitions}
    return {name: source.restart(name, positions[name]) if name in positions else Position(b"") for name in partitions}
