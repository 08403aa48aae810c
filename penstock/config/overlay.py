"""Values from around the file: `penstock.yaml` below it, `PENSTOCK_…` variables and `--set` above it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.config.document import Document, Path, dotted
from penstock.config.format import Defaults
from penstock.config.scalars import resolve
from penstock.config.suggest import nearest
from penstock.config.validate import dotted_fields
from penstock.config.yaml import MAX_DEPTH
from penstock.errors import ConfigProblem, Location

PREFIX = "PENSTOCK_"
FROM_ENVIRONMENT = frozenset(
    {"batching", "retry", "dead_letter", "limits", "workers", "transform_timeout", "worker_memory", "shutdown_timeout", "state"}
)
"""Fields that a variable may set: `PENSTOCK_WORKERS=2`, `PENSTOCK_RETRY__MAX_ATTEMPTS=3`."""

_PART = re.compile(r"([^.\[\]=]+)|\[([0-9]+)\]")


def merge_defaults(data: dict[str, Any], defaults: Defaults) -> None:
    """Fill in what the pipeline does not say, one level into blocks."""
    for name, value in defaults.model_dump(mode="json", by_alias=True, exclude_unset=True).items():
        if isinstance(value, dict) and isinstance(data.get(name), dict):
            data[name] = {**value, **data[name]}
        else:
            data.setdefault(name, value)


def apply_environment(document: Document, environment: Mapping[str, str]) -> list[ConfigProblem]:
    """Let `PENSTOCK_…` variables win over the file."""
    problems = []
    for variable, text in sorted(environment.items()):
        path: Path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if variable.startswith(PREFIX) and path[0] in FROM_ENVIRONMENT:
            problems.extend(_give(document, path, text, f"environment variable {variable}"))
    return problems


def ignored_variables(environment: Mapping[str, str]) -> list[str]:
    """Warnings about `PENSTOCK_…` variables that set nothing and resemble one that would."""
    known = [f"{PREFIX}{name.replace('.', '__').upper()}" for name in dotted_fields(Defaults)]
    warnings = []
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable.removeprefix(PREFIX).lower().split("__")[0] not in FROM_ENVIRONMENT:
            close = nearest(variable, known, cutoff=0.85)
            if close is not None:
                warnings.append(f"the environment variable {variable} sets nothing: did you mean {close}?")
    return warnings


def apply_overrides(document: Document, overrides: Sequence[str]) -> list[ConfigProblem]:
    """Let `--set path=value` win over everything; values are typed as YAML scalars are."""
    problems = []
    for override in overrides:
        path, equals, text = override.partition("=")
        where = Location(f"--set {path}")  # Invariant 9: the value may be a secret
        parts = _split(path)
        if not equals or parts is None:
            help = "--set retry.max_attempts=3, --set transforms[0].jq=.data"
            problems.append(ConfigProblem("config.bad_override", f"'{path}' is not path=value", where=where, help=help))
        else:
            problems.extend(_give(document, parts, text, f"--set {path}"))
    return problems


def _give(document: Document, path: Path, text: str, shown: str) -> list[ConfigProblem]:
    """Put a value, typed as a YAML scalar, and remember where it came from."""
    try:
        text.encode()
        value = resolve(text)
    except UnicodeEncodeError:
        return [ConfigProblem("config.not_utf8", "the value is not UTF-8", where=Location(shown))]
    except ValueError as error:
        return [ConfigProblem("config.number_out_of_range", str(error), where=Location(shown))]
    place = _put(document.data, path, value)
    if place is None:
        help = "a value can be set inside a block, or in place of an element of a list"
        return [
            ConfigProblem("config.bad_override", f"there is nothing at {dotted(path)} to set", where=Location(shown), help=help)
        ]
    stale: tuple[dict[Path, Any], ...] = (document.others, document.foreign)
    for written in stale:
        for known in [known for known in written if known[: len(place)] == place]:
            del written[known]
    document.given[place] = shown
    document.foreign[place] = [text]
    if not isinstance(value, str):
        document.others[place] = text
    return []


def _split(path: str) -> Path | None:
    parts: list[str | int] = []
    rest = path
    while rest:
        match = _PART.match(rest)
        if match is None:
            return None
        parts.append(match[1] if match[1] is not None else int(match[2]))
        rest = rest[match.end() :].removeprefix(".")
    return tuple(parts) if 0 < len(parts) <= MAX_DEPTH else None


def _put(data: Any, path: Path, value: Any) -> Path | None:
    """The path that was set, with `transforms.0` read as `transforms[0]`; None where there is no such place."""
    place: list[str | int] = []
    for number, part in enumerate(path):
        last = number == len(path) - 1
        if isinstance(data, list):
            index = int(part) if isinstance(part, int) or part.isdecimal() else len(data)
            if index >= len(data):
                return None
            place.append(index)
            if last:
                data[index] = value
            data = data[index]
        elif isinstance(data, dict) and isinstance(part, str):
            place.append(part)
            if last:
                data[part] = value
            elif data.get(part) is None:
                if isinstance(path[number + 1], int):
                    return None
                data[part] = {}
            data = data[part]
        else:
            return None
    return tuple(place)
