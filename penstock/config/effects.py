"""What steps with effects and the mocks of tests must agree with, found when a file is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penstock.builtins import TRANSFORMS
from penstock.config import model as typed
from penstock.config.document import Path
from penstock.config.format import StepFields
from penstock.config.resolve import Resolver
from penstock.config.suggest import did_you_mean
from penstock.config.validate import fields_at

_MAY_HAVE_EFFECTS = frozenset({"python"})
"""Transforms of ours that may do more than compute; of others nobody knows it but their author."""


def check_effects(resolver: Resolver, workers: int) -> None:
    """A key belongs to a step with effects, and effects to a step that may have some, in the main process: a worker may be killed
    at any moment and its block computed again, and it has no state store to keep answers in."""
    for entry, path in _entries(resolver.document.data.get("transforms"), ("transforms",)):
        effects = entry.get("effects")
        if effects is None:
            if entry.get("idempotency_key") is not None:
                help = "say `effects: write` (or `read`) beside it, or leave the key out"
                message = "idempotency_key belongs to a step with `effects`"
                resolver.problem("config.key_without_effects", message, (*path, "idempotency_key"), help, key=True)
            continue
        kind = _kind(entry)
        if kind in TRANSFORMS and kind not in _MAY_HAVE_EFFECTS:
            message, help = f"`{kind}` only computes: it has no effects", "leave `effects` out"
            resolver.problem("config.no_effects", message, (*path, "effects"), help, key=True)
        elif workers:
            resolver.problem(
                "config.effects_in_workers",
                f"a step with `effects` does not go together with `workers: {workers}`",
                (*path, "effects"),
                "say `workers: 0`: a worker may be killed in the middle of a step, whose events are then asked about again",
                key=True,
            )


def _kind(entry: Mapping[str, Any]) -> str:
    """Which key names the transform: `set` may stand beside every other one."""
    beside = fields_at(StepFields, ())
    return next((key for key in entry if key not in beside), "set")


def check_mocks(resolver: Resolver, steps: Sequence[typed.Step]) -> None:
    """A mock stands for a step that there is."""
    if resolver.problems:  # a step that could not be made has no name here
        return
    names = [step.name for step in steps]
    for case, path in _entries(resolver.document.data.get("tests"), ("tests",)):
        mocks = case.get("mocks")
        for name in mocks if isinstance(mocks, dict) else ():
            if name not in names:
                help = did_you_mean(str(name), names) or f"the steps are {', '.join(names) or 'none'}"
                resolver.problem("config.unknown_step", f"there is no step '{name}'", (*path, "mocks", name), help, key=True)


def _entries(entries: Any, path: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            yield entry, (*path, index)
