"""Events for people: as JSON of several lines, and what one has that the other has not, path by path. All made printable."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from penstock.cli.terminal import Style
from penstock.cloudevents import to_structured
from penstock.engine.prepare import canonical
from penstock.errors import Permanent
from penstock.event import Event, decode, encode
from penstock.observe.text import printable, printable_json, shorten

SHOWN_LINES = 200
SHOWN_WIDTH = 400
_SHOWN_CHANGES = 60
_VALUE = 100
_PAIR = 60
"""Characters up to which old and new value stand on one line."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Change(NamedTuple):
    """One difference: `old` counts for what was removed or changed, `new` for what was added or changed."""

    kind: Literal["added", "removed", "changed"]
    path: str
    old: Any = None
    new: Any = None


def event_document(event: Event) -> Any:
    """The event as a CloudEvent; what has no JSON form as text that says so."""
    try:
        document = decode(to_structured(event))
    except Permanent as error:
        return f"no JSON form: {error.message}"
    document.pop("specversion")
    return document


def document_lines(document: Any) -> list[str]:
    """JSON of several lines; says what it leaves out."""
    text = printable_json(msgspec.json.format(encode(document), indent=2)).decode()
    lines = text.split("\n")
    left = len(lines) - SHOWN_LINES
    shown = [shorten(line, SHOWN_WIDTH) for line in lines[:SHOWN_LINES]]
    return [*shown, f"… {left:,} more lines: --json has all of it"] if left > 0 else shown


def value_text(value: Any, length: int = _VALUE) -> str:
    """JSON on one line, shortened."""
    return shorten(printable(encode(value).decode()), length)


def diff_lines(before: Event, after: Event, style: Style) -> list[str]:
    """What changed from one event to the other; none where nothing did."""
    return document_diff(event_document(before), event_document(after), style)


def document_diff(old: Any, new: Any, style: Style) -> list[str]:
    """A line for each path that was added (`+`), removed (`-`) or changed (`~`, old → new). The order of keys is no change, how
    a number is written is one (1 and 1.0)."""
    found = list(changes(old, new))
    lines = [line for change in found[:_SHOWN_CHANGES] for line in _told(change, style)]
    left = len(found) - _SHOWN_CHANGES
    return [*lines, f"… {left:,} more changes: --json has all of them"] if left > 0 else lines


def changes(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """Every difference of two JSON values, in their order."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            inner = path + _step(key)
            yield from changes(value, new[key], inner) if key in new else [Change("removed", inner, value)]
        yield from (Change("added", path + _step(key), None, value) for key, value in new.items() if key not in old)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _list_changes(old, new, path)
    elif canonical(old) != canonical(new):
        yield Change("changed", path or ".", old, new)


def _list_changes(old: list[Any], new: list[Any], path: str) -> Iterator[Change]:
    """Item by item where there are as many; else what lies between the items that both begin and end with."""
    if len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from changes(before, after, f"{path}[{index}]")
        return
    first, second = [canonical(item) for item in old], [canonical(item) for item in new]
    shorter = min(len(old), len(new))
    head = next((n for n in range(shorter) if first[n] != second[n]), shorter)
    tail = next((n for n in range(shorter - head) if first[-1 - n] != second[-1 - n]), shorter - head)
    yield from (Change("removed", f"{path}[{n}]", old[n]) for n in range(head, len(old) - tail))
    yield from (Change("added", f"{path}[{n}]", None, new[n]) for n in range(head, len(new) - tail))


def _step(key: str) -> str:
    return f".{key}" if _PLAIN.fullmatch(key) else f"[{encode(key).decode()}]"


def _told(change: Change, style: Style) -> Iterator[str]:
    path = printable(change.path)
    old, new = value_text(change.old), value_text(change.new)
    if change.kind == "added":
        yield style.green(f"+ {path}  {new}")
    elif change.kind == "removed":
        yield style.minus(f"- {path}  {old}")
    elif len(old) + len(new) <= _PAIR:
        yield f"~ {path}  {style.minus(old)} → {style.green(new)}"
    else:
        yield style.minus(f"- {path}  {old}")
        yield style.green(f"+ {path}  {new}")


def pairs(inputs: Sequence[Event], outputs: Sequence[Event]) -> list[tuple[Event | None, list[Event]]]:
    """Which outputs a step made of which input: by their ids, where those tell it; else all of all (None)."""
    if len(inputs) == 1:
        return [(inputs[0], list(outputs))]
    if len(inputs) == len(outputs):
        return [(before, [after]) for before, after in zip(inputs, outputs, strict=True)]
    left = list(outputs)
    found: list[tuple[Event | None, list[Event]]] = []
    for before in inputs:
        made = [after for after in left if after.id == before.id or after.id.rpartition("-")[0] == before.id]
        left = [after for after in left if all(after is not each for each in made)]
        found.append((before, made))
    return [(None, list(outputs))] if left else found
