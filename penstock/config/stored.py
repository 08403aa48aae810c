"""A stored pipeline version as a pipeline again: its steps, how its events are made, and who takes what. No file is read.

What a version keeps is everything that decides what happens to an event, secrets aside, and the text of its schemas. Not the code
of Python steps, of which it has a digest, nor what variables brought into its fields, of which it has the names: both come from
today, and where they are not what they were, that is told (`Stored.doubts`). Source and sinks keep their names alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from pydantic import BaseModel

from penstock.components import Catalog
from penstock.config import model as typed
from penstock.config.base import ComponentConfig
from penstock.config.document import Document, Reference
from penstock.config.document import Path as Place
from penstock.config.entries import steps_of
from penstock.config.format import DedupFile, EventFile
from penstock.config.interpolate import Interpolator
from penstock.config.resolve import Resolver
from penstock.config.scalars import resolve
from penstock.config.secret import MASK, Secret
from penstock.config.units import format_duration
from penstock.config.validate import takes_secret, validated
from penstock.config.version import canonical, digest
from penstock.errors import ConfigProblem, ConfigurationError, Location, PenstockError

_PYTHON = "python:"


class Kept(NamedTuple):
    """What is stored of a version: as `penstock.state.pipeline_records.Version` has it."""

    version: str
    config: str
    schemas: Mapping[str, str]
    steps: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Around:
    """Where the version is brought back to life.

    :ivar file: the pipeline's file, which need not exist; `project`: its root; `state`: directory of its state.
    :ivar environment: for `${VAR}`.
    :ivar today: the pipeline as its file has it now, whose secrets the steps are given; None where there is none.
    """

    file: Path
    project: Path
    state: Path
    environment: Mapping[str, str]
    today: typed.Pipeline | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A version that was loaded.

    :ivar doubts: by step, why what it does now may differ from what it did then.
    :ivar lacking: steps that had a secret, which today's file does not have either: nothing that they make may be delivered.
    """

    pipeline: typed.Pipeline
    doubts: Mapping[str, str]
    lacking: frozenset[str] = frozenset()


def load_version(kept: Kept, around: Around) -> Stored:
    """The pipeline of a stored version.

    :raises ConfigurationError: this program cannot build it: the function of a Python step is gone, a variable is not set, a
        component is not installed, or knows a field no longer.
    """
    content = msgspec.json.decode(kept.config)
    name, problems = content["pipeline"], list[ConfigProblem]()
    document = Document(f"version {kept.version[:12]} of {name}")
    document.data = _filled(_steps_of(content), document, Interpolator(around.environment, around.project), problems)
    catalog = Catalog()
    secrets = list(_put_secrets(document.data, around.today, catalog))
    registry = around.today.registry if around.today is not None else None
    resolver = Resolver(
        document, name, around.file, around.project, problems, registry, schema_texts=kept.schemas, catalog=catalog
    )
    event = validated(EventFile, document.data.get("event", {}), document, ("event",), problems)
    dedup = validated(DedupFile, document.data["dedup"], document, ("dedup",), problems) if content.get("dedup") else None
    steps = steps_of(resolver) if not problems else []
    if problems or event is None:
        raise ConfigurationError([_told(problem, document) for problem in problems])
    pipeline = typed.Pipeline(
        name=name,
        description="",
        file=around.file,
        project=around.project,
        source=_named(content["source"], document, "event"),
        event=typed.EventFields(**event.model_dump()),
        steps=steps,
        sinks=[_sink(sink, document, n) for n, sink in enumerate(document.data["sinks"])],
        version=kept.version,
        resolved=kept.config,
        schemas=kept.schemas,
        steps_digest=kept.steps,
        state=around.state,
        content=canonical(document.data),
        registry=registry,
        dedup=None if dedup is None else typed.Dedup(dedup.window, dedup.key),
        route=content["route"],
    )
    doubts = _doubts(pipeline, kept, resolver, around, document, [(step, said) for step, said, _ in secrets])
    return Stored(pipeline, dict(doubts), frozenset(step for step, _, found in secrets if not found))


