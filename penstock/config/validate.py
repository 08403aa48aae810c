"""pydantic's findings as ours: located in the file, in words, with what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from penstock.config import units
from penstock.config.document import Document, Path
from penstock.config.programs import models
from penstock.config.refuse import SPELLINGS
from penstock.config.secret import Secret
from penstock.config.suggest import did_you_mean, nearest
from penstock.errors import ConfigProblem, Location

M = TypeVar("M", bound=BaseModel)

_OTHER_TYPES: dict[str, tuple[type, ...]] = {
    "string_type": (str,),
    "int_type": (int,),
    "float_type": (int, float),
    "bool_type": (bool,),
}
_PATTERNS = {
    r"^[a-z0-9-]{1,63}$": "a name of 1 to 63 characters a-z, 0-9 and - was expected",
    r"^[A-Za-z_][A-Za-z0-9_-]{0,62}$": "a name of letters, digits, _ and - was expected, a letter or _ first",
    r"^(sqlite:.+|postgres(ql)?://.+)": "sqlite:DIRECTORY or postgresql://… was expected",
}
_EXPECTED = {
    "string_type": "text was expected; put it in quotes",
    "int_type": "a whole number was expected",
    "int_from_float": "a whole number was expected",
    "float_type": "a number was expected",
    "bool_type": "true or false was expected",
    "list_type": "a list was expected",
    "tuple_type": "a list was expected",
    "dict_type": "a block of fields was expected",
    "model_type": "a block of fields was expected",
    "model_attributes_type": "a block of fields was expected",
}
_BOUNDS = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}
_LENGTHS = {
    "string_too_short": ("min_length", "text of at least {} characters was expected"),
    "string_too_long": ("max_length", "text of at most {} characters was expected"),
    "too_short": ("min_length", "at least {} items were expected"),
    "too_long": ("max_length", "at most {} items were expected"),
}
_FORMATS: dict[Any, Callable[[Any], str]] = {
    units.parse_duration: units.format_duration,
    units.parse_size: units.format_size,
    units.parse_rate: units.format_rate,
}


def validated(model: type[M], data: Any, document: Document, path: Path, problems: list[ConfigProblem]) -> M | None:
    """An instance of the model in strict JSON mode, or None with every problem told."""
    try:
        return model.model_validate_json(msgspec.json.encode(data))
    except ValidationError as error:
        details = error.errors(include_url=False)
        others = {}
        for detail in details:
            place = (*path, *detail["loc"])
            if place in document.others and isinstance(document.others[place], _OTHER_TYPES.get(detail["type"], ())):
                others[detail["loc"]] = document.others[place]
        if others:
            return validated(model, _with_others(data, others), document, path, problems)
        found = [_problem(detail, inner, model, document, path) for detail, inner in _one_of_each_union(details, data)]
        problems.extend(_without_misspelt(found))
        return None


def _without_misspelt(found: Sequence[ConfigProblem]) -> Iterator[ConfigProblem]:
    """A field that is there under a wrong name is one mistake: it is not missing too."""
    meant = {(_path(each).rpartition(".")[0], each.help) for each in found if each.code == "config.unknown_field"}
    for each in found:
        name = each.message.partition(" ")[0]
        if each.code != "config.missing_field" or (_path(each), f"did you mean {name}?") not in meant:
            yield each


def _path(problem: ConfigProblem) -> str:
    return problem.where.path if isinstance(problem.where, Location) else ""


def _with_others(data: Any, others: Mapping[Path, Any], path: Path = ()) -> Any:
    """The data with each reference read the other way: `${PASSWORD}` stays text though it is all digits."""
    if path in others:
        return others[path]
    if isinstance(data, dict):
        return {key: _with_others(value, others, (*path, key)) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_others(value, others, (*path, index)) for index, value in enumerate(data)]
    return data


def _one_of_each_union(details: Sequence[ErrorDetails], data: Any) -> Iterator[tuple[ErrorDetails, Path]]:
    """What is wrong, with its path in the data. Of a union pydantic tells what is wrong with each member: what is told here is
    what goes wrong inside one, else that none fits."""
    found = [(detail, _written(detail, data)) for detail in details]
    inside = {inner[:length] for _, inner in found for length in range(len(inner))}
    told = set()
    for detail, inner in found:
        is_union = inner != detail["loc"]
        if is_union and (inner in inside or inner in told):
            continue
        told.add(inner)
        yield detail, inner


def _written(detail: ErrorDetails, data: Any) -> Path:
    """The place as it is in the data: pydantic puts the names of a union's members, and of validators, between."""
    path: list[str | int] = []
    for part in detail["loc"]:
        if not (part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)):
            continue
        data = data[part]
        path.append(part)
    return (*path, detail["loc"][-1]) if detail["type"] == "missing" else tuple(path)


