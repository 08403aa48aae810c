"""Values from around the file: `penstock.yaml` below it, `PENSTOCK_…` variables and `--set` above it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.config.document import Document, Path
from penstock.config.yaml import resolve
from penstock.errors import ConfigProblem, Location

PREFIX = "PENSTOCK_"
FROM_ENVIRONMENT = frozenset(
    {"batching", "retry", "dead_letter", "limits", "workers", "transform_timeout", "worker_memory", "shutdown_timeout", "state"}
)
"""Fields that a variable may set: `PENSTOCK_WORKERS=2`, `PENSTOCK_RETRY__MAX_ATTEMPTS=3`."""

_PART = re.compile(r"([^.\[\]=]+)|\[([0-9]+)\]")


def merge_defaults(data: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Fill in what the pipeline does not say, one level into blocks."""
    for name, value in defaults.items():
        if isinstance(value, dict) and isinstance(data.get(name), dict):
            data[name] = {**value, **data[name]}
        else:
            data.setdefault(name, value)


def apply_environment(data: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Let `PENSTOCK_…` variables win over the file."""
    for variable, text in sorted(environment.items()):
        path: Path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if variable.startswith(PREFIX) and path[0] in FROM_ENVIRONMENT:
            _put(data, path, resolve(text))


def apply_overrides(document: Document, overrides: Sequence[str]) -> list[ConfigProblem]:
    """Let `--set path=value` win over everything; values are typed as YAML scalars are."""
    problems = []
    for override in overrides:
        where = Location(f"--set {override}")
        path, equals, text = override.partition("=")
        parts = _split(path)
        if not equals or parts is None:
            help = "--set retry.max_attempts=3, --set transforms[0].jq=.data"
            problems.append(ConfigProblem("config.bad_override", f"'{override}' is not path=value", where=where, help=help))
        elif not _put(document.data, parts, resolve(text)):
            problems.append(ConfigProblem("config.bad_override", f"there is nothing at {path} to set", where=where))
    return problems


def _split(path: str) -> Path | None:
    parts: list[str | int] = []
    rest = path
    while rest:
        match = _PART.match(rest)
        if match is None:
            return None
        parts.append(match[1] if match[1] is not None else int(match[2]))
        rest = rest[match.end() :].removeprefix(".")
    return tuple(parts) or None


def _put(data: Any, path: Path, value: Any) -> bool:
    for part in path[:-1]:
        if isinstance(data, dict) and isinstance(part, str):
            data = data.setdefault(part, {})
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return False
    last = path[-1]
    if isinstance(data, dict) and isinstance(last, str):
        data[last] = value
        return True
    if isinstance(data, list) and isinstance(last, int) and last < len(data):
        data[last] = value
        return True
    return False
