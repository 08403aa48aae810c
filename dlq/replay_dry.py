"""What a replay would do: the letters are processed, and nothing is touched, not even a sink, whether a run is alive or not.

What a sink with a ledger of its own knows already is not asked, for that would open it: a repetition of it counts as delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlq.debts import Debts, debts_of, deliverable
from dlq.replay_carrier import ReplayOptions, bounded
from dlq.reprocess import Reprocess
from penstock.engine.assemble import Assembly
from penstock.engine.claim import ledgers_of
from penstock.engine.effects import Withholding, unanswered_by_step
from penstock.engine.outcomes import count_outcomes
from penstock.engine.turn import Turn
from penstock.ledger import Counts
from penstock.observe.status import RunStatus
from penstock.state.job_records import JobProgress
from penstock.state.lane_queries import LanePlace
from penstock.state.store import StateStore

ALL_KEYS = b"\xff" * 16
UNANSWERED = "unanswered"
"""Counted beside the outcomes: nobody knows what would become of these letters, for a step with effects is not performed."""


async def try_replay(
    store: StateStore, assembly: Assembly, options: ReplayOptions, progress: JobProgress, told: Callable[[JobProgress], None]
) -> JobProgress:
    """Process what the options select.

    :param progress: at the beginning, with the total; `told` hears of it after each portion.
    :return: the progress at the end.
    :raises UsageError: as `debts_of` and `Reprocess.open`.
    """
    ledgers = ledgers_of(assembly, store)
    for ledger in ledgers:
        if ledger.sink is None:
            ledger.keys_high = ALL_KEYS
    debts = debts_of(ledgers, options.renamed)
    pipeline = assembly.pipeline
    status = RunStatus(pipeline.name, pipeline.version)
    reprocess = Reprocess(assembly, store, ledgers, status, options.version, answering=Withholding(reads=True))
    try:
        await reprocess.open()
        after: LanePlace | None = None
        while page := await store.lane_places(options.query, options.upto, after, pipeline.batching.count):
            for places in bounded(page, pipeline.batching.bytes):
                progress = await _try(store, reprocess, debts, options, places, progress)
                told(progress)
            after = page[-1]
        return progress
    finally:
        await reprocess.close()


async def _try(
    store: StateStore,
    reprocess: Reprocess,
    debts: Debts,
    options: ReplayOptions,
    places: Sequence[LanePlace],
    before: JobProgress,
) -> JobProgress:
    letters = await store.letters_at(places, options.query)
    left, others = deliverable(letters, debts)
    outcomes, open_questions = Counts(), 0
    while left:
        portions, left = await reprocess.divide(left)
        for portion in portions:
            work = await reprocess.process(portion)
            known = len(work.verdicts.reread)
            outcomes = outcomes.plus(count_outcomes(work, set())).plus(Counts(received=known, deduplicated=known))
            open_questions += unanswered_by_step(work.failures).total()
    outcomes = outcomes.plus(Counts(received=-open_questions, dead_lettered=-open_questions))
    turn = Turn(before, b"", before.done + len(places), reprocess.version, {**others, UNANSWERED: open_questions})
    return turn.advanced(outcomes, last=True)
