"""Replays from where people start them: a stored job is made, carried out by whoever holds the pipeline, and summed up.

job = await create_replay(store, assembly, ReplayRequest(query=query), "ann@here")   # beside a live run or not
...                                                                       # `penstock.engine.jobs`, or `carry_out`
summary = summary_of(await store.jobs.find(job.id))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from dlq.debts import UNKNOWN, debts_of
from dlq.replay_carrier import BEHIND, REPLAYABLE, ReplayOptions, encode_options
from dlq.replay_dry import try_replay
from penstock.clock import Clock
from penstock.config.model import Pipeline
from penstock.engine.assemble import Assembly
from penstock.engine.carry_out import carry_out_or_withdraw, open_state
from penstock.engine.claim import ledgers_of
from penstock.engine.due_jobs import make_hurried
from penstock.engine.ledgers import STATE
from penstock.engine.overwriting import overwrite_needed, overwriting_sinks
from penstock.engine.run import RunOptions
from penstock.engine.versions import find_version, is_version
from penstock.faults import Faults
from penstock.ledger import LedgerSink
from penstock.state.job_records import Job, JobProgress
from penstock.state.records import LetterQuery
from penstock.state.store import StateStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What to replay, and how.

    :ivar query: which of the open dead letters, each once; those that come later are not among them.
    :ivar renamed: by the name of a sink that the pipeline no longer has, the sink of today that took its place: it gets what
        the other owes. Without it such a letter is left open.
    :ivar version: of the pipeline whose steps to use, or a beginning of it; empty: today's.
    :ivar rate: events a second, at most; None: as fast as it goes.
    :ivar overwrite: older events may overwrite newer ones in the sinks (rule 11).
    """

    query: LetterQuery
    renamed: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    rate: float | None = None
    overwrite: bool = False


@dataclass(slots=True)
class ReplaySummary:
    """What a replay did. `selected` = delivered + filtered + deduplicated + failed_again + settled + left + behind +
    unanswered.

    :ivar job: its id; empty for a dry run.
    :ivar settled: letters whose events a ledger had taken when the run died, and that the next claim resolved.
    :ivar left: letters that were not touched, for the pipeline has none of the ledgers that owe them.
    :ivar behind: letters that were not touched, for another one is before them in their lane.
    :ivar unknown_ledgers: by the name of a ledger that the pipeline no longer has, how many of these letters it still owes: the
        ones that were left, and others, which are delivered but for that and stay open.
    :ivar unanswered: of a dry run, letters at a step with effects, which it does not perform.
    """

    job: str = ""
    selected: int = 0
    delivered: int = 0
    filtered: int = 0
    deduplicated: int = 0
    failed_again: int = 0
    settled: int = 0
    left: int = 0
    unknown_ledgers: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    behind: int = 0


@dataclass(frozen=True, slots=True)
class Replays:
    """Replays as front ends start them. `how` of each method: the fields of `ReplayRequest` but for its query."""

    store: StateStore
    assembly: Assembly

    async def create(self, query: LetterQuery, how: Mapping[str, Any], by: str) -> Job:
        """As `create_replay`."""
        return await create_replay(self.store, self.assembly, ReplayRequest(query=query, **how), by)

    async def hurry(self, by: str) -> Job:
        """A job that does the retries that wait now."""
        return await make_hurried(self.store, by)

    async def dry_run(self, query: LetterQuery, how: Mapping[str, Any], told: Callable[[JobProgress], None]) -> ReplaySummary:
        """As `dry_replay`."""
        return await dry_replay(self.store, self.assembly, ReplayRequest(query=query, **how), told)

    def summary(self, job: Job) -> ReplaySummary:
        """As `summary_of`."""
        return summary_of(job)


async def create_replay(store: StateStore, assembly: Assembly, request: ReplayRequest, by: str) -> Job:
    """Store the job. A live run finds it within a second.

    :param assembly: of the pipeline as it is today; nothing of it is opened.
    :raises UsageError: `dlq.unknown`, `dlq.ambiguous`, `dlq.unknown_sink`, `dlq.not_renamed`, `dlq.shared_ledger`,
        `version.unknown`.
    :raises EnvironmentFault: `sink.overwrites`, which was not asked for.
    """
    options, total = await _options(store, assembly, request)
    if not request.overwrite and (asked := await _overwritten(store, assembly, options)):
        raise overwrite_needed(asked)
    return await store.jobs.create("replay", encode_options(options), by, total=total)


