"""Results of parts of a range, put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from backfill.request import MOST_CAUSES, SAMPLES, LetterGroup, Result, StepFlow


def merge(into: Result, part: Result) -> None:
    """What another part of the range came to."""
    for name in ("read", "left_out", "delivered", "filtered", "deduplicated", "dead_lettered", "outputs", "other_letters"):
        setattr(into, name, getattr(into, name) + getattr(part, name))
    _add(into.sinks, part.sinks)
    for step, flow in part.steps.items():
        mine = into.steps.setdefault(step, StepFlow())
        for name in StepFlow.__struct_fields__:
            setattr(mine, name, getattr(mine, name) + getattr(flow, name))
    for key, group in part.letters.items():
        _merge_letters(into, key, group)
    _merge_samples(into, part)
    _add(into.unlike, part.unlike)
    _add(into.unanswered, part.unanswered)
    if into.comparison is not None and part.comparison is not None:
        into.comparison.merge(part.comparison)


def _add(into: dict[str, int], part: Mapping[str, int]) -> None:
    for name, count in part.items():
        into[name] = into.get(name, 0) + count


def _merge_letters(into: Result, key: str, group: LetterGroup) -> None:
    if key in into.letters:
        into.letters[key].count += group.count
    elif len(into.letters) < MOST_CAUSES:
        into.letters[key] = group
    else:
        into.other_letters += group.count


def _merge_samples(into: Result, part: Result) -> None:
    """The first of each sink."""
    held = Counter(sink for sample in into.samples for sink in sample.sinks)
    for sample in part.samples:
        if any(held[sink] < SAMPLES for sink in sample.sinks):
            into.samples.append(sample)
            held.update(sample.sinks)
