"""Which sinks had which past event before: what a live backfill must not deliver twice.

A run offered what it delivered to the sinks of its version; a job to those that its line in the journal names, or to all. An
event that was filtered no sink had. One that failed is its dead letter's matter until a job is done with it: then the sinks of
its version had it, some perhaps before it failed at others. What was done later by jobs lies anywhere behind: it is looked up
once, and kept as digests, eight bytes an event.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec

from penstock.errors import UsageError
from penstock.journal.lines import VERSION_DIGITS, Line
from penstock.journal.reader import ids_of
from penstock.state.pipeline_records import Version


@dataclass(slots=True)
class Had:
    """Which sinks had what.

    :ivar sinks: today's names, in order: of the bits of a mask.
    """

    sinks: Sequence[str]
    _by_version: dict[str, int] = field(default_factory=dict)
    _later: dict[int, array[int]] = field(default_factory=dict)
    _failed: dict[int, int] = field(default_factory=dict)
    _done: array[int] = field(default_factory=lambda: array("Q"))

    @classmethod
    def of(cls, sinks: Sequence[str], versions: Iterable[Version], corrections: Iterable[Line]) -> Had:
        """:param corrections: what jobs made of events later, in order (`JournalReader.outcomes_of_jobs`)."""
        had = cls(sinks)
        for version in versions:
            names = [sink["name"] for sink in msgspec.json.decode(version.config)["sinks"]]
            had._by_version[version.version[:VERSION_DIGITS]] = had.mask(names)
        found: dict[int, array[int]] = {}
        for line in corrections:
            digest = event_digest(line)
            tried = had._failed.pop(digest, 0)  # of several attempts, each may have got as far as some sinks
            if line.outcome == "dead_lettered":
                had._failed[digest] = tried | had._meant(line, had._by_version.get(line.version, 0))
                continue
            had._done.append(digest)
            mask = tried | had._meant(line, None) if line.outcome == "delivered" else tried
            if mask:
                found.setdefault(mask, array("Q")).append(digest)
        had._later = {mask: array("Q", sorted(digests)) for mask, digests in found.items()}
        had._done = array("Q", sorted(had._done))
        return had

    def mask(self, names: Iterable[str]) -> int:
        """The bits of these sinks, as far as the pipeline has them today."""
        given = set(names)
        return sum(1 << bit for bit, name in enumerate(self.sinks) if name in given)

    def before(self, line: Line) -> int:
        """The sinks that had the event of a line, as a bit mask.

        :raises UsageError: `backfill.unknown_version`, the version that delivered it is not stored.
        """
        mask = self._of_version(line) if line.outcome in ("delivered", "dead_lettered") else 0
        if self._later:
            digest = event_digest(line)
            for later, digests in self._later.items():
                if _is_in(digests, digest):
                    mask |= later
        return mask

    def failed(self, line: Line) -> bool:
        """Whether the event has a dead letter that nobody was done with: of the run, or of the last job that had it."""
        if line.outcome != "dead_lettered" and not self._failed:
            return False
        digest = event_digest(line)
        return digest in self._failed or (line.outcome == "dead_lettered" and not _is_in(self._done, digest))

    def _meant(self, line: Line, everyone: int | None) -> int:
        """The sinks that a job's line was for.

        :param everyone: of its version; None: what is stored of that, or it is an error.
        """
        if line.sinks is not None:
            return self.mask(line.sinks)
        return self._of_version(line) if everyone is None else everyone

    def _of_version(self, line: Line) -> int:
        try:
            return self._by_version[line.version]
        except KeyError:
            raise UsageError(
                "backfill.unknown_version",
                f"the version {line.version} is not stored, so which sinks had its events is not known",
                help="--redeliver delivers them whoever had them",
            ) from None


def _is_in(digests: array[int], digest: int) -> bool:
    at = bisect_left(digests, digest)
    return at < len(digests) and digests[at] == digest


def event_digest(line: Line) -> int:
    """Of the event as the source gave it, by partition, position and id: a job's line has that of the event's own."""
    name = "\0".join((line.partition, line.position, ids_of(line)[-1]))
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def event_name(line: Line) -> str:
    """What the ledgers' records call the event of a line, for every job alike."""
    return f"event {event_digest(line):016x}"
