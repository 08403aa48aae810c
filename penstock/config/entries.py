"""The entries of a file that name components: its source, its steps, its sinks, each with its name and the fields beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from penstock.config import model as typed
from penstock.config.document import Path
from penstock.config.format import RetryFile, SinkFields, SourceFields, StepFields
from penstock.config.resolve import Resolver
from penstock.config.validate import validated

FIRST = "validate"
"""What the step is called that `validate:` at the top of the file makes."""


_RESERVED = frozenset({"source", "decode", "event", "dedup", "lane", "transforms", "state"})
"""What dead letters call the places of a failure that are no steps, and the ledger of the state store."""


def source_of(resolver: Resolver) -> tuple[typed.Component, typed.EventFields] | None:
    """The source, and how its records become events."""
    data = resolver.document.data
    entry = data.get("source")
    if entry is None:
        if "source" in data:  # where even the field is missing, its model says so
            resolver.problem("config.missing_field", "'source' is missing", ("source",), "`source: stdin`, for example")
        return None
    component, fields = resolver.resolve("source", entry, ("source",), SourceFields)
    if component is None or fields is None:
        return None
    return component, typed.EventFields(**fields.event.model_dump())


def steps_of(resolver: Resolver) -> list[typed.Step]:
    """The steps, in order; unnamed ones are called after their kind and place."""
    steps: list[tuple[typed.Step, Path]] = []
    first = _first_step(resolver)
    if first is not None:
        steps.append((first, (FIRST,)))
    transforms = resolver.document.data.get("transforms")
    for index, entry in enumerate(transforms if isinstance(transforms, list) else ()):
        step = _step(resolver, entry, index)
        if step is not None:
            steps.append((step, ("transforms", index)))
    _refuse_same(resolver, "step", [(step.name, path) for step, path in steps])
    return [step for step, _ in steps]


def _first_step(resolver: Resolver) -> typed.Step | None:
    """`validate:` at the top of the file is a step as any other; what is wrong with its form is told with the file's fields."""
    validate = resolver.document.data.get(FIRST)
    schema = validate.get("schema") if isinstance(validate, dict) else validate
    if not isinstance(schema, str):
        return None
    component, _ = resolver.resolve("transform", {FIRST: validate}, (), StepFields)
    return None if component is None else typed.Step(FIRST, component, named=True)


def _step(resolver: Resolver, entry: Any, index: int) -> typed.Step | None:
    path: Path = ("transforms", index)
    component, fields = resolver.resolve("transform", _with_on_invalid(resolver, entry, path), path, StepFields)
    if component is None or fields is None:
        return None
    if fields.set:  # a step's `set:` is a `set` transform behind it
        config = resolver.catalog.find("transform", "set").Config
        validated(config, fields.set, resolver.document, (*path, "set"), resolver.problems)
    return typed.Step(
        name=fields.name or f"{component.kind}-{index + 1}",
        component=component,
        named=fields.name is not None,
        when=fields.when,
        on_error=fields.on_error,
        timeout=fields.timeout,
        retry=None if fields.retry is None else retry_of(fields.retry),
        set=fields.set,
        effects=fields.effects,
        idempotency_key=fields.idempotency_key,
    )


def _with_on_invalid(resolver: Resolver, entry: Any, path: Path) -> Any:
    """`on_invalid` may stand beside `validate:` as well as inside it; anywhere else it would mean nothing."""
    if not isinstance(entry, dict) or "on_invalid" not in entry:
        return entry
    around = {key: value for key, value in entry.items() if key != "on_invalid"}
    inside = entry.get("validate")
    block = inside
    if isinstance(inside, str):
        block = {"schema": inside}
        resolver.document.stand_in((*path, "validate"), (*path, "validate", "schema"))
    if not isinstance(block, dict):
        resolver.problem(
            "config.invalid_value",
            "on_invalid belongs to `validate`",
            (*path, "on_invalid"),
            "other steps have `on_error: dead_letter`, `skip` or `stop`",
            key=True,
        )
        return around
    if "on_invalid" in block:
        resolver.problem("config.duplicate_key", "on_invalid stands twice", (*path, "on_invalid"), "keep one of them", key=True)
        return around
    resolver.document.stand_in((*path, "on_invalid"), (*path, "validate", "on_invalid"))
    return {**around, "validate": {**block, "on_invalid": entry["on_invalid"]}}


def sinks_of(resolver: Resolver) -> list[typed.SinkEntry]:
    """The sinks, in order; unnamed ones are called after their kind, numbered where there are several of it."""
    found: list[tuple[typed.Component, SinkFields, Path]] = []
    for entry, path in _sink_entries(resolver):
        component, fields = resolver.resolve("sink", entry, path, SinkFields)
        if component is not None and fields is not None:
            found.append((component, fields, path))
    kinds = Counter(component.kind for component, fields, _ in found if fields.name is None)
    seen: Counter[str] = Counter()
    sinks: list[tuple[typed.SinkEntry, Path]] = []
    for component, fields, path in found:
        seen[component.kind] += 1
        default = component.kind if kinds[component.kind] == 1 else f"{component.kind}-{seen[component.kind]}"
        sinks.append((typed.SinkEntry(fields.name or default, component, fields.when), path))
    _refuse_same(resolver, "sink", [(sink.name, path) for sink, path in sinks])
    return [sink for sink, _ in sinks]


def _sink_entries(resolver: Resolver) -> list[tuple[Any, Path]]:
    data = resolver.document.data
    one, several = data.get("sink"), data.get("sinks")
    if one is None and several in (None, []):
        resolver.problem("config.missing_field", "'sink' is missing", (), "`sink: stdout`, for example")
    if one is not None and several:
        resolver.problem("config.sink_and_sinks", "`sink` and `sinks` do not go together", ("sink",), "move it into `sinks`")
    entries: list[tuple[Any, Path]] = [] if one is None else [(one, ("sink",))]
    entries.extend((entry, ("sinks", index)) for index, entry in enumerate(several if isinstance(several, list) else ()))
    return entries


def _refuse_same(resolver: Resolver, what: str, named: Sequence[tuple[str, Path]]) -> None:
    first: dict[str, Path] = {}
    for name, path in named:
        if name in _RESERVED:
            message = f"a {what} cannot be named '{name}': dead letters and ledgers call a part of the pipeline itself so"
            resolver.problem("config.reserved_name", message, path, "choose another `name`")
        other = first.setdefault(name, path)
        if other is not path:
            line = resolver.document.at(other).line
            resolver.problem(
                "config.duplicate_name",
                f"two {what}s are named '{name}', the first in line {line}",
                path,
                "give each its own `name`",
            )


def retry_of(retry: RetryFile) -> typed.Retry:
    """`retry:` as the engine takes it."""
    return typed.Retry(retry.max_attempts, retry.backoff, retry.initial_delay, retry.max_delay, retry.max_elapsed)
