"""What becomes of a live backfill that does not go on: what ledgers took of it last is said in the journal."""

from __future__ import annotations

import asyncio

from backfill.live import LiveCarrier, carry_backfill, done_until
from penstock.clock import moment_of
from penstock.engine.carrying import Ground, Portion
from penstock.engine.owed import Had, event_name
from penstock.engine.work import Work
from penstock.journal.lines import Line
from penstock.spi import Batch
from penstock.state.job_records import Job


async def settle_backfill(job: Job, ground: Ground) -> Portion | None:
    """What ledgers took of a backfill's portion that was never noted, for the journal to say so: no sink gets any of it again.
    None: nothing.

    :raises PenstockError: as `carry_backfill`.
    """
    unsettled = {
        ledger.name: names
        for ledger in ground.claimed.ledgers
        if ledger.claim is not None and (names := {record.event for record in ledger.claim.jobs if record.job == job.id})
    }
    if not unsettled or ground.pipeline.journal is None:
        return None
    carrier = carry_backfill(job, ground)
    lines = await asyncio.to_thread(_lines_of, carrier, set().union(*unsettled.values()))
    had, works = Had(list(ground.assembly.sinks)), list[Work]()
    clock = ground.assembly.surroundings.clock
    for name, line in lines.items():
        mask = sum(had.mask(ledger.sinks) for ledger in ground.claimed.ledgers if name in unsettled.get(ledger.name, ()))
        event = line.received()
        work = Work(Batch(line.partition, [event]), clock.monotonic(), moment_of(clock), [event])
        work.outputs, work.routes, work.due, work.names = [event], [mask], {0: mask}, {0: name}
        work.verdicts.held = {ledger.name: {0} for ledger in ground.claimed.ledgers}
        works.append(work)
    return Portion(works, job.progress.cursor, 0, carrier.request.version)


def _lines_of(carrier: LiveCarrier, names: set[str]) -> dict[str, Line]:
    """The lines of these events, by name, behind the cursor. Blocking."""
    request, found = carrier.request, dict[str, Line]()
    for record in carrier.reader.range(request.start, request.end, after=done_until(carrier.job)):
        name = event_name(record.line)
        if name in names:
            found[name] = record.line
        if len(found) == len(names):
            break
    return found
