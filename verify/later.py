"""What was delivered beside a range: it may have replaced or removed what the range's events left in a sink."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.engine.recompute import Output
from penstock.journal.lines import Line
from penstock.journal.reader import JournalReader, Mark, moment
from verify.jobs import Deeds
from verify.letters import EVER
from verify.lookers import Looker
from verify.outputs import Remaker
from verify.range import LineRange
from verify.reckoning import Reckoning

_PATIENCE = 50
"""Batches between two looks at whether anything is still absent."""


@dataclass(slots=True)
class Later:
    """Tells sinks that lack something of what was delivered behind the range up to now, and of all that jobs delivered, in an
    order that nobody knows."""

    reckoning: Reckoning
    reader: JournalReader

    async def tell(self) -> None:
        """As long as something is absent that this may explain."""
        lacking = [looker for looker in self.reckoning.lookers if await looker.lacks()]
        if not lacking:
            return
        deeds = await asyncio.to_thread(lambda: Deeds.of(record.line for record in self.reader.outcomes_of_jobs()))
        lacking = await self._tell_of_run(lacking)
        if lacking and deeds.count:
            self.reckoning.deeds = deeds
            await self._tell_of_jobs(lacking)

    async def _tell_of_run(self, lacking: list[Looker]) -> list[Looker]:
        """Those that still lack something."""
        whole, mixed = self._whole(self.reckoning.range.before_first), bool(self.reckoning.by_jobs)
        batches = 0
        async for _, lines in whole.batches():
            chosen = [line for line in lines if line.outcome == "delivered" and (mixed or not self._is_in_range(line))]
            if chosen:
                await _give(lacking, await self._remaker.anyhow(chosen))
            batches += 1
            if batches % _PATIENCE == 0 and not (lacking := [looker for looker in lacking if await looker.lacks()]):
                break
        return [looker for looker in lacking if await looker.lacks()]

    async def _tell_of_jobs(self, lacking: Sequence[Looker]) -> None:
        async for _, lines in self._whole(None).batches():
            for line in lines:
                for delivery in self.reckoning.standing(line).deliveries:
                    if delivery.deed is not None:
                        (letter,) = await self.reckoning.letters_of([line])
                        made = await self._remaker.of_job(line, delivery, letter)
                        outputs = (await self._remaker.anyhow([line]))[0] if isinstance(made, str) else made
                        await _give(lacking, [outputs])

    @property
    def _remaker(self) -> Remaker:
        return self.reckoning.remaker

    def _whole(self, after: Mark | None) -> LineRange:
        """All of the journal as it is now."""
        return LineRange(self.reader, *EVER, self.reckoning.range.together, after)

    def _is_in_range(self, line: Line) -> bool:
        return self.reckoning.range.start <= moment(line) < self.reckoning.range.end


async def _give(lookers: Sequence[Looker], made: Sequence[Sequence[Output]]) -> None:
    for looker in lookers:
        await looker.later(made)
