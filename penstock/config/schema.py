"""The JSON Schema of the pipeline file, for editors: made of the same models that validate it (JSON Schema 2020-12).

The result is checked in as `pipeline.schema.json` beside this module; `python -m penstock.config.schema` writes it anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from penstock.components import Catalog, Kind
from penstock.config.format import PipelineFile, SinkFields, SourceFields, StepFields

FILE = Path(__file__).with_name("pipeline.schema.json")
_HEAD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:penstock:pipeline-file",
    "title": "Penstock pipeline",
}
_VALUES = frozenset({"const", "enum", "default", "examples", "required"})
"""Keywords that hold values, not schemas."""
_BESIDE: dict[Kind, type[BaseModel]] = {"source": SourceFields, "transform": StepFields, "sink": SinkFields}


def pipeline_schema(catalog: Catalog | None = None) -> dict[str, Any]:
    """The schema of a pipeline file, with every component of the catalog (by default: the built-in ones)."""
    catalog = catalog or Catalog(plugins=False)
    definitions: dict[str, Any] = {}
    root = _inline(PipelineFile, definitions)
    for kind, beside in _BESIDE.items():
        definitions[kind] = _component(kind, beside, catalog, definitions)
    properties = root["properties"]
    properties["source"] = _described(properties["source"], {"$ref": "#/$defs/source"})
    properties["sink"] = _described(properties["sink"], {"$ref": "#/$defs/sink"})
    properties["transforms"]["items"] = {"$ref": "#/$defs/transform"}
    properties["sinks"]["items"] = {"$ref": "#/$defs/sink"}
    schema = {**root, "$defs": dict(sorted(definitions.items()))}
    _allow_references(schema)
    schema["$defs"]["reference"] = {
        "type": "string",
        "pattern": r"\$\{",
        "description": "${VAR}, ${VAR:default} or ${file:/path}",
    }
    return {**_HEAD, **schema}


def _allow_references(schema: Any) -> None:
    """Let a reference stand for every scalar that is more than any text."""
    if isinstance(schema, list):
        for item in schema:
            _allow_references(item)
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        if keyword not in _VALUES:
            _allow_references(value)
    narrow = schema.get("type") in ("integer", "number", "boolean") or (
        schema.get("type") == "string" and ({"pattern", "enum", "const", "format"} & schema.keys())
    )
    if narrow and isinstance(schema["type"], str):
        about = {key: schema.pop(key) for key in ("description", "default", "examples") if key in schema}
        wrapped = dict(schema)
        schema.clear()
        schema.update({"anyOf": [wrapped, {"$ref": "#/$defs/reference"}], **about})


def text(schema: dict[str, Any]) -> str:
    """As it is checked in and printed."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _component(kind: Kind, beside: type[BaseModel], catalog: Catalog, definitions: dict[str, Any]) -> dict[str, Any]:
    """A bare name, or a block of one component and the fields beside it."""
    names = catalog.names(kind)
    around = _inline(beside, definitions)
    properties = dict(around["properties"])
    for name in names:
        cls = catalog.find(kind, name)
        options = _options(cls.Config, definitions, (cls.__doc__ or "").strip().splitlines()[0])
        properties[name] = {"anyOf": [options, properties[name]]} if name in properties else options
    block = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "oneOf": [_only(name, names, beside) for name in names],
    }
    return {"anyOf": [{"enum": names}, block]}


def _only(name: str, names: list[str], beside: type[BaseModel]) -> dict[str, Any]:
    """This component and none else: one that is a field beside others too (`set`) counts where it stands alone."""
    if name not in beside.model_fields:
        return {"required": [name]}
    return {"required": [name], "not": {"anyOf": [{"required": [other]} for other in names if other != name]}}


def _options(config: Any, definitions: dict[str, Any], summary: str) -> dict[str, Any]:
    schema = _inline(config, definitions)
    forms = [{**schema, "description": summary}]
    shorthand = config.shorthand
    if shorthand is not None:
        field = config.model_fields.get(shorthand)
        name = field.alias if field is not None and field.alias else shorthand
        forms.append({**schema["properties"][name], "description": summary})
    if not schema.get("required"):
        forms.append({"type": "null"})
    return forms[0] if len(forms) == 1 else {"anyOf": forms, "description": summary}


def _inline(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = _untitled(model.model_json_schema(by_alias=True, ref_template="#/$defs/{model}"))
    definitions.update(schema.pop("$defs", {}))
    return schema


def _untitled(schema: Any) -> Any:
    """Without the titles that pydantic makes of the names of fields and classes: editors would show them first."""
    if isinstance(schema, list):
        return [_untitled(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {keyword: value for keyword, value in schema.items() if keyword != "title"}
    for keyword, value in kept.items():
        if keyword in ("properties", "$defs"):
            kept[keyword] = {name: _untitled(inner) for name, inner in value.items()}
        elif keyword not in _VALUES:
            kept[keyword] = _untitled(value)
    return kept


def _described(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {**new, "description": old["description"]}


if __name__ == "__main__":
    FILE.write_text(text(pipeline_schema()), encoding="utf-8")
