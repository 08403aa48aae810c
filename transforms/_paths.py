"""Plain paths and literals, resolved without libjq: `.`, `.a.b`, `.a["b c"]`, `.items[0]`, `$event.id`, `"text"`, `-1.5`, `null`.

What libjq gives, these give, errors included; integers come exact. Anything else is left to libjq.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from penstock.cloudevents import ATTRIBUTES, to_structured
from penstock.errors import Permanent
from penstock.event import UNSET, Event, decode
from penstock.spi import View

Getter = Callable[[Event], Any]
"""Resolves one expression on one event; raises `Permanent`."""

_FIELD = r"\.[A-Za-z_][A-Za-z0-9_]*"
_STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'
_INDEX = rf"\[(?:{_STRING}|-?[0-9]{{1,9}})\]"
_STEP = re.compile(rf"\.?(?:{_INDEX})|\.{_STRING}|{_FIELD}", re.ASCII)
_PATH = re.compile(rf"(?P<root>\$event|\$steps)?(?P<path>(?:{_FIELD}|\.{_STRING}|\.?{_INDEX})*|\.)", re.ASCII)
_LITERAL = re.compile(rf"{_STRING}|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null", re.ASCII)

KINDS = {
    dict: "object",
    list: "array",
    tuple: "array",
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
}
"""What jq calls the type of a value."""


def native(program: str, view: View) -> Getter | None:
    """A getter for a plain path or literal, or None where libjq is needed."""
    text = program.strip(" \t\r\n")
    if _LITERAL.fullmatch(text):
        return _literal(text)
    match = _PATH.fullmatch(text)
    if match is None or not text or text[0] == "[" or (match["root"] and match["path"] == "."):
        return None
    if match["root"] and view != "data":
        return None
    try:
        steps = [_step(part) for part in _STEP.findall(match["path"])]
    except Permanent:  # a lone surrogate, which libjq replaces
        return None
    if match["root"] == "$steps":
        return _rooted(lambda event: event.steps or {}, steps)
    if match["root"] == "$event":
        return _of_event(steps)
    if view == "event":
        return _of_envelope(steps)
    return _of_data(steps, view)


def _literal(text: str) -> Getter | None:
    try:
        value = decode(text.encode())
    except Permanent:
        return None
    return lambda event: value


def _step(part: str) -> str | int:
    if part[-1] == "]":
        part = part[part.index("[") + 1 : -1]
    elif part[1] != '"':
        return part[1:]
    else:
        part = part[1:]
    return decode(part.encode()) if part[0] == '"' else int(part)


def walk(value: Any, steps: Sequence[str | int]) -> Any:
    """Follow a path as jq does: nothing in null is null, a missing key or index is null.

    :raises Permanent: `jq.error`, where a value cannot be indexed so.
    """
    for step in steps:
        kind = value.__class__
        if kind is dict and step.__class__ is str:
            value = value.get(step)
        elif (kind is list or kind is tuple) and step.__class__ is int:
            value = value[step] if -len(value) <= step < len(value) else None
        elif value is not None:
            raise _cannot_index(value, step)
    return value


def _cannot_index(value: Any, step: str | int) -> Permanent:
    kind = KINDS.get(value.__class__)
    if kind is None:
        return Permanent("jq.not_json", f"the data is no JSON value but {value.__class__.__name__}")
    key = f'string ("{step}")' if isinstance(step, str) else f"number ({step})"
    return Permanent("jq.error", f"Cannot index {kind} with {key}"[:200])


def _rooted(root: Getter, steps: Sequence[str | int]) -> Getter:
    return lambda event: walk(root(event), steps)


def _of_data(steps: Sequence[str | int], view: View) -> Getter:
    root = record if view == "record" else data
    if len(steps) == 1 and isinstance(steps[0], str):
        return _one_field(root, steps[0])
    return _rooted(root, steps)


def _one_field(root: Getter, field: str) -> Getter:
    steps = (field,)

    def get(event: Event) -> Any:
        value = root(event)
        if value.__class__ is dict:
            return value.get(field)
        return walk(value, steps)

    return get


def data(event: Event) -> Any:
    """The event's data, which must be JSON.

    :raises Permanent: `jq.not_json` for bytes, `decode.*`.
    """
    value = event.data
    if value.__class__ is bytes:
        kind = event.datacontenttype or "application/octet-stream"
        raise Permanent("jq.not_json", f"the data is no JSON but bytes of type {kind}")
    return value


def record(event: Event) -> Any:
    """What programs of the view `record` see."""
    value = event.record
    return data(event) if value is UNSET else value


def attributes(event: Event) -> dict[str, Any]:
    """`$event`: the attributes that the event has, by their CloudEvents names."""
    found: dict[str, Any] = {"specversion": "1.0"}
    for name in ATTRIBUTES:
        value = getattr(event, name)
        if value is not None:
            found[name] = value
    if event.extensions:
        found.update(event.extensions)
    return found


def _of_event(steps: Sequence[str | int]) -> Getter:
    if not steps:
        return attributes
    first, rest = steps[0], steps[1:]
    if first in ATTRIBUTES:
        name = str(first)
        return lambda event: walk(getattr(event, name), rest)
    return _rooted(attributes, steps)


def _of_envelope(steps: Sequence[str | int]) -> Getter:
    """Paths of the view `event`: `.data` and the attributes, without building the envelope around them."""
    if not steps:
        return envelope
    if steps[0] == "data":
        rest = steps[1:]
        return lambda event: None if event.data.__class__ is bytes else walk(event.data, rest)
    if steps[0] == "data_base64":
        return lambda event: walk(envelope(event), steps)
    return _of_event(steps)


def envelope(event: Event) -> dict[str, Any]:
    """The structured CloudEvent as Python values.

    :raises Permanent: as `envelope_json`.
    """
    value: dict[str, Any] = decode(envelope_json(event))
    return value


def envelope_json(event: Event) -> bytes:
    """The structured CloudEvent, its data checked.

    :raises Permanent: `decode.*`, and as `penstock.cloudevents.to_structured`.
    """
    event.data  # noqa: B018  decodes
    return to_structured(event)
