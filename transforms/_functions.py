"""Finds a user's function by its name, `module:function`, and says how it wants to be called."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from penstock.errors import ConfigProblem

OWN_PACKAGES = frozenset({"penstock", "connectors", "transforms", "registry", "dlq", "backfill"})


@dataclass(frozen=True, slots=True)
class Function:
    """A user's function.

    :ivar wants_event: it has a second parameter `event` (with `batch`, `events`).
    :ivar wants_key: it has a parameter `idempotency_key` (with `batch`, `idempotency_keys`).
    :ivar is_async: calling it gives a coroutine.
    :ivar digest: SHA-256 of its module's source, hexadecimal.
    """

    call: Callable[..., Any]
    wants_event: bool
    wants_key: bool
    is_async: bool
    digest: str


def find(call: str, project: Path, second: str, key: str = "") -> Function:
    """Import the module, looking in the project after everything that is installed, and take the function.

    :param second: what the optional second parameter is called; `key`: the optional one for the idempotency key.
    :raises ConfigProblem: `python.import_failed`, `python.not_found`, `python.bad_signature`.
    """
    directory = str(project.resolve())
    if directory not in sys.path:
        sys.path.append(directory)  # never prepended: a user's `transforms/` must not take the place of ours
        importlib.invalidate_caches()
    module_name, _, name = call.partition(":")
    module = _import(module_name, project)
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise ConfigProblem("python.not_found", f"the module {module_name!r} has no function {name!r}", where=_file(module))
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    wants_event, wants_key = _wants(function, call, second, key)
    return Function(function, wants_event, wants_key, is_async, _digest(module))


def _import(name: str, project: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's module runs its own code here; whatever it raises is reported
        root = name.partition(".")[0]
        help = f"the module is looked for in {project} and among the installed packages"
        if root in OWN_PACKAGES:
            help = f"the name {root!r} belongs to Penstock; give your package another one"
        raise ConfigProblem(
            "python.import_failed", f"the module {name!r} cannot be imported", why=f"{type(error).__name__}: {error}", help=help
        ) from error


def _wants(function: Callable[..., Any], call: str, second: str, key: str) -> tuple[bool, bool]:
    """Which of the optional parameters it has."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # built in, and says nothing about itself
        return False, False
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    required = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    first = positional[0].name if positional else ""
    others = [name for name in required if name not in (second, key, first)]
    takes_one = bool(positional) or any(each.kind is each.VAR_POSITIONAL for each in parameters)
    if others or not takes_one:
        raise ConfigProblem(
            "python.bad_signature",
            f"{call} takes {', '.join(required) or 'nothing'}",
            help=f"it is called with the data, and with `{second}` too where it has a parameter of that name",
        )
    names = [each.name for each in parameters if each.kind is not each.POSITIONAL_ONLY and each.name != first]
    return second in names and bool(positional), key in names


def _file(module: ModuleType) -> str | None:
    return getattr(module, "__file__", None)


def _digest(module: ModuleType) -> str:
    file = _file(module)
    return sha256(Path(file).read_bytes() if file else module.__name__.encode()).hexdigest()
