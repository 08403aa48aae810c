"""What a component's configuration model says about its fields, in the words of a pipeline file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.config.units import format_duration, format_rate, format_size

UNITS: Mapping[str, Callable[[Any], str]] = {"duration": format_duration, "size": format_size, "rate": format_rate}


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    :ivar type: `string`, `duration`, `list of string`, `jsonl | csv`, …
    :ivar default: as YAML would have it; empty where the field is required.
    :ivar example: likewise; None where the model has none.
    """

    name: str
    type: str
    required: bool
    default: str
    description: str
    example: str | None

    def document(self) -> dict[str, Any]:
        """The field as JSON."""
        return {
            "name": self.name,
            "type": self.type,
            "required": self.required,
            "default": None if self.required else self.default,
            "description": self.description,
            "example": self.example,
        }


def summary_of(component: Any) -> str:
    """The first sentence of its docstring."""
    paragraph = (component.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split())


def fields_of(config: Any) -> list[Field]:
    """The fields of a pydantic model, in their order."""
    schema = config.model_json_schema(by_alias=True)
    required, definitions = schema.get("required", []), schema.get("$defs", {})
    return [
        Field(
            name=name,
            type=_type(spec, definitions),
            required=name in required,
            default="" if name in required else _default(spec, definitions),
            description=spec.get("description", ""),
            example=_example(spec, definitions),
        )
        for name, spec in schema.get("properties", {}).items()
    ]


def _default(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """In the unit that people write."""
    value = spec.get("default")
    unit = _type(spec, definitions).partition(" ")[0]
    return UNITS[unit](value) if unit in UNITS and isinstance(value, int | float) else flow(value)


def flow(value: Any) -> str:
    """A value as YAML writes it on one line; `none` for null."""
    if value is None:
        return "none"
    if isinstance(value, str) and value and value.isascii() and value.replace("_", "").replace("-", "").isalnum():
        return value
    return json.dumps(value, ensure_ascii=False)


def _example(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> str | None:
    for part in _parts(spec, definitions):
        if part.get("examples"):
            return flow(part["examples"][0])
    return None


def _parts(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The field's schema, then its alternatives."""
    return [spec, *(_resolve(part, definitions) for part in spec.get("anyOf", []))]


def _resolve(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = spec.get("$ref")
    found: Mapping[str, Any] = definitions[reference.rpartition("/")[2]] if reference else spec
    return found


def _type(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    spec = _resolve(spec, definitions)
    if "anyOf" in spec:
        kinds = [_type(part, definitions) for part in spec["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in spec:
        return " | ".join(map(str, spec["enum"]))
    if "const" in spec:
        return str(spec["const"])
    return _named(spec, definitions)


def _named(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    kind = spec.get("type", "any value")
    if kind == "array":
        return f"list of {_type(spec.get('items', {}), definitions)}"
    if kind == "object" and isinstance(spec.get("additionalProperties"), dict):
        return f"map of {_type(spec['additionalProperties'], definitions)}"
    if kind == "string" and spec.get("format") == "password":
        return "secret"
    units: Sequence[tuple[str, str]] = (("ms|s|m|h|d", "duration"), ("KiB|MiB", "size"), ("/(s|m|h)", "rate"))
    for mark, name in units:
        if kind == "string" and mark in spec.get("pattern", ""):
            return name
    return str(kind)
