"""What a run writes into its journal: a line for each event of a group, before the ledgers commit it (step 0).

    await journalling.write(group)                # the group's journal place is set
    await journalling.correct(group, places)      # where a ledger's sink refuses some events after all
    await journalling.commit()                    # once the commit stands; or `rollback`

What every ledger held already (`reread`) has its line. A replay writes of each event only what became of it.
"""

from __future__ import annotations

from binascii import b2a_hex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import is_
from typing import Any, Literal

from penstock.clock import rfc3339
from penstock.engine.group import Group
from penstock.engine.letters import DECODE, SOURCE, letter_id
from penstock.engine.outcomes import unusual_outcomes
from penstock.engine.tally import Failure
from penstock.engine.work import Work
from penstock.errors import Permanent
from penstock.event import UNSET, Event
from penstock.journal.columns import Column, check_column, event_columns, lines_of, same_envelopes
from penstock.journal.encoding import Lines
from penstock.journal.journal import Journal
from penstock.journal.lines import (
    VERSION_DIGITS,
    Envelopes,
    Outcome,
    answers_text,
    are_on_lines,
    check_plain,
    check_value,
    corrects_text,
    given_text,
    head_text,
    outcome_text,
    routes_text,
    source_text,
)

DELIVERED = outcome_text("delivered", None, None)
ALL_SINKS = 0xFFFFFFFF
"""The bit mask of an output that all sinks take."""


@dataclass(slots=True)
class Journalling:
    """The journal of one run.

    :ivar outputs: what is kept of the events that were made.
    :ivar sinks: their names, in order.
    """

    journal: Journal
    pipeline: str
    version: str
    outputs: Literal["off", "digest", "full"]
    sinks: Sequence[str] = ()
    _envelopes: Envelopes = field(default_factory=Envelopes)

    async def write(self, group: Group) -> None:
        """:raises Unavailable, EnvironmentFault: as `Journal.append`; nothing was written."""
        if group.journal:  # written by an attempt whose commit failed later
            return
        lines = self._lines(group)
        group.journal = await self.journal.append(lines) if lines else self.journal.place()

    async def correct(self, group: Group, places: Sequence[tuple[int, int]]) -> None:
        """These events of the group, by work and origin, are dead letters, which their lines do not say. Raises as `write`."""
        lines = Lines(_times(group.works), corrections=True)
        for w, origin in places:
            self._add_outcome(lines, group, w, origin, "dead_lettered", next(iter(group.failed[w, origin].values())))
        if lines:
            group.journal = await self.journal.append(lines)

    async def commit(self) -> None:
        """As `Journal.commit`."""
        await self.journal.commit()

    async def rollback(self) -> None:
        """As `Journal.rollback`."""
        await self.journal.rollback()

    def _lines(self, group: Group) -> Lines:
        lines = Lines(_times(group.works), corrections=bool(group.job))
        for w, work in enumerate(group.works):
            failures = {origin: next(iter(sinks.values())) for (place, origin), sinks in group.failed.items() if place == w}
            failures = {**failures, **work.failures}
            unusual = unusual_outcomes(work, group.refused_origins(w))
            if group.job:
                for origin in range(len(work.batch.events)):
                    self._add_outcome(lines, group, w, origin, unusual.get(origin, "delivered"), failures.get(origin))
            else:
                self._add_work(lines, work, unusual, failures)
        return lines

    def _add_work(self, lines: Lines, work: Work, unusual: Mapping[int, Outcome], failures: Mapping[int, Failure]) -> None:
        """The hot path: the lines of a batch are made column by column (`penstock.journal.columns`)."""
        received, at, filled = work.batch.events, rfc3339(work.received), _filled(work)
        made, said = self._made(work, filled), self._said(work, filled, failures)
        filled = _readable(filled, failures)
        outputs: list[Column] = [] if made is None else [b',"outputs":[', made, b"]"]
        alike = event_columns(filled)
        events: list[Column] = [b',"event":', *alike] if alike else [list(map(self._envelopes.members, filled))]
        columns: list[Column] = [
            head_text(at, work.batch.partition, self.version) + b',"position":"',
            [b2a_hex(event.position) for event in received],
            b'"',
            self._outcomes(work, unusual, failures),
            *outputs,
            [said.get(origin, b"") for origin in range(len(received))] if said else b"",
            *events,
            b"}",
        ]
        texts = lines_of(columns, len(received))
        reread = work.verdicts.reread
        kept = [origin for origin in range(len(received)) if origin not in reread] if reread else range(len(received))
        for line, origin in enumerate(kept if filled is not received else (), len(lines.ids)):
            if filled[origin].id != received[origin].id:
                lines.others[line] = received[origin].id
        lines.texts += [texts[origin] for origin in kept] if reread else texts
        lines.ids += [filled[origin].id for origin in kept]
        lines.times += [filled[origin].time or at for origin in kept]

    def _outcomes(self, work: Work, unusual: Mapping[int, Outcome], failures: Mapping[int, Failure]) -> Column:
        if not unusual:
            return DELIVERED
        texts = [DELIVERED] * len(work.batch.events)
        for origin, outcome in unusual.items():
            texts[origin] = self._outcome(work.batch.events[origin], outcome, failures.get(origin))
        return texts

    def _said(self, work: Work, filled: Sequence[Event], failures: Mapping[int, Failure]) -> defaultdict[int, bytes]:
        """By origin, the members between the outputs and the event: of most events none."""
        said, received = self._members(work), work.batch.events
        if not all(map(is_, filled, received)):
            for origin, event in enumerate(received):
                if given := given_text(event, filled[origin]):
                    said[origin] += given
        more = [origin for origin, event in enumerate(received) if event.record is not UNSET or event.original is not None]
        for origin in {*more, *failures}:
            said[origin] += source_text(received[origin], not _is_unreadable(failures.get(origin)))
        return said

    def _made(self, work: Work, filled: Sequence[Event]) -> list[bytes] | None:
        """By origin, what is kept of its outputs: JSON texts with commas between them."""
        if self.outputs == "off":
            return None
        origins = [event.origin for event in work.outputs]
        one_for_one = origins == list(range(len(filled)))
        made_of = filled if one_for_one else [filled[origin] for origin in origins]
        kept = self._whole(work) if self.outputs == "full" else _check_values(work, made_of)
        if one_for_one:
            return kept
        made = [b""] * len(filled)
        for origin, text in zip(origins, kept, strict=True):
            made[origin] = b"%b,%b" % (made[origin], text) if made[origin] else text
        return made

    def _whole(self, work: Work) -> list[bytes]:
        return [_or_null(self._envelopes.of, event) for event in work.outputs]

    def _members(self, work: Work) -> defaultdict[int, bytes]:
        """By origin, what goes beside its outputs: `routes` and `answers`."""
        members = self._taken(work)
        for origin in work.answers:
            members[origin] += _answers(work, origin)
        return members

    def _taken(self, work: Work) -> defaultdict[int, bytes]:
        """By origin, which sinks take its outputs: beside whole ones, of which a check value would say it."""
        if self.outputs != "full" or work.routes is None:
            return defaultdict(bytes)
        masks: defaultdict[int, list[int]] = defaultdict(list)
        for event, mask in zip(work.outputs, work.routes, strict=True):
            masks[event.origin].append(mask)
        return defaultdict(bytes, {origin: routes_text(each) for origin, each in masks.items()})

    def _add_outcome(self, lines: Lines, group: Group, w: int, origin: int, outcome: Outcome, failure: Failure | None) -> None:
        """A line that says anew what became of an event."""
        work, version = group.works[w], self.version if group.turn is None else group.turn.version[:VERSION_DIGITS]
        event, at = work.batch.events[origin], rfc3339(work.received)
        head, said = head_text(at, work.batch.partition, version), self._outcome(event, outcome, failure)
        said += corrects_text(event.id, group.job, self._meant(work, origin))
        if group.job:
            said += _answers(work, origin)
        lines.texts.append(b'%b,"position":"%b"%b}' % (head, b2a_hex(event.position), said))
        lines.ids.append(event.id)
        lines.times.append(at)  # it is no event, and in no range

    def _meant(self, work: Work, origin: int) -> list[str] | None:
        """The sinks that a job is for with an event; None: all."""
        due, owed = work.due.get(origin, -1), work.owed.get(origin)
        meant = [
            name for bit, name in enumerate(self.sinks) if due >> bit & 1 and (owed is None or work.sink_ledgers[bit] in owed)
        ]
        return None if len(meant) == len(self.sinks) else meant

    def _outcome(self, event: Event, outcome: Outcome, failure: Failure | None) -> bytes:
        letter = letter_id(self.pipeline, event) if outcome == "dead_lettered" else None
        return outcome_text(outcome, failure.step if failure is not None else None, letter)


