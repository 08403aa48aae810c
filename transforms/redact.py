"""The `redact` transform: masks, hashes or removes fields of the data.

What comes after this step does not see the values. A dead letter keeps the record as it came in, so keep the store private.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, ClassVar

import msgspec
from pydantic import Field, field_validator

from penstock.config.base import ComponentConfig, Secret
from penstock.errors import Permanent
from penstock.event import Event, decode
from penstock.spi import Context, Result
from transforms._outputs import with_data
from transforms._paths import KINDS

_STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'
_STEP = re.compile(rf"\.([A-Za-z_][A-Za-z0-9_]*)|\.?\[({_STRING})\]|\.({_STRING})|\.?\[([0-9]{{1,9}})\]|\.?(\[\])", re.ASCII)
_EVERY = object()
_DIGEST_BYTES = 16

_canonical = msgspec.json.Encoder(order="sorted").encode


class RedactConfig(ComponentConfig):
    """Fields of the `redact` transform."""

    shorthand: ClassVar[str | None] = "fields"

    fields: tuple[str, ...] = Field(
        min_length=1,
        description="Paths of the values: `.customer.email`, `.cards[].number` (in every item). A path that leads to nothing is "
        "fine; one that leads through text or a number is an error, since the value may be there in another form.",
        examples=[[".customer.email", ".cards[].number"]],
    )
    replacement: str = Field(
        "***",
        alias="with",
        description="`remove` takes the field away, `hash` puts a digest in its place (equal values, equal digests), any other "
        "text is put there itself.",
        examples=["hash"],
    )
    key: Secret | None = Field(
        None,
        description="Key of the digest, at most 64 bytes. Without it, short values such as telephone numbers can be guessed.",
        examples=["${file:/run/secrets/redact}"],
    )

    @field_validator("fields")
    @classmethod
    def _check_fields(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        for text in fields:
            _steps(text)
        return fields

    @field_validator("key")
    @classmethod
    def _check_key(cls, key: Secret | None) -> Secret | None:
        if key is not None and not 0 < len(key.reveal().encode()) <= blake2b.MAX_KEY_SIZE:
            raise ValueError(f"the key must have 1 to {blake2b.MAX_KEY_SIZE} bytes")
        return key


class Redact:
    """Masks, hashes or removes fields of the data."""

    name: ClassVar[str] = "redact"
    Config: ClassVar[type[RedactConfig]] = RedactConfig

    def __init__(self, config: RedactConfig, context: Context) -> None:
        self._paths = [(text, _steps(text)) for text in config.fields]
        self._remove = config.replacement == "remove"
        self._new = _digest(config.key) if config.replacement == "hash" else lambda value: config.replacement

    def apply(self, events: Sequence[Event], /) -> list[Result]:
        results: list[Result] = []
        for event in events:
            try:
                results.append(self._redacted(event))
            except Permanent as error:
                results.append(error)
        return results

    def _redacted(self, event: Event) -> Event:
        data = event.data
        for text, steps in self._paths:
            data = self._replace(data, steps, text)
        return event if data is event.data else with_data(event, data)

    def _replace(self, value: Any, steps: Sequence[Any], path: str) -> Any:
        """The value with what the path leads to replaced; the same object where that is nothing."""
        if value is None:
            return value
        step, rest = steps[0], steps[1:]
        if isinstance(step, str) and isinstance(value, dict):
            return self._in_items(value, [step] if step in value else [], rest, path)
        if not isinstance(step, str) and isinstance(value, (list, tuple)):
            places = range(len(value)) if step is _EVERY else range(step, min(step + 1, len(value)))
            return self._in_items(list(value), places, rest, path)
        kind = KINDS.get(value.__class__, "foreign")
        raise Permanent(
            "redact.wrong_path",
            f"{path} leads through a value of type {kind}",
            help="name the field as it is in this data",
            where=path,
        )

    def _in_items(self, value: Any, places: Sequence[Any], rest: Sequence[Any], path: str) -> Any:
        if not places:
            return value
        changed = value.copy()
        if not rest and self._remove:
            for place in reversed(places):
                del changed[place]
            return changed
        for place in places:
            changed[place] = self._replace(value[place], rest, path) if rest else self._new(value[place])
        return changed


def _digest(key: Secret | None) -> Callable[[Any], str]:
    secret = b"" if key is None else key.reveal().encode()

    def digest(value: Any) -> str:
        return blake2b(_canonical(value), digest_size=_DIGEST_BYTES, key=secret).hexdigest()

    return digest


def _steps(text: str) -> list[Any]:
    """The steps of a path: names, indexes, and `_EVERY` for `[]`.

    :raises ValueError: it is no path.
    """
    steps: list[Any] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None or (at == 0 and text[0] != "."):
            raise ValueError(f"{text!r} is no path: write .customer.email or .cards[].number")
        name, quoted, dotted, index, every = match.groups()
        if every:
            steps.append(_EVERY)
        elif index:
            steps.append(int(index))
        else:
            steps.append(name or decode((quoted or dotted).encode()))
        at = match.end()
    if not steps:
        raise ValueError("an empty path names nothing")
    return steps
