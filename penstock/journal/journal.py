"""The journal as a run writes it: `Segments` in a thread of its own.

    journal = Journal(directory, faults)
    said = await journal.open(place)
    place = await journal.append(lines)      # before the ledgers commit, which keep the place (rule 1)
    await journal.commit()                   # once the commit stands; or `rollback`
    await journal.close()

Nothing of it blocks the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from penstock.errors import Unavailable
from penstock.faults import Faults
from penstock.journal.encoding import Lines
from penstock.journal.examine import Outline, outline
from penstock.journal.frames import Place
from penstock.journal.segments import ROLL, Segments

T = TypeVar("T")


class Journal:
    """Written by one run; its calls come one after the other."""

    def __init__(self, directory: Path, faults: Faults, roll: int = ROLL) -> None:
        self._directory = directory
        self._segments = Segments(directory, faults, roll)
        self._thread = ThreadPoolExecutor(1, "penstock-journal")

    async def open(self, place: str) -> str | None:
        """Take it over where the ledgers stand: what lies behind was never committed.

        :param place: what they keep; empty where they keep nothing: then nothing is cut but what is torn.
        :returns: what is worth telling.
        :raises EnvironmentFault, Unavailable: as `Segments.open`.
        """
        return await self._call(lambda: self._segments.open(Place.parse(place)))

    async def append(self, lines: Lines) -> str:
        """As `Segments.append`; the place as ledgers keep it."""
        return (await self._call(lambda: self._segments.append(lines))).text()

    def place(self) -> str:
        """Everything before it is on the disk. Not while another call is under way."""
        return self._segments.place.text()

    async def commit(self) -> None:
        """As `Segments.commit`."""
        await self._call(self._segments.commit)

    async def rollback(self) -> None:
        """As `Segments.rollback`."""
        await self._call(self._segments.rollback)

    async def expire(self, before: float, max_size: int, spared: int | None) -> list[int]:
        """As `Segments.expire`."""
        return await self._call(lambda: self._segments.expire(before, max_size, spared))

    async def outline(self) -> Outline | None:
        """How large it is, and how much room its disk has.

        :raises Unavailable: `journal.disk`: that cannot be told now.
        """
        try:
            return await self._call(lambda: outline(self._directory))
        except OSError as error:
            raise Unavailable(
                "journal.disk", f"the journal cannot be looked at: {error.strerror}", where=str(self._directory)
            ) from error

    async def close(self) -> None:
        """Harmless when not open."""
        await self._call(self._segments.close)
        self._thread.shutdown(wait=False)

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
