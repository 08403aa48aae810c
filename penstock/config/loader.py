"""Loads a pipeline file: parse, interpolate, overlay, validate, resolve, compile; all mistakes at once (Invariant 10).

Nothing is opened or connected. Precedence: `--set`, `PENSTOCK_…` variables, the file, `penstock.yaml`, defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock.components import Catalog
from penstock.config import model as typed
from penstock.config.document import Document, read_document
from penstock.config.effects import check_effects, check_mocks
from penstock.config.entries import retry_of, sinks_of, source_of, steps_of
from penstock.config.format import DedupFile, Defaults, PipelineFile, TestFile
from penstock.config.interpolate import Interpolator
from penstock.config.notes import notes
from penstock.config.overlay import PREFIX, apply_environment, apply_overrides, ignored_variables, merge_defaults
from penstock.config.paths import PROJECT_FILE, expand, find_pipeline, find_project
from penstock.config.refuse import is_foreign_shape, refuse_later
from penstock.config.resolve import Resolver
from penstock.config.secret import Secret
from penstock.config.validate import validated
from penstock.config.version import canonical, content_of, digest, kept
from penstock.errors import ConfigProblem, ConfigurationError, Location

__all__ = ["expand", "find_pipeline", "find_project", "load_pipeline", "project_registry"]

_UNREAD = frozenset({"config.undefined_variable", "config.bad_reference", "config.unreadable_file", "config.number_out_of_range"})
"""Codes of values that could not be made; whatever else seems wrong with these follows from it."""


def load_pipeline(
    file: Path, *, overrides: Sequence[str] = (), environment: Mapping[str, str], project: Path | None = None
) -> typed.Pipeline:
    """The typed pipeline of a file.

    :param overrides: `path=value`, as `--set` takes them.
    :param environment: for `${VAR}` and `PENSTOCK_…`.
    :param project: the project's root; by default found from the working directory.
    :raises ConfigurationError: with every mistake of the file.
    """
    root = (project or find_project(Path.cwd())).absolute()
    problems: list[ConfigProblem] = []
    document, catalog = _read(file, root, environment, problems), Catalog()
    pipeline = None
    if isinstance(document.data, dict):
        _overlay(document, root, overrides, environment, problems, catalog)
        pipeline = _pipeline(document, file.absolute(), root, problems, ignored_variables(environment), catalog)
    elif not problems:
        where = Location(document.file, 1, 1)
        help = "`pipe new NAME` writes one to start from"
        problems.append(ConfigProblem("config.not_a_pipeline", "a pipeline is a block of fields", where=where, help=help))
    if problems or pipeline is None:
        for problem in problems:
            document.conceal(problem)  # Invariant 9: neither do errors show what came from variables and files
        raise ConfigurationError(_in_order(problems, document.file))
    return pipeline


def _in_order(problems: Sequence[ConfigProblem], file: str) -> list[ConfigProblem]:
    """By place, the pipeline's own file first; of one cause one problem."""
    unread = {str(problem.where) for problem in problems if problem.code in _UNREAD}
    told: dict[tuple[str, str, str], ConfigProblem] = {}
    for problem in problems:
        if problem.code in _UNREAD or str(problem.where) not in unread:
            told.setdefault((problem.code, str(problem.where), problem.message), problem)

    def place(problem: ConfigProblem) -> tuple[bool, str, int, int]:
        where = problem.where if isinstance(problem.where, Location) else Location(str(problem.where))
        return where.file != file, where.file, where.line, where.column

    return sorted(told.values(), key=place)


def _read(file: Path, project: Path, environment: Mapping[str, str], problems: list[ConfigProblem]) -> Document:
    return read_document(file, _shown(file), Interpolator(environment, project), problems)


def _shown(file: Path) -> str:
    """As short as it can be said from here."""
    absolute, here = file.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(file)


def _overlay(
    document: Document,
    project: Path,
    overrides: Sequence[str],
    environment: Mapping[str, str],
    problems: list[ConfigProblem],
    catalog: Catalog,
) -> None:
    defaults = _defaults(project, environment, problems)
    if defaults is not None:
        merge_defaults(document.data, defaults)
    problems.extend(apply_environment(document, environment, catalog))
    problems.extend(apply_overrides(document, overrides, catalog))


def _defaults(project: Path, environment: Mapping[str, str], problems: list[ConfigProblem]) -> Defaults | None:
    """What `penstock.yaml` says; None where there is none, or problems were found."""
    file = project / PROJECT_FILE
    if not file.is_file():
        return None
    document = _read(file, project, environment, problems)
    if document.data is None:
        return None
    found = len(problems)
    if isinstance(document.data, dict):
        problems.extend(refuse_later(document))
    form = validated(Defaults, document.data, document, (), problems)
    for problem in problems[found:]:
        document.conceal(problem)
    return form