def _answers(work: Work, origin: int) -> bytes:
    answered = work.answers.get(origin)
    return b"" if answered is None else answers_text({step: b"[%b]" % b",".join(each) for step, each in answered.texts.items()})


def _check_values(work: Work, made_of: Sequence[Event]) -> list[bytes]:
    outputs, texts = work.outputs, [event.raw for event in work.outputs]
    masks: Iterable[int] = repeat(ALL_SINKS, len(outputs)) if work.routes is None else [mask & ALL_SINKS for mask in work.routes]
    if not are_on_lines(texts):
        return [_or_null(check_value, *each) for each in zip(outputs, made_of, masks, strict=True)]
    on_lines: list[bytes] = texts  # type: ignore[assignment]  # all there
    if same_envelopes(outputs, made_of):
        return check_column(on_lines, masks)
    return [check_plain(*each) for each in zip(outputs, made_of, masks, on_lines, strict=True)]


def _or_null(make: Callable[..., bytes], *arguments: Any) -> bytes:
    """What is kept of an output. Of one that has no JSON form the sink says so, and the line's outcome."""
    try:
        return make(*arguments)
    except Permanent:
        return b"null"


def _filled(work: Work) -> Sequence[Event]:
    """The events as they went into the steps; those that did not get there, as they were read."""
    if len(work.events) == len(work.batch.events):
        return work.events
    filled = list(work.batch.events)
    for event in work.events:
        filled[event.origin] = event
    return filled


def _readable(filled: Sequence[Event], failures: Mapping[int, Failure]) -> Sequence[Event]:
    """The same; of records that are no JSON, without the data."""
    unreadable = [origin for origin, failure in failures.items() if _is_unreadable(failure)]
    if not unreadable:
        return filled
    readable = list(filled)
    for origin in unreadable:
        readable[origin] = filled[origin].replace(raw=None, decoded=UNSET)
    return readable


def _is_unreadable(failure: Failure | None) -> bool:
    return failure is not None and failure.step in (SOURCE, DECODE)


def _times(works: Sequence[Work]) -> tuple[float, float]:
    received = [work.received for work in works]
    return min(received), max(received)
