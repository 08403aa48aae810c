"""What the state store keeps of dead letters and of lanes, and what can be asked of them. Stored formats are versioned.

The note, versions and epochs are `pipeline_records`, jobs `job_records`, signals `signal_records`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from penstock.errors import Violation

Status = Literal["open", "parked", "replaying", "resolved", "superseded", "discarded"]
STATUSES: tuple[Status, ...] = ("open", "parked", "replaying", "resolved", "superseded", "discarded")
UNSETTLED: tuple[Status, ...] = ("open", "parked", "replaying")


def count_unsettled(by_status: Mapping[Status, int] | Mapping[str, int]) -> int:
    """Of so many dead letters of each status, those that are not settled."""
    return sum(by_status.get(status, 0) for status in UNSETTLED)


@dataclass(frozen=True, slots=True)
class Delivered:
    """An output that a sink outside any ledger took although its event failed elsewhere: replay skips it (rule 9).

    :ivar output: its number among those for the sink; `EVERY`: the sink had the event before, so that a live backfill was not
        for it, and nothing that is made of the event goes there.
    """

    sink: str
    output: int


EVERY = -1


@dataclass(slots=True)
class DeadLetter:
    """An event that failed for good, with everything needed to understand, mend and replay it.

    :ivar id: digest of pipeline, source and event id: the same event has one dead letter, however often it is read.
    :ivar record: the received event as the source emitted it, before `event:` was applied, as a structured CloudEvent (JSON) with
        its data; without data where the record was no JSON (then `original` holds it).
    :ivar source_record: what programs under `event:` saw, as JSON, where that was more than the data (a change with before and
        after); None elsewhere, and for what the source could make no event of.
    :ivar original: the record's own bytes; at most the first 4 KiB where `original_length` says that there was more.
    :ivar original_digest: blake2b-128 hex of the whole record.
    :ivar reread: whether replay must read the record from the source again (`Rereadable`), since only its head is kept.
    :ivar event: the CloudEvent as it stood when it failed (JSON), without data; shown to people.
    :ivar fingerprint: versioned digest of step, code and the sorted (path, rule) pairs: the same cause groups together.
    :ivar owed: names of the ledgers that have not taken the event, of the pipeline as it was then. One that the pipeline no
        longer has owes it still: a replay cannot settle that unseen (rule 10).
    :ivar key: its 16-byte dedup key, or None without dedup.
    :ivar data_digest: tells a repetition with the same data from one with other data (rule 7).
    :ivar first_at: seconds since the epoch of its first failure; `last_at` of the latest.
    :ivar edited: the event as a person mended it, in the form of `record`, which stays as it came; None: nobody did.
    :ivar lane: key of the lane that it holds, or waits in, within its partition; None: it is in none. Where two of a lane have no
        position, or the same, `arrival` says which came first.
    :ivar retries: how many retries of the schedule are behind it; `next_at`: when the next is due, in seconds since 1970.
    :ivar redelivered: its ledgers are to take it although they had its event before: its own dedup key does not stand in its way.
    """

    id: str
    pipeline: str
    version: str
    step: str
    code: str
    message: str
    fingerprint: str
    partition: str
    position: bytes
    source: str
    event_id: str
    type: str
    time: str | None
    record: bytes
    event: bytes
    original: bytes | None
    original_length: int
    original_digest: str
    reread: bool
    why: str | None = None
    help: str | None = None
    violations: Sequence[Violation] = ()
    owed: Sequence[str] = ()
    delivered: Sequence[Delivered] = ()
    key: bytes | None = None
    brought_by: bytes = b""
    data_digest: bytes = b""
    attempts: int = 1
    repeats: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    status: Status = "open"
    job: str | None = None
    source_record: bytes | None = None
    edited: bytes | None = None
    lane: str | None = None
    arrival: int = 0
    retries: int = 0
    next_at: float | None = None
    redelivered: bool = False

    @property
    def effective(self) -> bytes:
        """The event that a replay sends, as a structured CloudEvent."""
        return self.record if self.edited is None else self.edited


class Lane(NamedTuple):
    """Events that keep their order: one key within a partition."""

    partition: str
    key: str


@dataclass(frozen=True, slots=True)
class ParkedLane:
    """A lane that is held: `head` is the id of the dead letter that holds it, `behind` how many are parked behind it."""

    partition: str
    lane: str
    head: str
    behind: int


@dataclass(frozen=True, slots=True)
class Retries:
    """How many dead letters wait for their next retry, and when the first of these is due, in seconds since 1970."""

    waiting: int = 0
    next_at: float | None = None


def inherited(owed: Iterable[str], heirs: Mapping[str, Sequence[str]]) -> list[str]:
    """Who owes a dead letter once some ledgers have heirs; each name once."""
    return list(dict.fromkeys(heir for name in owed for heir in heirs.get(name, (name,))))


@dataclass(frozen=True, slots=True)
class OpenLetter:
    """What the engine asks about an open dead letter (rule 7). `key` is empty where its event had none."""

    id: str
    key: bytes
    brought_by: bytes
    data_digest: bytes
    owed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A repetition of an event whose dead letter is open: counted there, provisional as dead letters are."""

    letter: str
    partition: str
    position: bytes


