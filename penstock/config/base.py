"""What every component's configuration is made of: the base model, and field types for values with a unit or a secret.

A component declares `Config(ComponentConfig)` with a description for every field; its reference page, its part of the JSON Schema
and its error messages come from there. The loader validates in pydantic's strict JSON mode: a list may fill a tuple, a string
never becomes a number.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from penstock.config.secret import Secret
from penstock.config.units import (
    DURATION_PATTERN,
    RATE_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)
from penstock.spi import View

__all__ = [
    "ComponentConfig",
    "DataField",
    "DataProgram",
    "Duration",
    "EventField",
    "EventProgram",
    "Jq",
    "ProjectPath",
    "Rate",
    "RecordField",
    "RecordProgram",
    "Secret",
    "Size",
]


class ComponentConfig(BaseModel):
    """Base of the `Config` of every source, transform and sink: frozen, strict, unknown fields refused.

    :cvar shorthand: the field that a bare value fills, so that `jq: .total` means `jq: {program: .total}`.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        validate_by_name=True,
        validate_by_alias=True,
    )

    shorthand: ClassVar[str | None] = None


class Jq:
    """Marks a field that holds jq, so that lint compiles it and names the line.

    :param view: what the program sees (`penstock.spi.Expressions`).
    :param literal: a value that does not begin like jq is a literal, as under `event:` and `set:`.
    """

    __slots__ = ("literal", "view")

    def __init__(self, view: View, *, literal: bool = False) -> None:
        self.view = view
        self.literal = literal


def _json_schema(pattern: str, example: str, *types: str) -> WithJsonSchema:
    text: dict[str, Any] = {"type": "string", "pattern": pattern, "examples": [example]}
    return WithJsonSchema({"anyOf": [text, *({"type": kind, "minimum": 0} for kind in types)]} if types else text)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    _json_schema(DURATION_PATTERN, "30s"),
]
"""Seconds; written `500ms`, `30s`, `5m`, `24h`, `7d`."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str, when_used="json"),
    _json_schema(SIZE_PATTERN, "10MiB", "integer"),
]
"""Bytes; written `512B`, `64KiB`, `10MiB`, or as a bare integer."""

Rate = Annotated[
    float,
    BeforeValidator(parse_rate),
    PlainSerializer(format_rate, return_type=str, when_used="json"),
    _json_schema(RATE_PATTERN, "5000/s"),
]
"""A number per second; written `5000/s`, `100/m`, `10/h`."""

ProjectPath = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]
"""A path as written. The component resolves it: `context.project / config.path` (an absolute path stays as it is)."""

RecordProgram = Annotated[str, Jq("record")]
"""A jq program over the source's record."""

EventProgram = Annotated[str, Jq("event")]
"""A jq program over the event (`.data`, `.type`, …)."""

DataProgram = Annotated[str, Jq("data")]
"""A jq program over the event's data, with `$event` and `$steps`."""

RecordField = Annotated[str, Jq("record", literal=True)]
"""A jq expression over the record, or a literal."""

EventField = Annotated[str, Jq("event", literal=True)]
"""A jq expression over the event, or a literal."""

DataField = Annotated[str, Jq("data", literal=True)]
"""A jq expression over the data, or a literal."""
