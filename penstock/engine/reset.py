"""Move a pipeline's checkpoint by hand: in every ledger, under an epoch of its own, so that no live run can be surprised."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AsyncExitStack

from penstock.config.model import Pipeline
from penstock.engine.assemble import Surroundings, assemble
from penstock.engine.claim import claim_pipeline
from penstock.engine.run import RunOptions
from penstock.observe.status import RunStatus
from penstock.spi import Commit, Position
from penstock.state.records import Note

BEGINNING = Position(b"")


async def reset_checkpoint(pipeline: Pipeline, options: RunOptions, partitions: Collection[str] | None) -> list[str]:
    """Forget the checkpoint of some partitions, or of all (None), in every ledger: the next run reads them from their beginning.

    What a ledger knows by dedup key is still not delivered again; what has no key is.

    :returns: the partitions that stood somewhere and now stand at their beginning.
    :raises EnvironmentFault: `state.held`, where a run of the pipeline is alive.
    """
    async with AsyncExitStack() as stack:
        assembly = assemble(pipeline, Surroundings(options.clock, options.random, options.faults))
        claimed = await claim_pipeline(assembly, options, RunStatus(pipeline.name, pipeline.version), stack)
        known = set(claimed.standing.positions).union(*(ledger.positions for ledger in claimed.ledgers))
        chosen = sorted(known if partitions is None else known.intersection(partitions))
        moved = dict.fromkeys(chosen, BEGINNING)
        note, number = claimed.standing.note, claimed.standing.note.group + 1
        for ledger in claimed.ledgers:
            commit = Commit(claimed.epoch, ledger.group, number, moved, note.counts, running=note.running)
            await ledger.ledger.commit(commit)
        await claimed.store.note(
            claimed.epoch,
            Note(number, moved, note.counts, note.ledgers, note.running, drained=False, at=options.clock.now()),
        )
        return chosen


async def adopt(pipeline: Pipeline, options: RunOptions) -> int:
    """Take over ledgers that belong to another state store or source (`pipe checkpoint adopt`); nothing is read or delivered.

    :param options: with `adopt` set.
    :returns: the epoch under which they were adopted.
    """
    async with AsyncExitStack() as stack:
        assembly = assemble(pipeline, Surroundings(options.clock, options.random, options.faults))
        claimed = await claim_pipeline(assembly, options, RunStatus(pipeline.name, pipeline.version), stack)
        await claimed.finish(drained=claimed.standing.drained)
        return claimed.epoch