@dataclass(frozen=True, slots=True)
class LetterQuery:
    """Which dead letters; None means any. Times are seconds since 1970, half-open. `ids` and `fingerprint` may be prefixes.

    :ivar after, before: of the first failure; `seen_after`, `seen_before` of the latest; `event_after`, `event_before` of the
        event's own time: one without a time lies in no range.
    :ivar owed: a ledger that owes them.
    :ivar filter: a jq program over the event as it is to be replayed (`.data`, `.type`, …): only those for which it gives
        something that is neither false nor null.
    """

    ids: Sequence[str] = ()
    fingerprint: str | None = None
    code: str | None = None
    step: str | None = None
    type: str | None = None
    status: Sequence[Status] = UNSETTLED
    after: float | None = None
    before: float | None = None
    seen_after: float | None = None
    seen_before: float | None = None
    event_after: float | None = None
    event_before: float | None = None
    owed: str | None = None
    filter: str | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether the first failure must lie in a range."""
        return self.after is not None or self.before is not None

    @property
    def sifts(self) -> bool:
        """Whether events must be looked at, one by one."""
        return self.filter is not None or self.event_after is not None or self.event_before is not None

    def of_any_status(self) -> LetterQuery:
        """The same, of every status."""
        return replace(self, status=STATUSES)

    def of_counts(self) -> LetterQuery:
        """What can be asked of counts: cause, type and status alone."""
        return LetterQuery(fingerprint=self.fingerprint, code=self.code, step=self.step, type=self.type, status=self.status)


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one cause."""

    fingerprint: str
    code: str
    step: str
    message: str
    count: int
    repeats: int
    first_at: float
    last_at: float
    example: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """When dead letters failed first.

    :ivar start: seconds since 1970 at which the first cell begins; `width`: seconds of a cell.
    :ivar cells: by fingerprint, how many failed first in each cell; of all the same number of cells.
    """

    start: int
    width: int
    cells: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class LetterStats:
    """Dead letters in figures.

    :ivar repeats: how often their events came again.
    :ivar bytes: of their records, as these came.
    :ivar by_day: by the beginning of the UTC day of first failure, in seconds since 1970.
    :ivar oldest: first failure of the oldest one that is not settled.
    """

    letters: int = 0
    repeats: int = 0
    bytes: int = 0
    by_status: Mapping[str, int] = field(default_factory=dict)
    by_code: Mapping[str, int] = field(default_factory=dict)
    by_step: Mapping[str, int] = field(default_factory=dict)
    by_type: Mapping[str, int] = field(default_factory=dict)
    by_day: Mapping[int, int] = field(default_factory=dict)
    oldest: float | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that was done with a dead letter.

    :ivar what: `edited`, `restored`, `discarded`, `imported`, `replayed`, `backfilled` (a live backfill made it) or `superseded`.
    :ivar by: `user@host` of a person, empty where a run did it.
    :ivar detail: more, by name: `reason`; `before` and `after` of an edit, as structured CloudEvents; `job` and `result` of a
        replay.
    """

    at: float
    what: str
    by: str
    detail: Mapping[str, str] = field(default_factory=dict)
