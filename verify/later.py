"""What was delivered beside a range: it may have replaced or removed what the range's events left in a sink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.engine.recompute import Output
from penstock.journal.lines import Line
from penstock.journal.opened import BEHIND
from penstock.journal.reader import EVER, JournalReader, Mark, moment
from verify.jobs import Deeds
from verify.lookers import Looker
from verify.outputs import Remaker
from verify.range import LineRange
from verify.reckoning import Reckoning

_PATIENCE = 50
"""Batches between two looks at whether anything is still absent."""


@dataclass(slots=True)
class Later:
    """Tells sinks that lack something of what was delivered behind the range up to now, and of all that jobs delivered, in an
    order that nobody knows.

    :ivar reader: of all that sinks may show, committed or not (`verify.extent.written`).
    """

    reckoning: Reckoning
    reader: JournalReader

    async def tell(self) -> None:
        """As long as something is absent that this may explain."""
        lacking = [looker for looker in self.reckoning.lookers if await looker.lacks()]
        if not lacking:
            return
        deeds = await Deeds.read(self.reader, self._remaker.kind_of)
        lacking = await self._tell_of_run(lacking)
        if lacking and deeds.count:
            self.reckoning.deeds = deeds
            await self._tell_of_jobs(lacking)

    async def _tell_of_run(self, lacking: list[Looker]) -> list[Looker]:
        """What the run delivered beside the range up to the place that is verified, and all that is behind that. Those that still
        lack something."""
        lines, place = self.reckoning.range, self.reckoning.range.reader.place
        beside = self._lines(lines.reader, lines.before_first)
        lacking = await self._tell_of(beside, lacking, expected=bool(self.reckoning.by_jobs))
        if lacking and place is not None:
            behind = self._lines(self.reader, Mark(place.segment, place.end - 1, BEHIND))
            lacking = await self._tell_of(behind, lacking, expected=True)
        return lacking

    async def _tell_of(self, lines: LineRange, lacking: list[Looker], *, expected: bool) -> list[Looker]:
        """:param expected: of events of the range, too."""
        batches = 0
        async for _, batch in lines.batches():
            chosen = [line for line in batch if line.outcome == "delivered" and (expected or not self._is_in_range(line))]
            if chosen:
                await self._give(lacking, await self._remaker.anyhow(chosen))
            batches += 1
            if batches % _PATIENCE == 0 and not (lacking := [looker for looker in lacking if await looker.lacks()]):
                break
        return [looker for looker in lacking if await looker.lacks()]

    async def _tell_of_jobs(self, lacking: Sequence[Looker]) -> None:
        async for _, lines in self._lines(self.reader, None).batches():
            for line in lines:
                for delivery in self.reckoning.standing(line).deliveries:
                    if delivery.deed is not None:
                        (letter,) = await self.reckoning.letters_of([line])
                        made = await self._remaker.of_job(line, delivery, letter)
                        await self._give(lacking, await self._remaker.anyhow([line]) if isinstance(made, str) else [made])

    @property
    def _remaker(self) -> Remaker:
        return self.reckoning.remaker

    def _lines(self, reader: JournalReader, after: Mark | None) -> LineRange:
        """Of any time."""
        return LineRange(reader, *EVER, self.reckoning.range.together, after)

    def _is_in_range(self, line: Line) -> bool:
        return self.reckoning.range.start <= moment(line) < self.reckoning.range.end

    @staticmethod
    async def _give(lookers: Sequence[Looker], made: Sequence[Sequence[Output] | None]) -> None:
        told = [outputs for outputs in made if outputs is not None]
        for looker in lookers:
            looker.uncertain = looker.uncertain or len(told) < len(made)
            await looker.later(told)
