"""What another version makes of the same events, compared with what was made of them: counted, grouped by cause, with examples.

    comparison = Comparison(ignored)
    comparison.identical(outcome, outputs)      # known to be equal, by their check values
    comparison.add(event_id, before, after)     # anything else
    comparison.clean, comparison.causes()

Outputs are CloudEvents in structured form, each with the sinks that take it. Of one received event they are paired by id, then in
order. Memory is bounded: beyond `MOST_CAUSES`, further causes share one. All of it can be written as JSON and read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from backfill.differences import Difference, differences

MOST_CAUSES = 500
EXAMPLES = 3
LONGEST_EXAMPLE = 2000
"""Characters of a value that an example keeps, as JSON."""
OTHERS = "(other places)"

Output = Mapping[str, Any]


class Made(msgspec.Struct, frozen=True):
    """What one version made of one received event.

    :ivar outcome: `delivered`, `filtered` or `dead_lettered`.
    :ivar outputs: CloudEvents, with the sinks that take them as members of `sinks`.
    :ivar failure: step and code, where it failed.
    """

    outcome: str
    outputs: Sequence[Output] = ()
    failure: str = ""


class Example(msgspec.Struct):
    """One difference as it was found.

    :ivar event: id of the received event.
    :ivar before, after: the values, as JSON text, cut where they are very long; None where there was nothing.
    :ivar weight: how far apart they are.
    """

    event: str
    before: str | None
    after: str | None
    weight: float


class Cause(msgspec.Struct):
    """Differences of one kind at one place.

    :ivar path: as in jq; in parentheses where it is the output as a whole, or its failure.
    :ivar kind: `added`, `removed`, `changed` or `type`.
    """

    path: str
    kind: str
    count: int = 0
    examples: list[Example] = []

    def add(self, event: str, found: Difference) -> None:
        """Keeps the first, and of the others those that differ most."""
        self.count += 1
        weight = _distance(found.before, found.after)
        if len(self.examples) < EXAMPLES or weight > self._least().weight:
            self._keep(Example(event, _text(found.before), _text(found.after), weight))

    def merge(self, other: Cause) -> None:
        """The same cause in another part of the range."""
        self.count += other.count
        for example in other.examples:
            if len(self.examples) < EXAMPLES or example.weight > self._least().weight:
                self._keep(example)

    def _keep(self, example: Example) -> None:
        if len(self.examples) >= EXAMPLES:
            self.examples.remove(self._least())
        self.examples.append(example)

    def _least(self) -> Example:
        return min(self.examples[1:], key=lambda example: example.weight)


class Comparison(msgspec.Struct):
    """Counts outputs: `same`, `changed`, `missing` (made before, not now), `extra` (made now, not before).

    :ivar ignored: places, as in jq, whose differences do not count, with all that lies below them.
    :ivar events: received events that were compared.
    :ivar outcomes: how many of them went from which outcome to which.
    :ivar by_place: the causes, by kind and path.
    """

    ignored: list[str] = []
    events: int = 0
    same: int = 0
    changed: int = 0
    missing: int = 0
    extra: int = 0
    outcomes: dict[str, dict[str, int]] = {}
    by_place: dict[str, Cause] = {}

    @property
    def clean(self) -> bool:
        """Whether nothing differs: outputs, outcomes, reasons of failures."""
        return not self.by_place and all(list(after) == [before] for before, after in self.outcomes.items())

    def identical(self, outcome: str, outputs: int) -> None:
        """A received event of which the same was made."""
        self._count_outcome(outcome, outcome)
        self.same += outputs

    def add(self, event: str, before: Made, after: Made) -> None:
        """A received event, as it was and as it is."""
        self._count_outcome(before.outcome, after.outcome)
        if before.failure != after.failure:
            self._note(event, Difference("(failure)", "changed", before.failure or None, after.failure or None))
        for old, new in _pairs(before.outputs, after.outputs):
            if old is None:
                self.extra += 1
                self._note(event, Difference("(output)", "added", None, new))
            elif new is None:
                self.missing += 1
                self._note(event, Difference("(output)", "removed", old, None))
            else:
                self._compare(event, old, new)

    def merge(self, other: Comparison) -> None:
        """What another part of the range showed."""
        for name in ("events", "same", "changed", "missing", "extra"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for before, to in other.outcomes.items():
            mine = self.outcomes.setdefault(before, {})
            for after, count in to.items():
                mine[after] = mine.get(after, 0) + count
        for cause in other.by_place.values():
            self._cause(cause.path, cause.kind).merge(cause)

    def causes(self) -> list[Cause]:
        """Most frequent first."""
        return sorted(self.by_place.values(), key=lambda cause: (-cause.count, cause.path))

    def _count_outcome(self, before: str, after: str) -> None:
        self.events += 1
        to = self.outcomes.setdefault(before, {})
        to[after] = to.get(after, 0) + 1

    def _compare(self, event: str, old: Output, new: Output) -> None:
        found = [each for each in differences(old, new) if not self._is_ignored(each.path)]
        if found:
            self.changed += 1
        else:
            self.same += 1
        for each in found:
            self._note(event, each)

    def _note(self, event: str, found: Difference) -> None:
        self._cause(found.path, found.kind).add(event, found)

    def _cause(self, path: str, kind: str) -> Cause:
        cause = self.by_place.get(f"{kind} {path}")
        if cause is None:
            path = path if len(self.by_place) < MOST_CAUSES else OTHERS
            cause = self.by_place.setdefault(f"{kind} {path}", Cause(path, kind))
        return cause

    def _is_ignored(self, path: str) -> bool:
        return any(path == place or path.startswith((f"{place}.", f"{place}[")) for place in self.ignored)


def _pairs(before: Sequence[Output], after: Sequence[Output]) -> Iterator[tuple[Output | None, Output | None]]:
    """Outputs that belong together: of the same id, then in order."""
    left = list(after)
    unpaired = []
    for old in before:
        place = next((i for i, new in enumerate(left) if new.get("id") == old.get("id")), None)
        if place is None:
            unpaired.append(old)
        else:
            yield old, left.pop(place)
    for n in range(max(len(unpaired), len(left))):
        yield unpaired[n] if n < len(unpaired) else None, left[n] if n < len(left) else None


def _distance(before: Any, after: Any) -> float:
    """How far apart the two are: of numbers, relative to the larger; of anything else, more than of any numbers."""
    numbers = isinstance(before, (int, float)) and isinstance(after, (int, float))
    if numbers and not isinstance(before, bool) and not isinstance(after, bool):
        largest = max(abs(before), abs(after))
        return abs(before / largest - after / largest) if largest else 0.0
    return 3.0


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST_EXAMPLE else text[: LONGEST_EXAMPLE - 1] + "…"
