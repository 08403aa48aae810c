"""A pipeline's version: a digest of everything that decides what happens to an event, and of nothing else.

Secrets are masked, so that a new password is no new version; schemas and Python steps count with their text, so that editing one
in place is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from penstock.config import model as typed
from penstock.config.format import PipelineFile


def canonical(
    form: PipelineFile,
    source: typed.Component,
    event: typed.EventFields,
    steps: Sequence[typed.Step],
    sinks: Sequence[typed.SinkEntry],
) -> str:
    """What decides, as one line of JSON; secrets show as `***` (Invariant 9)."""
    content = {
        "pipeline": form.pipeline,
        "source": _dump(source),
        "event": event.given(),
        "dedup": None if form.dedup is None else form.dedup.model_dump(mode="json"),
        "transforms": [_step(step) for step in steps],
        "sinks": [{"name": sink.name, **_dump(sink.component), "when": sink.when} for sink in sinks],
        "route": form.route,
        "lane": form.dead_letter.lane,
    }
    return msgspec.json.encode(content, order="sorted").decode()


def digest(resolved: str, parts: Mapping[str, str]) -> str:
    """The version of what `canonical` gives.

    :param parts: texts of schemas and digests of Python steps.
    """
    return hashlib.sha256(msgspec.json.encode([resolved, parts], order="sorted")).hexdigest()


def _step(step: typed.Step) -> dict[str, Any]:
    return {
        "name": step.name,
        **_dump(step.component),
        "when": step.when,
        "on_error": step.on_error,
        "timeout": step.timeout,
        "retry": None if step.retry is None else asdict(step.retry),
        "set": dict(step.set),
    }


def _dump(component: typed.Component) -> dict[str, Any]:
    return {component.kind: component.config.model_dump(mode="json", by_alias=True)}
