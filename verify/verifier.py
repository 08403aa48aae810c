"""Reconciles a range of event time: source, journal, dead letters and sinks. Every event is accounted for, or named.

    found = await Verifier(pipeline, store, around, surroundings).verify(start, end, sinks, tell)

It changes nothing and takes no lease, so that it may run beside the live run. What it goes by is one note of the state store,
read first: its checkpoint, and the place in the journal up to which lines count. What is committed later is not looked at, so
that nothing under way looks like a gap; and what a sink shows it shows at least as of then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.clock import rfc3339
from penstock.config.model import Journal, Pipeline
from penstock.config.stored import Around
from penstock.engine.assemble import Surroundings
from penstock.engine.recompute import alike, of_one_version
from penstock.engine.retry import gave_up
from penstock.engine.versions import Versions
from penstock.errors import Transient, UsageError
from penstock.journal.frames import Place
from penstock.journal.head import read_head
from penstock.journal.known import name_of
from penstock.journal.lines import Line
from penstock.journal.reader import JournalReader
from penstock.state.pipeline_records import Note
from penstock.state.store import StateStore
from verify.extent import Reach, gaps_of, written
from verify.findings import NAMED, Findings, Gap, SourceFound, document
from verify.jobs import Deeds
from verify.later import Later
from verify.letters import LetterCheck
from verify.lookers import Looker, lookers, number_of
from verify.outputs import Remaker
from verify.range import LineRange
from verify.reckoning import Reckoning
from verify.source import SourceCheck, source_reader
from verify.versions import SinkBook

Tell = Callable[[str, int, int | None], None]
"""Hears what is looked at, how far it is, and of how much."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """Over one pipeline and its open state store.

    :ivar around: where stored versions are brought back to life.
    """

    pipeline: Pipeline
    store: StateStore
    around: Around
    surroundings: Surroundings

    async def verify(self, start: float, end: float, sinks: Sequence[str], tell: Tell, *, source: bool = True) -> dict[str, Any]:
        """Events that happened in `[start, end)`, by their own time, or without one by that of their receipt: the report.

        :param start, end: seconds since 1970.
        :param sinks: those to look into; none: all.
        :param source: whether to read it again.
        :raises UsageError: `verify.no_journal`, `verify.empty_range`, `verify.unknown_sink`.
        :raises PenstockError: the journal is damaged; the source or a sink cannot be read.
        """
        self._check(start, end, sinks)
        note, found = await self.store.read_note(), Findings()
        reach = await asyncio.to_thread(self._look_at_journal, note, start, end, found)
        names = sinks or [sink.name for sink in self.pipeline.sinks]
        try:
            async with lookers(self.pipeline, names, self.surroundings) as looking:
                reckoning = await self._reckoning(note, start, end, looking, found, tell)
                await self._look_into_sinks(reckoning, tell)
            tell("dead letters", 0, None)
            await reckoning.letters.lines_of_letters(start, end, reckoning.deeds.letters, self._fresh, reach)
            found.source = SourceFound(self.pipeline.source.kind, why="it was not asked for")
            if source:
                await self._look_at_source(reckoning, note, reach, found.source, tell)
        except Transient as error:
            raise gave_up(error, f"pipeline {self.pipeline.name}") from error
        return document(found, {"pipeline": self.pipeline.name, "from": rfc3339(start), "to": rfc3339(end)})

    def _check(self, start: float, end: float, sinks: Sequence[str]) -> None:
        if not start < end:
            raise UsageError("verify.empty_range", "--from must be before --to", help="a range is half-open: [from, to)")
        names = [sink.name for sink in self.pipeline.sinks]
        for name in sinks:
            if name not in names:
                raise UsageError("verify.unknown_sink", f"no sink is called {name!r}", help=f"there are {', '.join(names)}")
        if self.pipeline.journal is None:
            raise UsageError(
                "verify.no_journal",
                f"the pipeline {self.pipeline.name} keeps no journal, so what became of its events is not known",
                where=str(self.pipeline.file),
                help="take `journal: off` out of its file: from then on its events can be verified",
            )

    @property
    def _journal(self) -> Journal:
        assert self.pipeline.journal is not None, "checked before"
        return self.pipeline.journal

    def _look_at_journal(self, note: Note, start: float, end: float, found: Findings) -> Reach:
        gaps = list(gaps_of(self._journal.directory, Place.parse(note.journal), start, end))
        for gap in gaps:
            found.add(gap)
        reach = Reach.of(self._journal, self.surroundings.clock.now(), sound=not gaps)
        found.began = reach.began
        return reach

    def _reader(self, note: Note) -> JournalReader:
        """Up to what a note tells of."""
        place, head = Place.parse(note.journal), read_head(self._journal.directory)
        is_ours = place is not None and head is not None and head.id == place.journal
        return JournalReader(self._journal.directory, place if is_ours else None)

    async def _fresh(self) -> JournalReader:
        """Up to what is committed by now."""
        return self._reader(await self.store.read_note())

    async def _reckoning(
        self, note: Note, start: float, end: float, looking: Sequence[Looker], found: Findings, tell: Tell
    ) -> Reckoning:
        reader, book, now = self._reader(note), SinkBook(self.pipeline, self.store), self.surroundings.clock.now()
        await book.open()
        found.sinks = [looker.found for looker in looking]
        total = reader.count(start, end)
        remaker = Remaker(Versions(self.around, self.store.versions), self.store)
        return Reckoning(
            pipeline=self.pipeline.name,
            findings=found,
            range=LineRange(reader, start, end, alike if book.asks_now else of_one_version),
            deeds=await Deeds.read(reader, remaker.kind_of),
            book=book,
            remaker=remaker,
            lookers=looking,
            letters=LetterCheck(self.store, self.pipeline.name, found, self.pipeline.dead_letter.retention, now),
            tell=lambda done: tell("journal", done, total),
        )

    async def _look_into_sinks(self, reckoning: Reckoning, tell: Tell) -> None:
        """All lines, and what the sinks show of them."""
        await reckoning.run()
        await reckoning.run_jobs()
        tell("sinks", 0, None)
        await Later(reckoning, written(self._journal.directory)).tell()
        for looker in reckoning.lookers:
            absent = await looker.absences(NAMED)
            reckoning.findings.count(looker.name, looker.found.absent)
            numbers = [reckoning.event_of(number_of(absence.token)) for absence in absent]
            lines = await reckoning.range.lines(numbers)
            for number, absence in zip(numbers, absent, strict=True):
                reckoning.findings.name(self._absent(looker.name, absence.why, lines.get(number)))

    def _absent(self, sink: str, why: str, line: Line | None) -> Gap:
        if line is None:
            return Gap(sink, f"{why}; its line has gone by retention meanwhile")
        identity = name_of(line)[1]
        return Gap(sink, why, identity, f"partition {line.partition}", f"pipe explain {identity} {self.pipeline.name}")

    async def _look_at_source(self, reckoning: Reckoning, note: Note, reach: Reach, found: SourceFound, tell: Tell) -> None:
        native = source_reader(self.pipeline, self.surroundings, found)
        if native is None:
            return
        tell("source", 0, None)
        check = SourceCheck(self.pipeline, reckoning.findings, found, reckoning.seen, note.positions, self._fresh, reach)
        await check.look(native, reckoning.range.start, reckoning.range.end)