async def dry_replay(
    store: StateStore, assembly: Assembly, request: ReplayRequest, told: Callable[[JobProgress], None]
) -> ReplaySummary:
    """What the replay would do; nothing is touched. Raises as `create_replay`."""
    options, total = await _options(store, assembly, request)
    return summarise(await try_replay(store, assembly, options, JobProgress("", total=total), told))


async def _options(store: StateStore, assembly: Assembly, request: ReplayRequest) -> tuple[ReplayOptions, int]:
    """What is stored of the request, and how many letters it selects."""
    debts_of(ledgers_of(assembly, store), request.renamed)
    version = request.version
    if version and not is_version(assembly.pipeline, version):
        version = find_version(await store.versions(), version).version
    status = tuple(status for status in request.query.status if status in REPLAYABLE)
    query, upto = await store.bounded(replace(request.query, status=status))
    counted = replace(query, status=[*status, "replaying"])  # of a command that died: the next claim opens them
    total = sum(group.count for group in await store.letter_groups(counted)) if status else 0
    return ReplayOptions(query, upto, dict(request.renamed), version, request.rate), total


async def _overwritten(store: StateStore, assembly: Assembly, options: ReplayOptions) -> list[str]:
    """Sinks that could put an older event over a newer one, and that are owed some of the letters (rule 11)."""
    asked = []
    for name in overwriting_sinks(assembly.sinks):
        ledger = name if isinstance(assembly.sinks[name], LedgerSink) else STATE
        owing = {ledger, *(old for old, new in options.renamed.items() if new == name)}
        queries = [replace(options.query, owed=each) for each in sorted(owing)]
        if any([await store.letter_groups(query) for query in queries]):
            asked.append(name)
    return asked


def summary_of(job: Job) -> ReplaySummary:
    """What a replay has done so far."""
    return summarise(job.progress)


def summarise(progress: JobProgress) -> ReplaySummary:
    """The same, of its progress."""
    counts = progress.counts
    received, settled, left = counts.get("received", 0), counts.get("settled", 0), counts.get("left", 0)
    unanswered, behind = counts.get("unanswered", 0), counts.get(BEHIND, 0)
    unknown = {name.removeprefix(UNKNOWN): number for name, number in counts.items() if name.startswith(UNKNOWN)}
    return ReplaySummary(
        progress.job,
        received + settled + left + behind + unanswered,
        counts.get("delivered", 0),
        counts.get("filtered", 0),
        counts.get("deduplicated", 0),
        counts.get("dead_lettered", 0),
        settled,
        left,
        Counter(unknown),
        unanswered,
        behind,
    )


async def replay(
    pipeline: Pipeline,
    query: LetterQuery,
    *,
    clock: Clock,
    faults: Faults,
    progress: Callable[[int, int], None] = lambda done, total: None,
    dry_run: bool = False,
    renamed: Mapping[str, str] = MappingProxyType({}),
    version: str = "",
    rate: float | None = None,
    overwrite: bool = False,
) -> ReplaySummary:
    """Make the job, and carry it out, where no run is alive.

    :param progress: called with (done, all) after each portion.
    :param dry_run: process, and deliver nothing, beside a live run or not.
    :raises UsageError: as `create_replay`.
    :param overwrite: older events may overwrite newer ones in the sinks.
    :raises EnvironmentFault: `state.held`, where a run of the pipeline is alive: it carries the job out; `sink.overwrites`.
    :raises PenstockError: why the job failed.
    """
    options = RunOptions(clock=clock, faults=faults)
    request = ReplayRequest(query=query, renamed=renamed, version=version, rate=rate, overwrite=overwrite)

    def told(at: JobProgress) -> None:
        progress(at.done, at.total or 0)

    async with open_state(pipeline, options) as (store, assembly):
        if dry_run:
            return await dry_replay(store, assembly, request, told)
        job = await create_replay(store, assembly, request, "")
    return summary_of(await carry_out_or_withdraw(pipeline, job.id, options, told))
