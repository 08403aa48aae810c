"""Which sinks had which past event before: what a live backfill must not deliver twice.

A run offered what it delivered to the sinks of its version; a job to those that its line in the journal names, or to all. An
event that was filtered no sink had. One that failed is its dead letter's matter until a job is done with it: then the sinks of
its version had it, some perhaps before it failed at others. What was done later by jobs lies anywhere behind: it is looked up
once, and kept as digests, eight bytes an event. A backfill that goes on leaves to their dead letters the events that it
would have left to them when it began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from penstock.errors import UsageError
from penstock.journal.digests import Digests, digest_of
from penstock.journal.lines import VERSION_DIGITS, Line
from penstock.journal.reader import ids_of
from penstock.state.pipeline_records import Version

_OFFERED = ("delivered", "dead_lettered")
"""Outcomes of which sinks had the event, or some of them."""


@dataclass(slots=True)
class Had:
    """Which sinks had what.

    :ivar sinks: today's names, in order: of the bits of a mask.
    """

    sinks: Sequence[str]
    _by_version: dict[str, int] = field(default_factory=dict)
    _later: defaultdict[int, Digests] = field(default_factory=lambda: defaultdict(Digests))
    _failed: dict[int, int] = field(default_factory=dict)
    _done: Digests = field(default_factory=Digests)
    _waited: frozenset[int] = frozenset()
    _done_since: Digests = field(default_factory=Digests)

    @classmethod
    def of(
        cls, sinks: Sequence[str], versions: Iterable[Version], corrections: Iterable[Line], since: Iterable[Line] = ()
    ) -> Had:
        """:param corrections: what jobs made of events later, in order (`JournalReader.outcomes_of_jobs`).
        :param since: the rest of them, which came when the backfill had begun.
        """
        had = cls(sinks)
        for version in versions:
            names = [sink["name"] for sink in msgspec.json.decode(version.config)["sinks"]]
            had._by_version[version.version[:VERSION_DIGITS]] = had.mask(names)
        for line in corrections:
            had._correct(line)
        had._waited = frozenset(had._failed)  # Invariant 5: what is behind one that was left in its lane is left, too
        for line in since:
            had._correct(line, since=True)
        return had

    def mask(self, names: Iterable[str]) -> int:
        """The bits of these sinks, as far as the pipeline has them today."""
        given = set(names)
        return sum(1 << bit for bit, name in enumerate(self.sinks) if name in given)

    def before(self, line: Line) -> int:
        """The sinks that had the event of a line, as a bit mask.

        :raises UsageError: `backfill.unknown_version`, a version that delivered it is not stored.
        """
        mask = self._meant(line) if line.outcome in _OFFERED else 0
        if self._later:
            digest = event_digest(line)
            for later, digests in self._later.items():
                if digest in digests:
                    mask |= later
        if mask & self._unknown:
            raise UsageError(
                "backfill.unknown_version",
                f"which sinks had the event {ids_of(line)[-1]} is not known, for a version that delivered it is not stored",
                help="--redeliver delivers it whoever had it",
            )
        return mask

    def failed(self, line: Line) -> bool:
        """Whether the event has a dead letter, of the run or of the last job that had it, that nobody is done with, or nobody was
        when the backfill began."""
        if line.outcome != "dead_lettered" and not self._failed and not self._waited:
            return False
        digest = event_digest(line)
        return digest in self._failed or digest in self._waited or (line.outcome == "dead_lettered" and digest not in self._done)

    def unsaid(self, line: Line) -> bool:
        """Whether the event failed, and no line says that a job was done with it. Its dead letter may be resolved all the same:
        by a claim that found what its ledgers had taken of a job that died (rule 10)."""
        return self.failed(line) and event_digest(line) not in self._done_since

    def tried(self, line: Line) -> int:
        """The sinks that had the event of a line, or got it offered when it failed last. Raises as `before`."""
        return self.before(line) | self._failed.get(event_digest(line), 0)

    def _correct(self, line: Line, *, since: bool = False) -> None:
        """By what a job made of an event. Of several attempts, each may have got as far as some sinks."""
        digest = event_digest(line)
        tried = self._failed.pop(digest, 0)
        mask = tried | self._meant(line) if line.outcome in _OFFERED else tried
        if line.outcome == "dead_lettered":
            self._failed[digest] = mask
            return
        (self._done_since if since else self._done).add(digest)
        if mask:
            self._later[mask].add(digest)

    def _meant(self, line: Line) -> int:
        """The sinks that a line's outcome was for: those that it names, else all of its version."""
        return self._by_version.get(line.version, self._unknown) if line.sinks is None else self.mask(line.sinks)

    @property
    def _unknown(self) -> int:
        """The bit of sinks that nobody knows."""
        return 1 << len(self.sinks)


def event_digest(line: Line) -> int:
    """Of the event as the source gave it, by partition, position and id: a job's line has that of the event's own."""
    return digest_of(line.partition, line.position, ids_of(line)[-1])


def event_name(line: Line) -> str:
    """What the ledgers' records call the event of a line, for every job alike."""
    return f"event {event_digest(line):016x}"
