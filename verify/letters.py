"""Dead letters against the journal, both ways: what failed has its letter, and a letter has the line of its event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from penstock.cloudevents import is_time, timestamp
from penstock.journal.digests import Digests
from penstock.journal.frames import Place
from penstock.journal.lines import Line
from penstock.journal.reader import EVER, JournalReader, Mark
from penstock.state.records import UNSETTLED, DeadLetter, LetterQuery
from penstock.state.store import StateStore
from verify.extent import Reach
from verify.findings import Findings, Gap

PART = "dead letters"
_PAGE = 500
Fresh = Callable[[], Awaitable[JournalReader]]


@dataclass(frozen=True, slots=True)
class Failed:
    """An event that is dead-lettered as it stands, by its line.

    :ivar letter: id of its dead letter; `at`: when it was received, in seconds since 1970.
    """

    event: str
    letter: str
    at: float
    where: str


@dataclass(slots=True)
class LetterCheck:
    """Both ways, over an open store.

    :ivar retention: seconds for which letters are kept that are settled; `now`: seconds since 1970.
    :ivar named: ids of letters that lines of the range, or of jobs, name.
    """

    store: StateStore
    pipeline: str
    findings: Findings
    retention: float
    now: float
    named: Digests = field(default_factory=Digests)
    _waiting: list[Failed] = field(default_factory=list)

    async def failed(self, event: Failed) -> None:
        """A line says so; it may be the second one of its event."""
        number = int(event.letter, 16)
        if number in self.named:
            return
        self.named.add(number)
        self._waiting.append(event)
        if len(self._waiting) == _PAGE:
            await self.look()

    async def look(self) -> None:
        """Ask for the letters of those that failed since the last call."""
        found = await self.store.desk.found([event.letter for event in self._waiting])
        for event in self._waiting:
            if event.letter in found:
                self.findings.letters[found[event.letter].status] += 1
            elif event.at < self.now - self.retention:
                self.findings.settled_and_gone += 1
            else:
                what = f"it failed, and its dead letter {event.letter} is not there"
                self.findings.add(Gap(PART, what, event.event, event.where, f"pipe explain {event.event} {self.pipeline}"))
        self._waiting = []

    async def lines_of_letters(self, start: float, end: float, jobs: Digests, fresh: Fresh, reach: Reach) -> None:
        """See that each letter whose event happened in `[start, end)` has its line; without a time, it counts when it failed.

        :param jobs: ids of letters that lines of jobs name.
        """
        everywhere, cursor = Everywhere(fresh), None
        while True:
            letters, cursor = await self.store.letters(LetterQuery(status=()), after=cursor, limit=_PAGE, bodies=False)
            suspects = [letter for letter in letters if start <= _moment(letter) < end and _number(letter) not in self.named]
            for letter in await everywhere.unnamed([letter for letter in suspects if _number(letter) not in jobs]):
                await self._judge(letter, reach, fresh)
            if cursor is None:
                return

    async def _judge(self, letter: DeadLetter, reach: Reach, fresh: Fresh) -> None:
        """One that no line names. Where it was settled after a crash between two ledgers, before its event was read again, the
        event's line says what became of it since (rule 4)."""
        if any(each.what == "imported" for each in await self.store.desk.history(letter.id)):
            self.findings.imported += 1
        elif reach.may_have_lost(letter.first_at):
            self.findings.older += 1
        elif letter.status in UNSETTLED or not await asyncio.to_thread(_has_line, await fresh(), letter):
            what = f"its dead letter {letter.id} ({letter.status}) has no line in the journal"
            where = f"partition {letter.partition}"
            self.findings.add(Gap(PART, what, letter.event_id, where, f"pipe dlq show {letter.id}"))


@dataclass(slots=True)
class Everywhere:
    """The letters that any line of the journal names: looked up when first needed, and again as the journal grows.

    :ivar fresh: a reader up to what is committed when it is asked for.
    """

    fresh: Fresh
    _named: Digests = field(default_factory=Digests)
    _behind: Mark | None = None
    _place: Place | None = None
    _read: bool = False

    async def unnamed(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Those that no line names: where a step gave an event another time, its line is not in the letter's range."""
        left = [letter for letter in letters if _number(letter) not in self._named]
        if not left:
            return left
        reader = await self.fresh()  # a letter stands before readers see its line
        if not self._read or reader.place != self._place:
            await asyncio.to_thread(self._look, reader)
        return [letter for letter in left if _number(letter) not in self._named]

    def _look(self, reader: JournalReader) -> None:
        for record in reader.range(*EVER, after=self._behind):
            self._behind = record.mark
            self._add(record.line)
        for record in reader.outcomes_of_jobs():
            self._add(record.line)
        self._read, self._place = True, reader.place

    def _add(self, line: Line) -> None:
        if line.letter is not None and (number := int(line.letter, 16)) not in self._named:
            self._named.add(number)


def _has_line(reader: JournalReader, letter: DeadLetter) -> bool:
    """Whether the journal has its event. Blocking."""
    lines = (record.line for record in reader.find(letter.event_id))
    return any((line.partition, line.position) == (letter.partition, letter.position.hex()) and line.is_event for line in lines)


def _number(letter: DeadLetter) -> int:
    return int(letter.id, 16)


def _moment(letter: DeadLetter) -> float:
    return timestamp(letter.time) if letter.time is not None and is_time(letter.time) else letter.first_at
