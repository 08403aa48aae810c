"""Loads a pipeline file: parse, interpolate, overlay, validate, resolve, compile; all mistakes at once (Invariant 10).

Nothing is opened or connected. Precedence: `--set`, `PENSTOCK_…` variables, the file, `penstock.yaml`, defaults.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.config import model as typed
from penstock.config.base import Jq
from penstock.config.document import Document, read_document
from penstock.config.format import Defaults, PipelineFile, RetryFile, SinkFields, SourceFields, StepFields
from penstock.config.interpolate import Interpolator
from penstock.config.overlay import apply_environment, apply_overrides, ignored_variables, merge_defaults
from penstock.config.paths import PROJECT_FILE, expand, find_pipeline, find_project
from penstock.config.refuse import is_foreign_shape, refuse_later
from penstock.config.resolve import Resolver
from penstock.config.validate import validated
from penstock.errors import ConfigProblem, ConfigurationError, Location

__all__ = ["expand", "find_pipeline", "find_project", "load_pipeline"]


def load_pipeline(
    file: Path, *, overrides: Sequence[str] = (), environment: Mapping[str, str], project: Path | None = None
) -> typed.Pipeline:
    """The typed pipeline of a file.

    :param overrides: `path=value`, as `--set` takes them.
    :param environment: for `${VAR}` and `PENSTOCK_…`.
    :param project: the project's root; by default found from the working directory.
    :raises ConfigurationError: with every mistake of the file.
    """
    root = project or find_project(Path.cwd())
    problems: list[ConfigProblem] = []
    document = _read(file, root, environment, problems)
    if isinstance(document.data, dict):
        _overlay(document, root, overrides, environment, problems)
        pipeline = _Loading(document, file.absolute(), root, problems, ignored_variables(environment)).pipeline()
    else:
        pipeline = None
        if not problems:
            problems.append(
                ConfigProblem("config.not_a_pipeline", "a pipeline is a block of fields", where=Location(document.file, 1, 1))
            )
    if problems or pipeline is None:
        raise ConfigurationError(sorted(problems, key=_place))
    return pipeline


def _place(problem: ConfigProblem) -> tuple[int, int]:
    where = problem.where
    return (where.line, where.column) if isinstance(where, Location) else (0, 0)


def _read(file: Path, project: Path, environment: Mapping[str, str], problems: list[ConfigProblem]) -> Document:
    return read_document(file, _shown(file), Interpolator(environment, project), problems)


def _shown(file: Path) -> str:
    """As short as it can be said from here."""
    absolute, here = file.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(file)


def _overlay(
    document: Document, project: Path, overrides: Sequence[str], environment: Mapping[str, str], problems: list[ConfigProblem]
) -> None:
    defaults = project / PROJECT_FILE
    if defaults.is_file():
        below = _read(defaults, project, environment, problems)
        if isinstance(below.data, dict):
            problems.extend(refuse_later(below))
        if below.data is not None and validated(Defaults, below.data, below, (), problems) is not None:
            merge_defaults(document.data, below.data)
    problems.extend(apply_environment(document, environment))
    problems.extend(apply_overrides(document, overrides))


class _Loading:
    """One file on its way to a `Pipeline`."""

    def __init__(self, document: Document, file: Path, project: Path, problems: list[ConfigProblem], warnings: list[str]) -> None:
        self.document, self.file, self.project, self.problems = document, file, project, problems
        self.resolver = Resolver(document, str(document.data.get("pipeline", "")), file, project, problems)
        self.warnings = warnings

    def pipeline(self) -> typed.Pipeline | None:
        """None where problems were found."""
        document = self.document
        if is_foreign_shape(document.data):
            help = "`input:` is `source:`, `pipeline.processors:` is `transforms:`, `output:` is `sink:`"
            self.problems.append(
                ConfigProblem(
                    "config.foreign_file",
                    "this is a file for Benthos or Redpanda Connect",
                    where=Location(document.file, 1, 1),
                    help=help,
                )
            )
            return None
        self.problems.extend(refuse_later(document))
        form = validated(PipelineFile, document.data, document, (), self.problems)
        source = self._source(document.data.get("source"))
        steps = self._steps(form, document.data)
        sinks = self._sinks(document.data)
        self._check_dedup(document.data.get("dedup"))
        if form is None or source is None or self.problems:
            return None
        return self._assemble(form, *source, steps, sinks)

    def _source(self, entry: Any) -> tuple[typed.Component, typed.EventFields] | None:
        if entry is None:
            return None
        component, fields = self.resolver.resolve("source", entry, ("source",), SourceFields)
        if component is None or fields is None:
            return None
        return component, typed.EventFields(**fields.event.model_dump())

    def _steps(self, form: PipelineFile | None, data: Mapping[str, Any]) -> list[typed.Step]:
        entries: list[tuple[Any, tuple[str | int, ...], str | None]] = []
        validate = data.get("validate")
        if isinstance(validate, str):
            entries.append(({"validate": validate, "name": "validate"}, (), None))
        elif isinstance(validate, dict):
            beside = {"on_invalid": validate["on_invalid"]} if "on_invalid" in validate else {}
            block = {"validate": {"schema": validate.get("schema")}, "name": "validate", **beside}
            entries.append((block, (), None))
        transforms = data.get("transforms")
        if isinstance(transforms, list):
            entries.extend((entry, ("transforms", index), None) for index, entry in enumerate(transforms))
        steps = []
        for number, (entry, path, _) in enumerate(entries, start=0 if isinstance(validate, (str, dict)) else 1):
            step = self._step(entry, path, number)
            if step is not None:
                steps.append(step)
        self._check_unique("step", [step.name for step in steps], "transforms")
        return steps

    def _step(self, entry: Any, path: tuple[str | int, ...], number: int) -> typed.Step | None:
        entry = _with_on_invalid(entry)
        component, fields = self.resolver.resolve("transform", entry, path, StepFields)
        if component is None or fields is None:
            return None
        if fields.set:  # a step's `set:` is a `set` transform behind it
            validated(
                self.resolver.catalog.find("transform", "set").Config, fields.set, self.document, (*path, "set"), self.problems
            )
        return typed.Step(
            name=fields.name or f"{component.kind}-{number}",
            component=component,
            named=fields.name is not None,
            when=fields.when,
            on_error=fields.on_error,
            on_invalid=fields.on_invalid,
            timeout=fields.timeout,
            retry=None if fields.retry is None else _retry(fields.retry),
            set=fields.set,
        )

    def _sinks(self, data: Mapping[str, Any]) -> list[typed.SinkEntry]:
        entries: list[tuple[Any, tuple[str | int, ...]]] = []
        if data.get("sink") is not None:
            entries.append((data["sink"], ("sink",)))
        several = data.get("sinks")
        if isinstance(several, list):
            entries.extend((entry, ("sinks", index)) for index, entry in enumerate(several))
        if len(entries) > 1 and data.get("sink") is not None:
            self._problem("config.sink_and_sinks", "`sink` and `sinks` do not go together", ("sink",), "move it into `sinks`")
        if not entries and several in (None, []):
            self._problem("config.missing_field", "'sink' is missing", (), "`sink: stdout`, for example")
        found = []
        for entry, path in entries:
            component, fields = self.resolver.resolve("sink", entry, path, SinkFields)
            if component is not None and fields is not None:
                found.append((component, fields))
        kinds = Counter(component.kind for component, fields in found if fields.name is None)
        seen: Counter[str] = Counter()
        sinks = []
        for component, fields in found:
            seen[component.kind] += 1
            default = component.kind if kinds[component.kind] == 1 else f"{component.kind}-{seen[component.kind]}"
            sinks.append(typed.SinkEntry(fields.name or default, component, fields.when))
        self._check_unique("sink", [sink.name for sink in sinks], "sinks")
        return sinks

    def _check_unique(self, what: str, names: Sequence[str], path: str) -> None:
        for name, count in Counter(names).items():
            if count > 1:
                self._problem("config.duplicate_name", f"{count} {what}s are named '{name}'", (path,), "give each its own `name`")

    def _check_dedup(self, dedup: Any) -> None:
        if isinstance(dedup, dict) and isinstance(dedup.get("key"), str):
            self.resolver.check_program(dedup["key"], Jq("event", literal=True), ("dedup", "key"))

    def _problem(self, code: str, message: str, path: tuple[str | int, ...], help: str | None = None) -> None:
        self.problems.append(ConfigProblem(code, message, where=self.document.at(path), help=help))

    def _assemble(
        self,
        form: PipelineFile,
        source: typed.Component,
        event: typed.EventFields,
        steps: Sequence[typed.Step],
        sinks: Sequence[typed.SinkEntry],
    ) -> typed.Pipeline:
        dedup = None if form.dedup is None else typed.Dedup(form.dedup.window, form.dedup.key)
        schemas = {name.removeprefix("schema:"): text for name, text in self.resolver.parts.items() if name.startswith("schema:")}
        python = {name.removeprefix("python:"): text for name, text in self.resolver.parts.items() if name.startswith("python:")}
        resolved = _canonical(form, source, event, steps, sinks)
        content = [resolved, *(f"{key}={value}" for key, value in sorted(self.resolver.parts.items()))]
        letters, limits = form.dead_letter, form.limits
        return typed.Pipeline(
            name=form.pipeline,
            description=form.description,
            file=self.file,
            project=self.project,
            source=source,
            event=event,
            steps=steps,
            sinks=sinks,
            version=hashlib.sha256("\n".join(content).encode()).hexdigest(),
            resolved=resolved,
            schemas=schemas,
            steps_digest=python,
            state=(self.project / form.state.removeprefix("sqlite:")),
            dedup=dedup,
            route=form.route,
            batching=typed.Batching(form.batching.count, form.batching.bytes, form.batching.period),
            retry=_retry(form.retry),
            dead_letter=typed.DeadLetters(letters.retention, letters.alert_threshold, letters.lane),
            limits=typed.Limits(limits.in_flight_events, limits.in_flight_bytes, limits.rate),
            workers=form.workers,
            transform_timeout=form.transform_timeout,
            worker_memory=form.worker_memory,
            shutdown_timeout=form.shutdown_timeout,
            tests=[self._test(index, case) for index, case in enumerate(form.tests)],
            warnings=[*self.warnings, *_warnings(source, dedup)],
        )

    def _test(self, index: int, case: Any) -> typed.TestCase:
        at = self.document.at(("tests", index))
        return typed.TestCase(case.name, case.input, case.output, case.mocks, at, case.dead_letter)


def _with_on_invalid(entry: Any) -> Any:
    """`on_invalid` may stand beside `validate:` as well as inside it."""
    if isinstance(entry, dict) and "validate" in entry and "on_invalid" in entry:
        block = entry["validate"]
        inside = {"schema": block} if isinstance(block, str) else block
        if isinstance(inside, dict):
            return {**entry, "validate": {**inside, "on_invalid": entry["on_invalid"]}}
    return entry


def _retry(retry: RetryFile) -> typed.Retry:
    return typed.Retry(retry.max_attempts, retry.backoff, retry.initial_delay, retry.max_delay, retry.max_elapsed)


def _canonical(
    form: PipelineFile,
    source: typed.Component,
    event: typed.EventFields,
    steps: Sequence[typed.Step],
    sinks: Sequence[typed.SinkEntry],
) -> str:
    """Everything that decides what happens to an event, as one line of JSON; secrets show as `***` (Invariant 9)."""
    content = {
        "pipeline": form.pipeline,
        "source": _dump(source),
        "event": event.given(),
        "dedup": None if form.dedup is None else form.dedup.model_dump(mode="json"),
        "transforms": [
            {"name": s.name, **_dump(s.component), "when": s.when, "on_error": s.on_error, "set": dict(s.set)} for s in steps
        ],
        "sinks": [{"name": s.name, **_dump(s.component), "when": s.when} for s in sinks],
        "route": form.route,
        "lane": form.dead_letter.lane,
    }
    return msgspec.json.encode(content, order="sorted").decode()


def _dump(component: typed.Component) -> dict[str, Any]:
    return {component.kind: component.config.model_dump(mode="json", by_alias=True)}


def _warnings(source: typed.Component, dedup: typed.Dedup | None) -> list[str]:
    if dedup is not None and dedup.key is not None and source.kind.endswith("_cdc"):
        return ["dedup.key over changes of rows: a key names one change, not one entity, or an order's second update is dropped"]
    return []
