"""One pass over the lines of a range: what has become of each event, whether its dead letter is there, and what each sink should
show of it."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from penstock.cloudevents import timestamp
from penstock.engine.letters import letter_id
from penstock.journal.digests import Digests, digest_of
from penstock.journal.known import name_of
from penstock.journal.lines import Line
from penstock.state.records import DeadLetter
from verify.findings import Findings
from verify.jobs import Deeds
from verify.letters import Failed, LetterCheck
from verify.lookers import Looker
from verify.outputs import Remaker
from verify.range import LineRange
from verify.standing import RUN, Delivery, Standing, standing_of
from verify.versions import SinkBook

REDEFINED = "the sink was defined otherwise then"
"""Why an event is not looked for in a sink of today."""


@dataclass(slots=True)
class Reckoning:
    """Goes through the range, and through what jobs delivered of it.

    :ivar seen: digests of the events that its lines tell of.
    :ivar tell: hears how many lines are behind it.
    """

    pipeline: str
    findings: Findings
    range: LineRange
    deeds: Deeds
    book: SinkBook
    remaker: Remaker
    lookers: Sequence[Looker]
    letters: LetterCheck
    tell: Callable[[int], None]
    seen: Digests = field(default_factory=Digests)
    by_jobs: array[int] = field(default_factory=lambda: array("Q"))
    _reached: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """The first pass."""
        async for number, lines in self.range.batches():
            await self.book.learn({lines[0].version})
            wanted, again = list[int](), set[int]()
            for place, line in enumerate(lines):
                standing = self.standing(line)
                if standing.outcome == "dead_lettered":
                    await self.letters.failed(self._failed(line))
                if not self._counts(line, standing):
                    continue
                if RUN in standing.deliveries:
                    wanted.append(place)
                if standing.has_deeds:
                    self.by_jobs.append(number + place)
                    again.add(place)
            alone = sum(place not in again for place in wanted)
            await self._want([(number + place, lines[place]) for place in wanted], alone)
            self.tell(number + len(lines))
        await self.letters.look()
        self.findings.received = self.range.marks.count - self.findings.again

    def _counts(self, line: Line, standing: Standing) -> bool:
        """Count what has become of its event. False where an earlier line tells of it."""
        if self._came_before(line) and line.outcome != "deduplicated":
            self.findings.again += 1
            return False
        self.findings.outcomes[standing.outcome] += 1
        return True

    def _came_before(self, line: Line) -> bool:
        """Whether an earlier line is of the same event: positions rise, but where a checkpoint was reset or a sink restored."""
        digest = digest_of(*name_of(line))
        is_known, reached = digest in self.seen, self._reached.get(line.partition, "")
        if not is_known:
            self.seen.add(digest)
        if line.position > reached:
            self._reached[line.partition] = line.position
            return False
        return is_known

    def _failed(self, line: Line) -> Failed:
        return Failed(name_of(line)[1], self._letter_id(line), timestamp(line.at), f"partition {line.partition}")

    def _letter_id(self, line: Line) -> str:
        """Of the dead letter that a line's event has, or would have."""
        return line.letter or letter_id(self.pipeline, line.received())

    async def _want(self, numbered: Sequence[tuple[int, Line]], alone: int) -> None:
        """What the run delivered of one batch.

        :param alone: how many of these no job delivered, too.
        """
        if not (numbered and self.lookers):
            return
        version = numbered[0][1].version
        lookers = self._asked(version, RUN, (), alone)
        if lookers:
            made = await self.remaker.of_run([line for _, line in numbered], self.book.names(version))
            for (number, _), outputs in zip(numbered, made, strict=True):
                for looker in lookers:
                    if isinstance(outputs, str):
                        looker.leave_out(outputs)
                    else:
                        looker.want(number, outputs)
        for looker in lookers:
            await looker.expect()

    def _asked(self, version: str, delivery: Delivery, covered: Collection[str], events: int) -> list[Looker]:
        """The sinks to look into for what was delivered under a version.

        :param covered: those that had it before.
        :param events: how many are left out where a sink is another one now.
        """
        names, asked = self.book.names(version), []
        for looker in self.lookers:
            if looker.inspection is None or looker.name in covered or not delivery.reaches(looker.name):
                continue
            if names is not None and looker.name not in names:
                continue
            if names is None or self.book.is_as_today(version, looker.name):
                asked.append(looker)
            else:
                looker.leave_out(REDEFINED, events)
        return asked

    def standing(self, line: Line) -> Standing:
        """What has become of the event of a line."""
        return standing_of(line, self.deeds.about(line), self.book.names, self.deeds.replays)

    async def run_jobs(self) -> None:
        """The second pass, where there is any need of it: what jobs delivered, behind everything that the run did."""
        if not (self.by_jobs and self.lookers):
            return
        first, token = self.range.marks.count, 0
        async for number, lines in self.range.batches():
            end = bisect_left(self.by_jobs, number + len(lines), token)
            chosen = [lines[each - number] for each in self.by_jobs[token:end]]
            for line, letter in zip(chosen, await self.letters_of(chosen), strict=True):
                await self._want_of_jobs(first + token, line, letter)
                token += 1
            for looker in self.lookers:
                await looker.expect()

    async def _want_of_jobs(self, token: int, line: Line, letter: DeadLetter | None) -> None:
        """Each sink is looked into for what it was given first."""
        covered, redefined = set[str](), set[str]()
        for delivery in self.standing(line).deliveries:
            version = line.version if delivery.deed is None else delivery.deed.kind.version
            await self.book.learn({version})
            lookers = [] if delivery.deed is None else self._asked(version, delivery, covered, 0)
            if lookers:
                made = await self.remaker.of_job(line, delivery, letter)
                for looker in lookers:
                    if isinstance(made, str):
                        looker.leave_out(made)
                    else:
                        looker.want(token, made)
            reached = {name for name in self.book.names(version) or () if delivery.reaches(name)}
            as_today = {name for name in reached if self.book.is_as_today(version, name)}
            covered, redefined = covered | as_today, redefined | (reached - as_today)
        for looker in self.lookers:
            if looker.inspection is not None and looker.name not in covered and looker.name in redefined:
                looker.leave_out(REDEFINED)

    async def letters_of(self, lines: Sequence[Line]) -> list[DeadLetter | None]:
        """Their dead letters, as far as they are still there; whole, where they were edited."""
        if not lines:
            return []
        ids = [self._letter_id(line) for line in lines]
        found = await self.letters.store.desk.found(ids)
        for letter in await self.letters.store.desk.whole([each for each in found.values() if each.edited is not None]):
            found[letter.id] = letter
        return [found.get(each) for each in ids]

    def event_of(self, token: int) -> int:
        """The number of the line that a number given to a sink stands for."""
        count = self.range.marks.count
        return token if token < count else self.by_jobs[token - count]
