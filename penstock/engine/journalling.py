"""What a run writes into its journal: a line for each event of a group, before the ledgers commit it (step 0).

    await journalling.write(group)                # the group's journal place is set
    await journalling.correct(group, places)      # where a ledger's sink refuses some events after all
    await journalling.commit()                    # once the commit stands; or `rollback`

What every ledger held already (`reread`) has its line. A replay writes of each event only what became of it.
"""

from __future__ import annotations

from binascii import b2a_hex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Literal

from penstock.clock import rfc3339
from penstock.engine.group import Group
from penstock.engine.letters import DECODE, SOURCE, letter_id
from penstock.engine.outcomes import unusual_outcomes
from penstock.engine.tally import Failure
from penstock.engine.work import Work
from penstock.errors import Permanent
from penstock.event import UNSET, Event
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
    no_json_text,
    outcome_text,
    routes_text,
    source_text,
)

DELIVERED = outcome_text("delivered", None, None)


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
        """The hot loop."""
        batch, at, reread = work.batch, rfc3339(work.received), work.verdicts.reread
        head, envelope = head_text(at, batch.partition, self.version) + b',"position":"', self._envelopes.of
        filled = work.events if len(work.events) == len(batch.events) else _filled(work)
        made, taken = self._made(work, filled), self._members(work)
        odd = {*reread, *unusual, *failures, *taken}
        texts, ids, times = lines.texts, lines.ids, lines.times
        for origin, event in enumerate(batch.events):
            went_in, said = filled[origin], b""
            if origin in odd:
                if origin in reread:
                    continue
                said = taken.get(origin, b"")
            outcome = self._outcome(event, unusual[origin], failures.get(origin)) if origin in unusual else DELIVERED
            if went_in is not event:
                said += given_text(event, went_in)
                if went_in.id != event.id:
                    lines.others[len(ids)] = event.id
            if event.record is not UNSET or event.original is not None or origin in failures:
                is_json = origin not in failures or failures[origin].step not in (SOURCE, DECODE)
                said += source_text(event, is_json)
                if not is_json:
                    went_in = went_in.replace(raw=None, decoded=UNSET)
            try:
                text = envelope(went_in)
            except Permanent as error:  # a source's own data; where it matters, a step or a sink has said so
                said += no_json_text(error.message)
                text = envelope(went_in.replace(raw=None, decoded=UNSET))
            if made is None:
                text = b'%b%b"%b%b,"event":%b}' % (head, b2a_hex(event.position), outcome, said, text)
            else:
                place = b2a_hex(event.position)
                text = b'%b%b"%b,"outputs":[%b]%b,"event":%b}' % (head, place, outcome, made.get(origin, b""), said, text)
            texts.append(text)
            ids.append(went_in.id)
            times.append(went_in.time or at)

    def _made(self, work: Work, received: Sequence[Event]) -> Mapping[int, bytes] | None:
        """By origin, what is kept of its outputs: JSON texts with commas between them."""
        if self.outputs == "off":
            return None
        kept = self._whole(work) if self.outputs == "full" else _check_values(work, received)
        origins = [event.origin for event in work.outputs]
        if origins == list(range(len(origins))):  # one for one
            return dict(enumerate(kept))
        made: dict[int, bytes] = {}
        for origin, text in zip(origins, kept, strict=True):
            made[origin] = b"%b,%b" % (made[origin], text) if origin in made else text
        return made

    def _whole(self, work: Work) -> list[bytes]:
        return [_or_null(self._envelopes.of, event) for event in work.outputs]

    def _members(self, work: Work) -> dict[int, bytes]:
        """By origin, what goes beside its outputs: `routes` and `answers`."""
        members = self._taken(work)
        for origin in work.answers:
            members[origin] = members.get(origin, b"") + _answers(work, origin)
        return members

    def _taken(self, work: Work) -> dict[int, bytes]:
        """By origin, which sinks take its outputs: beside whole ones, of which a check value would say it."""
        if self.outputs != "full" or work.routes is None:
            return {}
        masks: defaultdict[int, list[int]] = defaultdict(list)
        for event, mask in zip(work.outputs, work.routes, strict=True):
            masks[event.origin].append(mask)
        return {origin: routes_text(each) for origin, each in masks.items()}

    def _add_outcome(self, lines: Lines, group: Group, w: int, origin: int, outcome: Outcome, failure: Failure | None) -> None:
        """A line that says anew what became of an event."""
        work, version = group.works[w], self.version if group.turn is None else group.turn.version[:VERSION_DIGITS]
        event, at = work.batch.events[origin], rfc3339(work.received)
        head, said = head_text(at, work.batch.partition, version), self._outcome(event, outcome, failure)
        due = work.due.get(origin)
        sinks = None if due is None else [name for bit, name in enumerate(self.sinks) if due >> bit & 1]
        said += corrects_text(event.id, group.job, sinks)
        if group.job:
            said += _answers(work, origin)
        lines.texts.append(b'%b,"position":"%b"%b}' % (head, b2a_hex(event.position), said))
        lines.ids.append(event.id)
        lines.times.append(at)  # it is no event, and in no range

    def _outcome(self, event: Event, outcome: Outcome, failure: Failure | None) -> bytes:
        letter = letter_id(self.pipeline, event) if outcome == "dead_lettered" else None
        return outcome_text(outcome, failure.step if failure is not None else None, letter)


def _answers(work: Work, origin: int) -> bytes:
    answered = work.answers.get(origin)
    return b"" if answered is None else answers_text({step: b"[%b]" % b",".join(each) for step, each in answered.texts.items()})


def _check_values(work: Work, received: Sequence[Event]) -> list[bytes]:
    outputs, routes = work.outputs, work.routes
    masks = repeat(-1, len(outputs)) if routes is None else routes
    texts = [event.raw for event in outputs]
    together = zip(outputs, texts, masks, strict=True)
    if are_on_lines(texts):
        return [check_plain(event, received[event.origin], mask, text) for event, text, mask in together]  # type: ignore[arg-type]  # all there
    return [_or_null(check_value, event, received[event.origin], mask) for event, _, mask in together]


def _or_null(make: Callable[..., bytes], *arguments: Any) -> bytes:
    """What is kept of an output. Of one that has no JSON form the sink says so, and the line's outcome."""
    try:
        return make(*arguments)
    except Permanent:
        return b"null"


def _filled(work: Work) -> list[Event]:
    """The events as they went into the steps; those that did not get there, as they were read."""
    filled = list(work.batch.events)
    for event in work.events:
        filled[event.origin] = event
    return filled


def _times(works: Sequence[Work]) -> tuple[float, float]:
    received = [work.received for work in works]
    return min(received), max(received)