def _steps_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The part that steps are made of, as a file has it: what was not given is left out, durations have their unit."""
    sinks = [{name: value for name, value in sink.items() if name in ("name", "when")} for sink in content["sinks"]]
    for sink, kept in zip(sinks, content["sinks"], strict=True):
        sink["kind"] = _kind(kept, "name", "when")
    event, dedup = content["source"].get("event", {}), content.get("dedup")
    part = {"event": event, "dedup": dedup, "sinks": sinks, "transforms": list(map(_step, content["transforms"]))}
    return {**part, "validate": content["validate"]} if "validate" in content else part


def _step(kept: Mapping[str, Any]) -> dict[str, Any]:
    step = {name: value for name, value in kept.items() if value is not None}
    if "timeout" in step:
        step["timeout"] = format_duration(step["timeout"])
    if "retry" in step:
        delays = {name: format_duration(step["retry"][name]) for name in ("initial_delay", "max_delay", "max_elapsed")}
        step["retry"] = {**step["retry"], **delays}
    return step


def _filled(value: Any, document: Document, interpolate: Interpolator, problems: list[ConfigProblem], at: Place = ()) -> Any:
    """The data with its references replaced."""
    if isinstance(value, dict):
        return {key: _filled(inner, document, interpolate, problems, (*at, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, document, interpolate, problems, (*at, index)) for index, inner in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    try:
        text, values, names = interpolate(value)
    except ConfigProblem as error:
        error.where = document.at(at)
        problems.append(error)
        return value
    if names:
        document.references[at] = Reference(value, names)
        document.foreign[at] = values
        document.others[at] = _typed(text)
    return text


def _typed(text: str) -> Any:
    try:
        return resolve(text)
    except ValueError:
        return text


def _put_secrets(data: Mapping[str, Any], today: typed.Pipeline | None, catalog: Catalog) -> Iterator[tuple[str, str, bool]]:
    """Give steps the secrets that the steps of today's file with the same name and kind have; for each that had one, by step,
    what is to be doubted, and whether there is one."""
    now = {(step.name, step.component.kind): step.component.config for step in today.steps} if today is not None else {}
    for step in data["transforms"]:
        kind = _kind(step, *_BESIDE)
        block = step[kind]
        for key, value in list(block.items()) if isinstance(block, dict) and catalog.has("transform", kind) else ():
            if value != MASK or not takes_secret(catalog.find("transform", kind).Config, (key,)):
                continue
            secret = _secret(now.get((step["name"], kind)), key)
            if secret is not None:
                block[key] = secret.reveal()
            said = "today's is used" if secret is not None else f"today's file has none for it, and {MASK} stands in its place"
            yield step["name"], f"no version keeps the secret {key} of step {step['name']}: {said}", secret is not None


def _secret(config: BaseModel | None, key: str) -> Secret | None:
    for name, field in type(config).model_fields.items() if config is not None else ():
        value = getattr(config, name)
        if (field.alias or name) == key and isinstance(value, Secret):
            return value
    return None


_BESIDE = ("name", "when", "on_error", "timeout", "retry", "effects", "idempotency_key")


def _kind(entry: Mapping[str, Any], *beside: str) -> str:
    """Which of the keys names the component. `set` stands beside every other one, and may be it itself."""
    kinds = [key for key in entry if key not in beside]
    return next((key for key in kinds if key != "set"), "set")


def _named(entry: Mapping[str, Any], document: Document, *beside: str) -> typed.Component:
    return typed.Component(_kind(entry, *beside), ComponentConfig(), Location(document.file))


def _sink(entry: Mapping[str, Any], document: Document, index: int) -> typed.SinkEntry:
    component = typed.Component(entry["kind"], ComponentConfig(), document.at(("sinks", index)))
    return typed.SinkEntry(entry["name"], component, entry.get("when"))


def _told(problem: ConfigProblem, document: Document) -> ConfigProblem:
    document.conceal(problem)  # Invariant 9
    return problem


def _doubts(
    pipeline: typed.Pipeline,
    kept: Kept,
    resolver: Resolver,
    around: Around,
    document: Document,
    secrets: list[tuple[str, str]],
) -> Iterator[tuple[str, str]]:
    changed = {call for call, was in kept.steps.items() if resolver.parts.get(_PYTHON + call) != was}
    for step in pipeline.steps:
        if getattr(step.component.config, "call", None) in changed:
            yield step.name, f"the code of step {step.name} has changed since"
    yield from secrets
    if document.references and not changed and not _is_as_it_was(kept, around):
        for path, reference in document.references.items():
            variables = " and ".join(reference.names)
            name = document.data["transforms"][path[1]]["name"] if path[0] == "transforms" else str(path[0])
            yield name, f"{name} has today's value of {variables}, which may have been another one"


def _is_as_it_was(kept: Kept, around: Around) -> bool:
    """Whether variables bring what they brought then: the version's own digest says so."""
    problems: list[ConfigProblem] = []
    try:
        interpolate = Interpolator(around.environment, around.project)
        document = Document("")
        content = _filled(msgspec.json.decode(kept.config), document, interpolate, problems)
    except PenstockError:
        return False
    parts = {**{f"schema:{name}": text for name, text in kept.schemas.items()}}
    parts.update({_PYTHON + call: was for call, was in kept.steps.items()})
    return not problems and kept.version in (digest(canonical(each), parts) for each in (content, _with_types(content, document)))


def _with_types(content: Any, document: Document, at: Place = ()) -> Any:
    """The content where a variable's value is a number or the like, as a field may have taken it."""
    if isinstance(content, dict):
        return {key: _with_types(inner, document, (*at, key)) for key, inner in content.items()}
    if isinstance(content, list):
        return [_with_types(inner, document, (*at, index)) for index, inner in enumerate(content)]
    return document.others.get(at, content)
