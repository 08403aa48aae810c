"""The `set` transform: changes attributes of the event; the data stays. A step's `set:` is the same."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec.structs import replace
from pydantic import ConfigDict, Field, model_validator

from penstock.cloudevents import check_extension, computed_attribute, is_extension_name
from penstock.config.base import ComponentConfig, DataField
from penstock.errors import Permanent
from penstock.event import Event
from penstock.spi import Context, Result

_FIELDS = {"partition_key": "partitionkey"}


class SetConfig(ComponentConfig):
    """Fields of the `set` transform. Any further name is an extension attribute (1 to 20 characters a-z and 0-9).

    Each value is jq over the data, with `$event` and `$steps`, where it begins with `.`, `$`, `"`, `(`, `[`, `{` or `if `; any
    other is a literal. A result of `null` takes the attribute away.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, DataField]

    id: DataField | None = Field(None, description="Identifies the event, together with `source`.")
    source: DataField | None = Field(None, description="Where the event comes from: a URI reference.")
    type: DataField | None = Field(None, description="What happened.", examples=["order.enriched"])
    time: DataField | None = Field(None, description="When it happened: RFC 3339 with an offset.", examples=[".paid_at"])
    subject: DataField | None = Field(None, description="What it happened to.", examples=[".order_id | tostring"])
    partition_key: DataField | None = Field(None, description="Events with the same key keep their order.")
    dataschema: DataField | None = Field(None, description="Names the schema of the data: a URI.")

    @model_validator(mode="after")
    def _check_names(self) -> SetConfig:
        extras = self.__pydantic_extra__ or {}
        known = sorted(type(self).model_fields)
        for name in extras:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            if close:
                raise ValueError(f"unknown attribute {name!r}: did you mean {close[0]!r}?")
            if not is_extension_name(name):
                raise ValueError(f"{name!r} can be no extension attribute: 1 to 20 characters a-z and 0-9, no core attribute")
        if not self.given():
            raise ValueError("at least one attribute is needed")
        return self

    def given(self) -> dict[str, str]:
        """The expressions, by CloudEvents attribute name."""
        fields = {name: getattr(self, name) for name in type(self).model_fields} | (self.__pydantic_extra__ or {})
        return {_FIELDS.get(name, name): value for name, value in fields.items() if value is not None}


class Set:
    """Changes attributes of the event."""

    name: ClassVar[str] = "set"
    Config: ClassVar[type[SetConfig]] = SetConfig

    def __init__(self, config: SetConfig, context: Context) -> None:
        given = config.given()
        self._extensions = frozenset(config.__pydantic_extra__ or {})
        self._names = tuple(given)
        self._fields = context.expressions.fields(given, "data")

    def apply(self, events: Sequence[Event], /) -> list[Result]:
        results: list[Result] = []
        for event, values in zip(events, self._fields(events), strict=True):
            if not isinstance(values, tuple):
                results.append(values)
                continue
            try:
                results.append(self._changed(event, values))
            except Permanent as error:
                results.append(error)
        return results

    def _changed(self, event: Event, values: tuple[Any, ...]) -> Event:
        changes: dict[str, Any] = {}
        extensions = dict(event.extensions or {}) if self._extensions else {}
        for name, value in zip(self._names, values, strict=True):
            if name not in self._extensions:
                changes[name] = computed_attribute(name, value)
            elif value is None:
                extensions.pop(name, None)
            else:
                check_extension(name, value)
                extensions[name] = value
        if self._extensions:
            changes["extensions"] = extensions or None
        return replace(event, **changes)
