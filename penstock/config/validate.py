"""pydantic's findings as ours: located in the file, with the nearest field that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from penstock.config.document import Document, Path
from penstock.config.refuse import SPELLINGS
from penstock.errors import ConfigProblem

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
    r"^sqlite:.+": "sqlite:DIRECTORY was expected",
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
        problems.extend(_problem(detail, model, document, path) for detail in details)
        return None


def _with_others(data: Any, others: Mapping[Path, Any], path: Path = ()) -> Any:
    """The data with each reference read the other way: `${PASSWORD}` stays text though it is all digits."""
    if path in others:
        return others[path]
    if isinstance(data, dict):
        return {key: _with_others(value, others, (*path, key)) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_others(value, others, (*path, index)) for index, value in enumerate(data)]
    return data


def _problem(detail: ErrorDetails, model: type[BaseModel], document: Document, path: Path) -> ConfigProblem:
    kind = detail["type"]
    inner = tuple(part for part in detail["loc"] if isinstance(part, int) or not _is_type_name(part))
    full = (*path, *inner)
    if kind == "extra_forbidden":
        return unknown_field(str(inner[-1]), fields_at(model, inner[:-1]), document, full, model)
    if kind == "missing":
        return ConfigProblem(
            "config.missing_field",
            f"'{inner[-1]}' is missing",
            where=document.at(full[:-1]),
            help=_describe(model, inner),
        )
    help = _describe(model, inner)
    message = _EXPECTED.get(kind) or detail["msg"].removeprefix("Value error, ")
    if kind == "literal_error":
        expected = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        message = f"{expected[0]} was expected" if len(expected) == 1 else f"one of {', '.join(expected)} was expected"
        close = nearest(str(detail["input"]), expected)  # Invariant 9: the input itself may be a secret, and is not shown
        help = f"did you mean '{close}'?" if close else help
    elif kind == "string_pattern_mismatch":
        message = _PATTERNS.get(detail["ctx"]["pattern"], "the text does not have the expected form")
    return ConfigProblem("config.invalid_value", message, where=document.at(full), help=help)


def nearest(word: str, words: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The word that was probably meant."""
    return next(iter(get_close_matches(word, words, n=1, cutoff=cutoff)), None)


def unknown_field(
    name: str, siblings: Iterator[str] | list[str], document: Document, path: Path, model: type[BaseModel] | None = None
) -> ConfigProblem:
    """An unknown field, with the nearest one that exists, here or (with its path) elsewhere in the model."""
    near = get_close_matches(name, list(siblings), n=1, cutoff=0.7)
    known = list(dotted_fields(model)) if model is not None else []
    spelled = SPELLINGS.get(name)
    if spelled is not None and spelled not in {*known, *siblings} and spelled.partition(".")[0] not in siblings:
        spelled = None
    if near:
        hint: str | None = f"did you mean '{near[0]}'?"
    elif spelled is not None:
        hint = f"did you mean '{spelled}'?"
    else:
        elsewhere = [path for path in known if path.rpartition(".")[2] == name]
        hint = f"did you mean '{elsewhere[0]}'?" if elsewhere else None
    return ConfigProblem(
        "config.unknown_field", f"unknown field '{name}'", where=document.at(path, key=True), help=hint or _known(list(siblings))
    )


def _known(siblings: list[str]) -> str | None:
    return f"known here: {', '.join(siblings)}" if siblings else None


def fields_at(model: type[BaseModel], path: Path) -> list[str]:
    """Names of the fields of the (sub)model at a path."""
    for part in path:
        if isinstance(part, str):
            inner = _submodel(model, part)
            if inner is None:
                return []
            model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _submodel(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    for key, field in model.model_fields.items():
        if name in (key, field.alias):
            return next(_models(field.annotation), None)
    return None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def dotted_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The paths of a model's fields, those inside lists left out."""
    for name, field in model.model_fields.items():
        dotted = f"{prefix}{field.alias or name}"
        yield dotted
        if getattr(field.annotation, "__origin__", None) is not list:
            for inner in _models(field.annotation):
                yield from dotted_fields(inner, dotted + ".")


def _describe(model: type[BaseModel], path: Path) -> str | None:
    for part in path[:-1]:
        inner = _submodel(model, part) if isinstance(part, str) else None
        if inner is None:
            return None
        model = inner
    for name, field in model.model_fields.items():
        if path and path[-1] in (name, field.alias):
            return field.description
    return None


def _is_type_name(part: str) -> bool:
    """Whether pydantic put the name of a union's member into the place (`str`, `ValidateFile`, `function-before[…]`)."""
    return part in ("str", "int", "float", "bool") or "[" in part or (part[:1].isupper() and part.isidentifier())
