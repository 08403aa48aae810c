"""Which past events a live backfill delivers, and to which sinks: those that did not have them (rule 10).

Collaborators: the journal's lines and what jobs did later (`penstock.engine.owed.Had`), the ledgers' dedup keys, and the dead
letters, to which their events are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from backfill.request import Request
from penstock.engine.carrying import Ground
from penstock.engine.letters import DECODE, SOURCE, letter_id
from penstock.engine.owed import Had
from penstock.engine.tally import Tally
from penstock.event import Event
from penstock.journal.lines import Line
from penstock.ledger import Key
from penstock.spi import Batch
from penstock.state.records import Status

HELD, LETTERS, REPEATED, LEFT_OUT = "held", "letters", "repeated", "left_out"
"""What the job counts beside outcomes: had by every sink before; left to its dead letter; a repetition; not of the filter."""


@dataclass(slots=True)
class Owed:
    """A past event, and the sinks that are to get it.

    :ivar due: their bit mask; `recorded`: ledgers that have its key from itself already.
    """

    line: Line
    due: int
    key: Key | None = None
    recorded: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Dues:
    """See the module.

    :ivar wanted: bit mask of the sinks that the job is for, and that its steps have.
    :ivar begun: when the job was first carried out.
    :ivar filled: the event of a line as it goes into the steps.
    """

    ground: Ground
    request: Request
    had: Had
    wanted: int
    begun: float
    filled: Callable[[Line], Event]

    async def of(self, lines: Sequence[Line], counted: Counter[str]) -> list[Owed]:
        """Those of the lines' events that some sink is to get. Why the others are left is counted."""
        letters = await self._letters(lines)
        settled = await self._settled(lines, letters)
        owed = [Owed(line, due) for line in lines if (due := self._due(line, letters, settled, counted))]
        await self._find_repetitions(owed)
        left = [each for each in owed if each.due]
        counted[REPEATED] += len(owed) - len(left)
        return left

    async def _letters(self, lines: Sequence[Line]) -> Mapping[str, Status]:
        """The dead letters that there are of the lines' events."""
        names = [self._letter(line) for line in lines if self._may_have_failed(line)]
        found = await self.ground.claimed.store.desk.found(names) if names else {}
        return {name: letter.status for name, letter in found.items()}

    async def _settled(self, lines: Sequence[Line], letters: Mapping[str, Status]) -> Mapping[str, int]:
        """Dead letters that were resolved when the job began, though the journal does not say so, each with the sinks that may
        have had its event by that, as a bit mask: all of a ledger that took it."""
        unsaid = [line for line in lines if line.step not in (SOURCE, DECODE) and self.had.unsaid(line)]
        names = [name for name in map(self._letter, unsaid) if letters.get(name) == "resolved"]
        if not names:
            return {}
        desk = self.ground.claimed.store.desk
        takers, found = await desk.takers(names), dict[str, int]()
        for name in names:
            replayed = [one.at for one in await desk.history(name) if one.what == "replayed"]
            if not replayed or replayed[-1] > self.begun:
                continue  # Invariant 5: settled since, it is left, as what was before it in its lane
            takes = [ledger for ledger in self.ground.claimed.ledgers if ledger.name in takers.get(name, ())]
            found[name] = self.had.mask(sink for ledger in takes for sink in ledger.sinks)
        return found

    def _letter(self, line: Line) -> str:
        return line.letter or letter_id(self.ground.pipeline.name, line.received())

    def _due(self, line: Line, letters: Mapping[str, Status], settled: Mapping[str, int], counted: Counter[str]) -> int:
        """The sinks that are to get the event of a line, as a bit mask; where there are none, why not is counted."""
        if line.outcome == "deduplicated":
            counted[REPEATED] += 1
            return 0
        name = self._letter(line) if self._may_have_failed(line) else ""
        if name and name not in settled and self._is_left(line, letters.get(name)):
            counted[LETTERS] += 1
            return 0
        due = self.wanted
        if not self.request.redeliver:
            due &= ~(self.had.tried(line) | settled[name] if name in settled else self.had.before(line))
        if not due:
            counted[HELD] += 1
        return due

    def _may_have_failed(self, line: Line) -> bool:
        """Of an event that the journal does not tell of, the dead letters may."""
        return line.outcome == "unknown" or self.had.failed(line)

    def _is_left(self, line: Line, letter: Status | None) -> bool:
        """Whether the event of a line is its dead letter's matter.

        :param letter: its status; None: there is none. A job that died before its note has left a line, and no letter.
        """
        if letter is None and line.outcome != "dead_lettered":
            return False
        settled = letter in (None, "resolved", "superseded")
        return not (settled and self.request.redeliver) or line.step in (SOURCE, DECODE)

    async def _find_repetitions(self, owed: Sequence[Owed]) -> None:
        """What a sink has from another event of the same key by now, it does not get. A key that an event brought itself, when it
        was delivered to other sinks, or filtered, does not stand in its way (rule 10)."""
        keys = self.ground.assembly.keys
        if keys is None or keys.positional or not owed:
            return
        for each in owed:
            event = self.filled(each.line)
            (each.key,) = keys.of(Batch(each.line.partition, [event]), [event], Tally())
        wanted = sorted({each.key.key for each in owed if each.key is not None})
        await self.ground.in_flight.reserve(set(wanted))
        for ledger in self.ground.claimed.ledgers:
            brought, bits = dict(await ledger.seen(wanted)), self.had.mask(ledger.sinks)
            before = set(brought)
            for each in owed:
                if each.key is None or not each.due & bits:
                    continue
                if brought.setdefault(each.key.key, each.key.brought_by) != each.key.brought_by:
                    each.due &= ~bits
                elif each.key.key in before:
                    each.recorded.add(ledger.name)
