"""What a verification finds: counts, and the gaps by name, as many as are worth naming. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

NAMED = 1000
"""Gaps that are named; their number is exact however many there are."""


class Gap(msgspec.Struct, frozen=True):
    """Something that is not accounted for.

    :ivar part: where it is missing: `journal`, `dead letters`, or a sink's name.
    :ivar event: its event's id, as the source gave it; empty of what is no event.
    :ivar what: what is the matter, in words; `where`: the event's place.
    :ivar help: a command that tells more, or mends it.
    """

    part: str
    what: str
    event: str = ""
    where: str = ""
    help: str = ""


class SinkFound(msgspec.Struct):
    """What was looked for in one sink.

    :ivar looked: whether it could be; `why`: why not.
    :ivar outputs: how many were looked for; `absent` of them are not there.
    :ivar left_out: by reason, how many events were delivered to it whose outputs nobody can tell today.
    """

    name: str
    kind: str
    looked: bool = True
    why: str = ""
    outputs: int = 0
    absent: int = 0
    left_out: Counter[str] = msgspec.field(default_factory=Counter)


class SourceFound(msgspec.Struct):
    """What the source holds of the range today.

    :ivar events: of the range, and those of no time that the journal, or nobody, knows; `journalled` of them have a line.
    :ivar not_read_yet: beyond the checkpoint; `gone`: lines whose events it does not hold any more.
    """

    kind: str
    looked: bool = False
    why: str = ""
    events: int = 0
    journalled: int = 0
    not_read_yet: int = 0
    gone: int = 0


class Findings(msgspec.Struct):
    """Everything that was found.

    :ivar outcomes: events by what has become of them by now; `received`: their number.
    :ivar again: lines of events that were received before, in the range, as after a checkpoint was reset.
    :ivar letters: dead letters of these events by status; `settled_and_gone`: those that retention may have removed.
    :ivar imported, older: dead letters of the range without a line: from elsewhere, or older than the journal.
    :ivar began: when the first event was received that the journal still holds; None: it holds none.
    """

    received: int = 0
    outcomes: Counter[str] = msgspec.field(default_factory=Counter)
    again: int = 0
    letters: Counter[str] = msgspec.field(default_factory=Counter)
    settled_and_gone: int = 0
    imported: int = 0
    older: int = 0
    began: float | None = None
    source: SourceFound | None = None
    sinks: list[SinkFound] = msgspec.field(default_factory=list)
    gaps: Counter[str] = msgspec.field(default_factory=Counter)
    named: dict[str, list[Gap]] = msgspec.field(default_factory=dict)

    def add(self, gap: Gap) -> None:
        """Count it, and name it where there is room."""
        self.count(gap.part)
        self.name(gap)

    def count(self, part: str, gaps: int = 1) -> None:
        """So many more in this part."""
        if gaps:
            self.gaps[part] += gaps

    def name(self, gap: Gap) -> None:
        """One that was counted."""
        named = self.named.setdefault(gap.part, [])
        if len(named) < NAMED:
            named.append(gap)

    @property
    def total(self) -> int:
        """How many gaps there are."""
        return sum(self.gaps.values())


def document(findings: Findings, head: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON values.

    :param head: what the report begins with: pipeline and range.
    """
    outcomes = {name: findings.outcomes[name] for name in ("delivered", "filtered", "deduplicated", "dead_lettered")}
    return {
        **head,
        "accounted": not findings.total,
        "journal": {"events": findings.received, **outcomes, "received_again": findings.again, "began": findings.began},
        "dead_letters": {
            **dict(sorted(findings.letters.items())),
            "settled_and_gone": findings.settled_and_gone,
            "imported": findings.imported,
            "older_than_the_journal": findings.older,
        },
        "source": msgspec.to_builtins(findings.source),
        "sinks": [msgspec.to_builtins(sink) for sink in findings.sinks],
        "gaps": findings.total,
        "gaps_by_part": dict(findings.gaps),
        "named": [msgspec.to_builtins(gap) for gap in shares(list(findings.named.values()), NAMED)],
    }


def shares(parts: Sequence[Sequence[T]], most: int) -> list[T]:
    """So many of all parts, as evenly as they have them, part by part."""
    chosen, left = list[T](), most
    order = sorted(range(len(parts)), key=lambda n: len(parts[n]))
    share = dict.fromkeys(order, 0)
    for place, n in enumerate(order):
        share[n] = min(len(parts[n]), left // (len(order) - place))
        left -= share[n]
    for n, part in enumerate(parts):
        chosen += part[: share[n]]
    return chosen