def project_registry(project: Path, environment: Mapping[str, str]) -> Path:
    """Directory of the schemas of a whole project: what a variable or `penstock.yaml` says, else `schemas` beside its pipelines.

    :raises ConfigurationError: with every mistake of `penstock.yaml`.
    """
    problems: list[ConfigProblem] = []
    defaults = _defaults(project, environment, problems)
    if problems:
        raise ConfigurationError(problems)
    named = environment.get(f"{PREFIX}REGISTRY") or (defaults.registry if defaults is not None else None)
    return project / (named or Path("pipelines", "schemas"))


def _pipeline(
    document: Document, file: Path, project: Path, problems: list[ConfigProblem], warnings: Sequence[str], catalog: Catalog
) -> typed.Pipeline | None:
    """None where problems were found."""
    if is_foreign_shape(document.data):
        problems.append(_foreign_file(document))
        return None
    problems.extend(refuse_later(document))
    registry = document.data.get("registry")
    directory = project / registry if isinstance(registry, str) else None
    resolver = Resolver(document, str(document.data.get("pipeline", "")), file, project, problems, directory, catalog=catalog)
    form = validated(PipelineFile, document.data, document, (), problems)
    source, steps, sinks = source_of(resolver), steps_of(resolver), sinks_of(resolver)
    check_effects(resolver, form.workers if form is not None else 0)
    check_mocks(resolver, steps)
    resolver.check_programs(DedupFile, document.data.get("dedup"), ("dedup",))
    for name in ("pipeline", "dedup"):
        resolver.refuse_secrets((name,))
    if form is None or source is None or problems:
        return None
    return _typed(form, resolver, source, steps, sinks, warnings)


def _foreign_file(document: Document) -> ConfigProblem:
    return ConfigProblem(
        "config.foreign_file",
        "this is a file for Benthos or Redpanda Connect",
        where=Location(document.file, 1, 1),
        help="`input:` is `source:`, `pipeline.processors:` is `transforms:`, `output:` is `sink:`",
    )


def _typed(
    form: PipelineFile,
    resolver: Resolver,
    source: tuple[typed.Component, typed.EventFields],
    steps: Sequence[typed.Step],
    sinks: Sequence[typed.SinkEntry],
    warnings: Sequence[str],
) -> typed.Pipeline:
    content = content_of(form, *source, steps, sinks)
    text = canonical(content)
    is_local = form.state.startswith("sqlite:")
    limits, batching = form.limits, form.batching
    return typed.Pipeline(
        name=form.pipeline,
        description=form.description,
        file=resolver.file,
        project=resolver.project,
        source=source[0],
        event=source[1],
        steps=steps,
        sinks=sinks,
        version=digest(text, resolver.parts),
        resolved=kept(content, resolver.document),
        content=text,
        schemas=_parts(resolver, "schema:"),
        steps_digest=_parts(resolver, "python:"),
        state=resolver.project / (form.state.removeprefix("sqlite:") if is_local else ".penstock"),
        state_server=None if is_local else Secret(form.state),
        registry=resolver.registry,
        dedup=None if form.dedup is None else typed.Dedup(form.dedup.window, form.dedup.key),
        route=form.route,
        batching=typed.Batching(batching.count, batching.bytes, batching.period),
        retry=retry_of(form.retry),
        dead_letter=_letters(form),
        limits=typed.Limits(limits.in_flight_events, limits.in_flight_bytes, limits.rate),
        journal=_journal(form, resolver, is_local),
        workers=form.workers,
        transform_timeout=form.transform_timeout,
        worker_memory=form.worker_memory,
        shutdown_timeout=form.shutdown_timeout,
        promote=form.promote,
        pause_after=form.pause_after,
        tests=_tests(form, resolver.document),
        warnings=[*warnings, *resolver.warnings, *notes(form, source[0], steps, source[1])],
    )


def _letters(form: PipelineFile) -> typed.DeadLetters:
    letters = form.dead_letter
    retry = () if letters.retry == "never" else tuple(letters.retry)
    return typed.DeadLetters(letters.retention, letters.alert_threshold, letters.lane, retry)


def _journal(form: PipelineFile, resolver: Resolver, is_local: bool) -> typed.Journal | None:
    journal = form.journal
    if journal == "off":
        return None
    beside = resolver.project / (form.state.removeprefix("sqlite:") if is_local else ".penstock") / "journal"
    directory = beside if journal.path is None else resolver.project / journal.path
    return typed.Journal(directory / form.pipeline, journal.retention, journal.max_size, journal.outputs)


def _parts(resolver: Resolver, prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): text for name, text in resolver.parts.items() if name.startswith(prefix)}


def _tests(form: PipelineFile, document: Document) -> list[typed.TestCase]:
    return [
        typed.TestCase(case.name, case.input, case.output, _mocks(case), document.at(("tests", index)), case.dead_letter)
        for index, case in enumerate(form.tests)
    ]


def _mocks(case: TestFile) -> dict[str, typed.Mock]:
    return {name: typed.Mock(mock.output, mock.error, mock.delay) for name, mock in case.mocks.items()}