def _problem(detail: ErrorDetails, inner: Path, model: type[BaseModel], document: Document, path: Path) -> ConfigProblem:
    full = (*path, *inner)
    if detail["type"] == "extra_forbidden":
        return unknown_field(str(inner[-1]), fields_at(model, inner[:-1]), document, full, model)
    info = _field(model, inner)
    help = info.description if info is not None else None
    if detail["type"] == "missing":
        return ConfigProblem("config.missing_field", f"'{inner[-1]}' is missing", where=document.at(full[:-1]), help=help)
    if detail["type"] == "literal_error":
        expected = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        help = did_you_mean(str(detail["input"]), expected) or help  # Invariant 9: the input may be a secret, and is not shown
    return ConfigProblem("config.invalid_value", _message(detail, info), where=document.at(full), help=help)


def _message(detail: ErrorDetails, info: FieldInfo | None) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind == "literal_error":
        expected = re.findall(r"'([^']*)'", context["expected"])
        return f"{expected[0]} was expected" if len(expected) == 1 else f"one of {', '.join(expected)} was expected"
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], "the text does not have the expected form")
    if kind in _LENGTHS:
        key, message = _LENGTHS[kind]
        return message.format(context[key]) if context[key] != 1 else "it must not be empty"
    bound = next((name for name in _BOUNDS if name in context), None)
    if bound is not None:
        return f"{_BOUNDS[bound].format(_quantity(context[bound], info))} was expected"
    return detail["msg"].removeprefix("Value error, ")


def _quantity(number: float, info: FieldInfo | None) -> str:
    """A bound in the unit of its field."""
    parsers = [each.func for each in (info.metadata if info is not None else ()) if isinstance(each, BeforeValidator)]
    form = next((_FORMATS[parser] for parser in parsers if parser in _FORMATS), None)
    return form(number) if form is not None else f"{number:,}"


def unknown_field(
    name: str, siblings: Sequence[str], document: Document, path: Path, model: type[BaseModel] | None = None
) -> ConfigProblem:
    """An unknown field, with the nearest one that exists, here or (with its path) elsewhere in the model."""
    help = did_you_mean(name, siblings, 0.7)
    if help is None:
        elsewhere = _elsewhere(name, siblings, list(dotted_fields(model)) if model is not None else [])
        known = f"known here: {', '.join(siblings)}" if siblings else None
        help = f"did you mean '{elsewhere}'?" if elsewhere else known
    return ConfigProblem("config.unknown_field", f"unknown field '{name}'", where=document.at(path, key=True), help=help)


def _elsewhere(name: str, siblings: Sequence[str], known: Sequence[str]) -> str | None:
    """Our field for a spelling from elsewhere, where it exists; else a field of that name in another place."""
    meant = SPELLINGS.get(nearest(name, SPELLINGS, 0.8) or "")
    if meant is not None and (meant in (*known, *siblings) or meant.partition(".")[0] in siblings):
        return meant
    return next((path for path in known if path.rpartition(".")[2] == name), None)


def fields_at(model: type[BaseModel], path: Path) -> list[str]:
    """Names of the fields of the (sub)model at a path."""
    inner = _submodel(model, path)
    return [field.alias or name for name, field in inner.model_fields.items()] if inner is not None else []


def takes_secret(model: type[BaseModel], path: Path) -> bool:
    """Whether the field at a path, or one that holds it, is a secret."""
    around = (_field(model, path[:length]) for length in range(1, len(path) + 1))
    return any(field is not None and _mentions(field.annotation, Secret) for field in around)


def _mentions(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_mentions(inner, kind) for inner in getattr(annotation, "__args__", ()))


def dotted_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The paths of a model's fields, those inside lists left out."""
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{field.alias or name}"
        yield dotted
        if getattr(field.annotation, "__origin__", None) is not list:
            for inner in models(field.annotation):
                yield from dotted_fields(inner, dotted + ".")


def _submodel(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    for part in path:
        if isinstance(part, str):
            info = _own_field(model, part)
            inner = next(models(info.annotation), None) if info is not None else None
            if inner is None:
                return None
            model = inner
    return model


def _field(model: type[BaseModel], path: Path) -> FieldInfo | None:
    """The field at a path; of an element of a list or map the field that holds it."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    inner = _submodel(model, path[:-1]) if path else None
    return _own_field(inner, str(path[-1])) if inner is not None else None


def _own_field(model: type[BaseModel], name: str) -> FieldInfo | None:
    return next((field for key, field in model.model_fields.items() if name in (key, field.alias)), None)
