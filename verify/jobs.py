"""What jobs (replays, live backfills) made of events later than the run that received them: looked up once, and kept as digests.

Their lines correct others and lie anywhere behind these. Memory: 20 bytes for each.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock.cloudevents import timestamp
from penstock.engine.owed import event_digest
from penstock.journal.digests import Digests
from penstock.journal.lines import Line, Outcome
from penstock.journal.reader import JournalReader

REPLAYS = ("replay", "retry", "release")
"""The kinds of jobs that take up dead letters."""
_RUN = 1 << 16


class Kind(NamedTuple):
    """What many lines of jobs have in common.

    :ivar sinks: those that the job was for; None: it does not say.
    :ivar step: where it failed.
    :ivar asked: whether steps with effects asked the world in it.
    """

    job: str
    version: str
    outcome: Outcome
    step: str | None
    sinks: tuple[str, ...] | None
    asked: bool


class Deed(NamedTuple):
    """What one job made of one event; `at`: when, in seconds since 1970."""

    kind: Kind
    at: float


@dataclass(slots=True)
class Deeds:
    """By event, in order.

    :ivar letters: ids of the dead letters that lines of jobs name, as numbers.
    :ivar replays: ids of the jobs that took up dead letters, as far as they are still stored.
    """

    letters: Digests = field(default_factory=Digests)
    replays: frozenset[str] = frozenset()
    count: int = 0
    _table: list[Kind] = field(default_factory=list)
    _runs: list[tuple[array[int], array[int], array[float]]] = field(default_factory=list)

    @classmethod
    async def read(cls, reader: JournalReader, kind_of: Callable[[str], Awaitable[str]]) -> Deeds:
        """Of all jobs that a journal tells of.

        :param kind_of: of a job, by its id; empty where it is not stored any more.
        """
        deeds = await asyncio.to_thread(lambda: cls.of(record.line for record in reader.outcomes_of_jobs()))
        jobs = dict.fromkeys(kind.job for kind in deeds._table)
        deeds.replays = frozenset([job for job in jobs if await kind_of(job) in REPLAYS])
        return deeds

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Deeds:
        """:param lines: of jobs, in order (`JournalReader.outcomes_of_jobs`)."""
        deeds, digests, kinds, ats = cls(), array("Q"), array("I"), array("d")
        numbers: dict[Kind, int] = {}
        for line in lines:
            sinks = None if line.sinks is None else tuple(line.sinks)
            kind = Kind(line.job or "", line.version, line.outcome, line.step, sinks, line.answers is not None)
            digests.append(event_digest(line))
            if kind not in numbers:
                numbers[kind] = len(deeds._table)
                deeds._table.append(kind)
            kinds.append(numbers[kind])
            ats.append(timestamp(line.at))
            if line.letter is not None:
                deeds.letters.add(int(line.letter, 16))
            if len(digests) == _RUN:
                deeds._keep(digests, kinds, ats)
                digests, kinds, ats = array("Q"), array("I"), array("d")
        deeds._keep(digests, kinds, ats)
        return deeds

    def about(self, line: Line) -> Sequence[Deed]:
        """What jobs made of a line's event, in order."""
        if not self._runs:
            return ()
        digest, found, kinds = event_digest(line), list[Deed](), self._table
        for digests, numbers, ats in self._runs:
            at = bisect_left(digests, digest)
            while at < len(digests) and digests[at] == digest:
                found.append(Deed(kinds[numbers[at]], ats[at]))
                at += 1
        return found

    def _keep(self, digests: array[int], kinds: array[int], ats: array[float]) -> None:
        if not digests:
            return
        self.count += len(digests)
        order = sorted(range(len(digests)), key=lambda n: (digests[n], n))
        self._runs.append(
            (
                array("Q", [digests[n] for n in order]),
                array("I", [kinds[n] for n in order]),
                array("d", [ats[n] for n in order]),
            )
        )
