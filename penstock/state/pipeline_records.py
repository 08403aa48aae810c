"""What the state store keeps of a pipeline itself: the note of step 3, versions, epochs. Stored formats are versioned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock.ledger import Counts
from penstock.spi import Position
from penstock.state.job_records import JobProgress
from penstock.state.records import DeadLetter, Repeat


@dataclass(slots=True)
class Note:
    """What the state store notes after the ledgers have committed a group (step 3), and what it answers at a claim.

    :ivar group: every ledger in `ledgers` holds, or owes nothing of, everything up to the end of this group.
    :ivar positions: when written, of the partitions that moved; when read, of all.
    :ivar ledgers: by name, the instance id of every ledger of the pipeline.
    :ivar groups: by name, the last group committed to each ledger: one that stands before it was restored from a backup.
    :ivar epoch: when read, under which it was written.
    :ivar running: seconds of running time since the pipeline began; the time between runs that drained their source counts.
    :ivar drained: the source had nothing more when this was noted.
    :ivar at: wall time of the note.
    :ivar journal: how far the journal reaches with the group; written empty, it leaves what stands there.
    :ivar repeats, superseded, resolved: what the group did to older dead letters. `resolved`: all of `ledgers` have taken, by
        replay, what they owed of these; one that another ledger owes as well stays as it is, owed by that one.
    :ivar failed_again: replayed dead letters that failed once more, with their new reason and who of `ledgers` owes them now.
    :ivar offered: by id of a dead letter that was replayed, those of `ledgers` that owed it when it was taken up, and were given
        it; without an entry, all. The debt of another may have come since: what it had not passed it reads again.
    :ivar job: how far the job is whose group this was; None for the source's.
    :ivar answered: names of the answers that were kept for the group's events (rule 14): they go. `set_aside`: of its parked
        events; they stay until these are released.
    """

    group: int = 0
    positions: Mapping[str, Position] = field(default_factory=dict)
    counts: Counts = Counts()
    ledgers: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    epoch: int = 0
    running: float = 0.0
    drained: bool = False
    at: float = 0.0
    journal: str = ""
    repeats: Sequence[Repeat] = ()
    superseded: Sequence[str] = ()
    resolved: Sequence[str] = ()
    failed_again: Sequence[DeadLetter] = ()
    offered: Mapping[str, Sequence[str]] = field(default_factory=dict)
    job: JobProgress | None = None
    answered: Sequence[str] = ()
    set_aside: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """A pipeline version: the content hash of the resolved pipeline, secrets excluded, and enough to run it again.

    :ivar config: the resolved pipeline as canonical JSON, secrets masked.
    :ivar schemas: text of every schema it names, by `subject@version`.
    :ivar steps: digest of the source of each Python step, by step name.
    """

    version: str
    config: str
    schemas: Mapping[str, str]
    steps: Mapping[str, str]
    created_at: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One epoch as it was issued."""

    epoch: int
    pid: int
    host: str
    version: str
    started_at: float
