"""What is said of a group when it is committed: to each ledger a `Commit`, to the state store the `Note` of step 3. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from penstock.engine.group import Group
from penstock.engine.ledgers import LedgerState, groups_of, names_of
from penstock.engine.outcomes import finished_keys, settled_keys
from penstock.engine.sinks import SinkEnd
from penstock.engine.work import Work
from penstock.ledger import Commit, Counts, JobRecord, Key
from penstock.state.pipeline_records import Note
from penstock.state.records import DeadLetter


class Common(NamedTuple):
    """What is said to all of them.

    :ivar group: its number.
    :ivar totals: the pipeline's counts, the group's included as they are known now.
    :ivar running: seconds of running time since the pipeline began.
    :ivar at: wall time, in seconds since 1970.
    """

    epoch: int
    group: int
    totals: Counts
    running: float
    at: float


def commit_of(group: Group, ledger: LedgerState, sinks: Sequence[SinkEnd], common: Common) -> Commit:
    """To one ledger."""
    keys: list[Key] = []
    settled: list[Key] = []
    jobs: list[JobRecord] = []
    for w, work in enumerate(group.works):
        failed = group.refused_by(ledger, w)
        keys.extend(finished_keys(work, ledger.name, failed))  # Invariant 4: with the delivery, never before it
        settled.extend(settled_keys(work, ledger.name, failed))
        jobs.extend(JobRecord(group.job, name) for name in _recorded(ledger, sinks, work, failed))
    positions = ledger.forward(group.positions)  # Invariant 2: of this group, with its outcomes, and never backwards
    return Commit(
        epoch=common.epoch,
        previous=ledger.group,
        group=common.group,
        positions=positions,
        counts=ledger.counted(positions, common.totals),
        keys=keys,
        settled=settled,
        running=common.running,
        sink_states=group.sink_states if ledger.sink is None else {},
        jobs=jobs,
        journal=group.journal,
        forgotten=ledger.noted_records,
    )


def _recorded(ledger: LedgerState, sinks: Sequence[SinkEnd], work: Work, failed: set[int]) -> Iterator[str]:
    """The names under which a ledger records the events of a job: all that it owed and did not refuse are behind it, where
    they are dead letters; of past events those alone that it takes something of, for another job may be for what it did not
    get."""
    taken: Collection[int] = {origin for origin, owed in work.owed.items() if ledger.name in owed}
    if not work.letters:
        bits = [bit for bit, end in enumerate(sinks) if end.ledger == ledger.name]
        taken = {event.origin for bit in bits for event in work.for_sink(bit, ledger.name)}
    for origin, name in work.names.items():
        if origin in taken and origin not in failed and origin not in work.failures:
            yield name


def _offered(group: Group, ledgers: Sequence[LedgerState]) -> Iterator[tuple[str, list[str]]]:
    """By dead letter that the group replays, the ledgers that owed it when it was taken up: the others were not given it."""
    for work in group.works:
        for origin, letter in work.letters.items():
            yield letter, [ledger.name for ledger in ledgers if ledger.name in work.owed[origin]]


def note_of(
    group: Group,
    ledgers: Sequence[LedgerState],
    pipeline: str,
    failed_again: Sequence[DeadLetter],
    common: Common,
    *,
    drained: bool,
    last: bool,
) -> Note:
    """To the state store.

    :param failed_again: of a replay, the dead letters that are so once more.
    :param drained: the source has nothing more behind the group.
    :param last: as `Turn.advanced` has it.
    """
    unresolved = {letter.id for letter in failed_again}
    return Note(
        group=common.group,
        positions=group.positions,
        counts=common.totals,
        ledgers=names_of(ledgers),
        groups=groups_of(ledgers),
        running=common.running,
        drained=drained,
        at=common.at,
        journal=group.journal,
        repeats=[] if group.repeats else group.find_repeats(pipeline),  # told once, in step 1 or here
        superseded=[repeat.letter for repeat in group.find_superseded()],
        resolved=[letter for work in group.works for letter in work.letters.values() if letter not in unresolved],
        failed_again=failed_again,
        offered=dict(_offered(group, ledgers)),
        job=group.progress(last=last),
        answered=group.answers(parked=False),
        set_aside=group.answers(parked=True),
    )
