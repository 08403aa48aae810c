"""Values from around the file: `penstock.yaml` below it, `PENSTOCK_…` variables and `--set` above it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.components import Catalog
from penstock.config.document import Document, Path, dotted
from penstock.config.format import Defaults
from penstock.config.scalars import resolve
from penstock.config.shorthand import unfold
from penstock.config.suggest import nearest
from penstock.config.validate import dotted_fields
from penstock.config.yaml import MAX_DEPTH
from penstock.errors import ConfigProblem, Location

PREFIX = "PENSTOCK_"
FROM_ENVIRONMENT = frozenset(
    {
        *("batching", "retry", "dead_letter", "limits", "workers", "transform_timeout", "worker_memory", "shutdown_timeout"),
        *("state", "registry", "journal"),
    }
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


def apply_environment(document: Document, environment: Mapping[str, str], catalog: Catalog) -> list[ConfigProblem]:
    """Let `PENSTOCK_…` variables win over the file."""
    problems = []
    for variable, text in sorted(environment.items()):
        path: Path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if variable.startswith(PREFIX) and path[0] in FROM_ENVIRONMENT:
            problems.extend(_give(document, path, text, f"environment variable {variable}", catalog))
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


def apply_overrides(document: Document, overrides: Sequence[str], catalog: Catalog) -> list[ConfigProblem]:
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
            problems.extend(_give(document, parts, text, f"--set {path}", catalog))
    return problems


def _give(document: Document, path: Path, text: str, shown: str, catalog: Catalog) -> list[ConfigProblem]:
    """Put a value, typed as a YAML scalar, and remember where it came from."""
    try:
        text.encode()
        value = resolve(text)
    except UnicodeEncodeError:
        return [ConfigProblem("config.not_utf8", "the value is not UTF-8", where=Location(shown))]
    except ValueError as error:
        return [ConfigProblem("config.number_out_of_range", str(error), where=Location(shown))]
    unfold(document, path, catalog)
    place, rest = _put(document.data, path, value)
    if rest:
        return [_nowhere(document, path, place, shown)]
    stale: tuple[dict[Path, Any], ...] = (document.others, document.foreign, document.references)
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


def _put(data: Any, path: Path, value: Any) -> tuple[Path, Path]:
    """The path that was set, with `transforms.0` read as `transforms[0]`; and what is left of it where it leads nowhere."""
    place: Path = ()
    for number, part in enumerate(path):
        rest = path[number + 1 :]
        index = _index(data, part)
        if index is None or (isinstance(data, dict) and data.get(index) is None and rest and isinstance(rest[0], int)):
            return place, path[number:]
        place = (*place, index)
        if not rest:
            data[index] = value
        elif isinstance(data, dict) and data.get(index) is None:
            data[index] = {}
        data = data[index]
    return place, ()


def _index(data: Any, part: str | int) -> str | int | None:
    """What to look up in a block or a list; None where there can be nothing."""
    if isinstance(data, dict):
        return part if isinstance(part, str) else None
    if isinstance(data, list) and (isinstance(part, int) or part.isdecimal()) and int(part) < len(data):
        return int(part)
    return None


def _nowhere(document: Document, path: Path, place: Path, shown: str) -> ConfigProblem:
    """Why a path leads nowhere, and where in the file it stops."""
    found = document.data
    for part in place:
        found = found[part]
    at = document.at(place)
    what = f"{dotted(place)} at {at.file}:{at.line}:{at.column}" if place else at.file
    why = f"{what} is a list of {len(found)}, counted from 0" if isinstance(found, list) else f"{what} is no block of fields"
    return ConfigProblem(
        "config.bad_override",
        f"there is nothing at {dotted(path)} to set",
        where=Location(shown),
        why=why if place and not isinstance(found, dict) else None,
        help="a value can be set inside a block, or in place of an element of a list",
    )
