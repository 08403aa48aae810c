"""What a run knows of itself, as plain numbers: the engine adds to them once a batch, and everybody else only reads.

The progress bar, `--json`, `/metrics` and `/readyz` are all views of one `RunStatus`; none of them costs the hot path anything.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from penstock.ledger import Counts

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Phase = Literal["starting", "running", "draining", "stopped", "failed"]


@dataclass(slots=True)
class Histogram:
    """Observations in seconds, counted in the buckets of `LATENCY_BUCKETS` and one above them."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS) + 1))
    total: float = 0.0
    count: int = 0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.total += seconds
        self.count += 1


@dataclass(frozen=True, slots=True)
class JournalSize:
    """A journal as it was when upkeep looked last.

    :ivar size: bytes on the disk; `free`: bytes that are free there.
    :ivar first: when its oldest event was received, in seconds since 1970; None where it is empty.
    """

    segments: int
    size: int
    first: float | None
    free: int


@dataclass(slots=True)
class RunStatus:
    """One run, as it stands.

    :ivar counts: outcomes of this run that are durable; `received` equals the sum of the four others.
    :ivar totals: since the pipeline began.
    :ivar reread: events read again that every ledger already held.
    :ivar sinks: events written, by sink.
    :ivar steps: by (step, outcome), an outcome being `filtered`, `failed` or `skipped`.
    :ivar job_events: what came of the events of jobs, by (kind of job, outcome).
    :ivar in_flight_events: read and not yet committed; `in_flight_bytes` likewise.
    :ivar batch_seconds: from a batch's reading to its commit; `commit_seconds` of a group's commit alone.
    :ivar committed_at: wall time of the last commit; 0 before the first.
    :ivar waits: by who waits (a component, or a part of the engine), for what: a full disk, a server, the next attempt.
    :ivar paused: `paused since …, by …`, where the pipeline is paused on purpose: no wait, for nothing is amiss.
    :ivar retries: attempts after the first, by component.
    :ivar open_letters: dead letters open, as of the last commit.
    :ivar parked: of these, parked behind another in their lane, and `lanes`, how many lanes are held; within seconds.
    :ivar alarmed: they are as many as `dead_letter.alert_threshold` says. Events flow all the same, so the run stays ready.
    :ivar journal: None where none is kept, or nobody has looked yet.
    :ivar progress: (done, total) in bytes or events, where the source can say; None where it cannot.
    :ivar stale: by sink that knows which of two events is the newer, how many changed nothing, being older than what is there.
    :ivar gauges: the source's own figures by name, in base units; empty where it has none.
    :ivar health: by component, one line about what is wrong.
    """

    pipeline: str
    version: str
    epoch: int = 0
    phase: Phase = "starting"
    started_at: float = 0.0
    started: float = 0.0
    counts: Counts = Counts()
    totals: Counts = Counts()
    reread: int = 0
    sinks: Counter[str] = field(default_factory=Counter)
    steps: Counter[tuple[str, str]] = field(default_factory=Counter)
    job_events: Counter[tuple[str, str]] = field(default_factory=Counter)
    in_flight_events: int = 0
    in_flight_bytes: int = 0
    batch_seconds: Histogram = field(default_factory=Histogram)
    commit_seconds: Histogram = field(default_factory=Histogram)
    committed_at: float = 0.0
    waits: dict[str, str] = field(default_factory=dict)
    paused: str | None = None
    retries: Counter[str] = field(default_factory=Counter)
    open_letters: int = 0
    parked: int = 0
    lanes: int = 0
    alarmed: bool = False
    journal: JournalSize | None = None
    progress: Callable[[], tuple[int, int] | None] = lambda: None
    stale: Callable[[], Mapping[str, int]] = dict
    gauges: Callable[[], Mapping[str, float]] = dict
    health: Callable[[], dict[str, str]] = dict

    @property
    def waiting(self) -> str | None:
        """Why nothing is acknowledged for now; None when all goes well."""
        return "; ".join(self.waits.values()) or None

    def wait(self, who: str, why: str | None) -> None:
        """Somebody waits, or goes on (None)."""
        if why is None:
            self.waits.pop(who, None)
        else:
            self.waits[who] = why

    @property
    def ready(self) -> bool:
        """Whether events flow: running, not paused, and nothing holds the commits up."""
        return self.phase in ("running", "draining") and self.waiting is None and self.paused is None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What `penstock.run` returns and `pipe run --json` prints.

    :ivar stale: as in `RunStatus`; these events are among those written.
    """

    pipeline: str
    version: str
    epoch: int
    counts: Counts
    reread: int
    seconds: float
    sinks: dict[str, int]
    open_letters: int
    stale: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The documented object, keys in their documented order."""
        received = self.counts.received
        return {
            "pipeline": self.pipeline,
            "version": self.version,
            "epoch": self.epoch,
            "received": received,
            "delivered": self.counts.delivered,
            "filtered": self.counts.filtered,
            "deduplicated": self.counts.deduplicated,
            "dead_lettered": self.counts.dead_lettered,
            "derived": self.counts.derived,
            "reread": self.reread,
            "seconds": round(self.seconds, 3),
            "events_per_second": round(received / self.seconds, 1) if self.seconds else 0.0,
            "sinks": {name: self._sink(name, written) for name, written in self.sinks.items()},
        }

    def _sink(self, name: str, written: int) -> dict[str, int]:
        return {"written": written, "stale": self.stale[name]} if name in self.stale else {"written": written}
