"""A pipeline's version: a digest of everything that decides what happens to an event, and of nothing else.

Secrets are masked, so that a new password is no new version; schemas and Python steps count with their text, so that editing one
in place is. What a variable brought into any other field decides, so it counts; it may be a secret all the same, so what is kept
of the version has the reference in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from penstock.config import model as typed
from penstock.config.document import Document, Path
from penstock.config.format import PipelineFile
from penstock.config.secret import MASK


def content_of(
    form: PipelineFile,
    source: typed.Component,
    event: typed.EventFields,
    steps: Sequence[typed.Step],
    sinks: Sequence[typed.SinkEntry],
) -> dict[str, Any]:
    """What decides, in the shape of a file whose short forms are written out; secrets show as `***` (Invariant 9)."""
    first = 0 if form.validate_ is None else 1
    return {
        "pipeline": form.pipeline,
        "source": {**_dump(source), "event": {name: text for name, text in asdict(event).items() if text is not None}},
        "dedup": None if form.dedup is None else form.dedup.model_dump(mode="json"),
        **(_dump(steps[0].component) if first else {}),
        "transforms": [_step(step) for step in steps[first:]],
        "sinks": [{"name": sink.name, **_dump(sink.component), "when": sink.when} for sink in sinks],
        "route": form.route,
        "lane": form.dead_letter.lane,
    }


def canonical(content: Mapping[str, Any]) -> str:
    """One line of JSON, the same for the same content."""
    return msgspec.json.encode(content, order="sorted").decode()


def kept(content: Mapping[str, Any], document: Document) -> str:
    """The content as it may be stored: `${VAR}` stands for what a variable brought, `$${` for a plain `${` (Invariant 9)."""
    text: dict[str, Any] = _escaped(content)
    for path, reference in document.references.items():
        if path not in document.bare.values():
            _restore(text, ("sinks", 0, *path[1:]) if path[0] == "sink" else path, reference.text)
    return canonical(text)


def digest(content: str, parts: Mapping[str, str]) -> str:
    """The version of what `canonical` gives.

    :param parts: texts of schemas and digests of Python steps.
    """
    return hashlib.sha256(msgspec.json.encode([content, parts], order="sorted")).hexdigest()


def _step(step: typed.Step) -> dict[str, Any]:
    asked = {"effects": step.effects, "idempotency_key": step.idempotency_key} if step.effects is not None else {}
    return {
        "name": step.name,
        "set": dict(step.set),
        **_dump(step.component),
        "when": step.when,
        "on_error": step.on_error,
        "timeout": step.timeout,
        "retry": None if step.retry is None else asdict(step.retry),
        **asked,
    }


def _dump(component: typed.Component) -> dict[str, Any]:
    return {component.kind: component.config.model_dump(mode="json", by_alias=True)}


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list) else value


def _restore(content: dict[str, Any], path: Path, text: str) -> None:
    """Put a reference back; where the value moved, in place of the nearest thing around it. What is not kept is passed over."""
    holder: Any = content
    key: str | int = path[0]
    if key not in content:
        return
    for part in path[1:]:
        inner = holder[key]
        if not (part in inner if isinstance(inner, dict) else isinstance(inner, list) and part in range(len(inner))):
            break
        holder, key = inner, part
    if holder[key] != MASK:
        holder[key] = text  # Invariant 9: not what the variable brought
