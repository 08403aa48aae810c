"""Where a model of configuration takes jq: found by its types, so that programs are checked though other fields are wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from pydantic import BaseModel

from penstock.config.base import Jq
from penstock.config.document import Path


def programs(model: type[BaseModel], data: Any) -> Iterator[tuple[Path, str, Jq]]:
    """Every jq program in the data of a model, with its path: fields marked `Jq`, maps and lists of them, submodels.

    :param data: as it is written, not validated; what has not the model's shape holds no programs.
    """
    if not isinstance(data, dict):
        return
    fields = {name: (info.annotation, info.metadata) for name, info in model.model_fields.items()}
    known = {name: name for name in fields} | {info.alias: name for name, info in model.model_fields.items() if info.alias}
    for key, value in data.items():
        annotation, metadata = fields[known[key]] if key in known else (_extra(model), ())
        mark = next(_marks(annotation, metadata), None)
        if mark is not None:
            yield from (((key, *path), text, mark) for path, text in _texts(value))
        for submodel in models(annotation):
            yield from (((key, *path), text, jq) for path, text, jq in programs(submodel, value))


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from models(inner)


def _extra(model: type[BaseModel]) -> Any:
    """The type of fields that have no name of their own (`__pydantic_extra__`)."""
    if model.model_config.get("extra") != "allow":
        return None
    return get_type_hints(model, include_extras=True).get("__pydantic_extra__")


def _marks(annotation: Any, metadata: Sequence[Any]) -> Iterator[Jq]:
    yield from (mark for mark in metadata if isinstance(mark, Jq))
    yield from (mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Jq))
    for inner in getattr(annotation, "__args__", ()):
        yield from _marks(inner, ())


def _texts(value: Any) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield (), value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (((key, *path), text) for path, text in _texts(inner))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from (((index, *path), text) for path, text in _texts(inner))
