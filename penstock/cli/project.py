"""From what stands on the command line to pipelines and state stores; all that is wrong is found before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from penstock.cli.lazy import Settings
from penstock.cli.stores import StoreRef
from penstock.config.model import Pipeline
from penstock.config.paths import PROJECT_FILE, expand, find_pipeline, find_project, pipeline_name, pipelines_in
from penstock.config.secret import Secret
from penstock.errors import ConfigProblem, ConfigurationError, UsageError

DEFAULT_STATE = ".penstock"


def project_root(settings: Settings) -> Path:
    """The project: `--project`, or the one that the working directory is in."""
    return settings.project.absolute() if settings.project is not None else find_project(Path.cwd())


def load_file(settings: Settings, file: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """One pipeline.

    :raises ConfigurationError: with every mistake of the file.
    """
    from penstock.config.loader import load_pipeline  # imports what checks files, which most looks at state need not wait for

    return load_pipeline(file, overrides=overrides, environment=settings.environment(), project=project_root(settings))


def load_named(settings: Settings, name: str, overrides: Sequence[str] = ()) -> Pipeline:
    """A pipeline by its name or its file.

    :raises UsageError: `usage.unknown_pipeline`, with the name that was probably meant.
    """
    return load_file(settings, find_pipeline(name, project_root(settings)), overrides)


def load_files(settings: Settings, patterns: Sequence[str], overrides: Sequence[str] = ()) -> list[Pipeline]:
    """The pipelines of files, directories, globs and names.

    :raises ConfigurationError: with every mistake of every file (Invariant 10).
    :raises UsageError: `usage.no_files`, `usage.unknown_pipeline`; `usage.same_pipeline`, where two files describe one pipeline.
    """
    pipelines: list[Pipeline] = []
    problems: list[ConfigProblem] = []
    for file in expand(patterns, project_root(settings)):
        try:
            pipelines.append(load_file(settings, file, overrides))
        except ConfigurationError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigurationError(problems)  # Invariant 10: of all files at once, before anything is opened
    _refuse_same(pipelines)
    return pipelines


def _refuse_same(pipelines: Sequence[Pipeline]) -> None:
    first: dict[str, Path] = {}
    for pipeline in pipelines:
        other = first.setdefault(pipeline.name, pipeline.file)
        if other != pipeline.file:
            raise UsageError(
                "usage.same_pipeline",
                f"{other} and {pipeline.file} both describe the pipeline {pipeline.name!r}",
                why="its name is the namespace of its state",
                help="give one of them another name",
            )


def find_stores(settings: Settings, names: Sequence[str], *, whole: bool = True) -> list[StoreRef]:
    """The state stores of some pipelines, by name or file; of all in the project where none is named.

    :param whole: load the files, so that the kinds of the sources are known too. Without, a pipeline whose state is where it is
        by default, or in a server, is found in a tenth of the time.

    A pipeline whose file is gone, or has mistakes, is looked up where state is by default. Of state in a server the file alone
    knows.

    :raises UsageError: `usage.unknown_pipeline`.
    :raises ConfigurationError: the file has mistakes, and no state is where it is by default.
    """
    project = project_root(settings)
    if not names:
        known = [name for file in pipelines_in(project / "pipelines") if (name := pipeline_name(file)) is not None]
        names = sorted({*known, *(database.stem for database in (project / DEFAULT_STATE).glob("*.db"))})
    refs = {ref.pipeline: ref for ref in (_store_of(settings, name, project, whole) for name in names)}
    return list(refs.values())


def _store_of(settings: Settings, name: str, project: Path, whole: bool) -> StoreRef:
    default = StoreRef(name, project / DEFAULT_STATE, journal=project / DEFAULT_STATE / "journal" / name)
    is_there = (default.directory / f"{name}.db").is_file()
    if not whole and (quick := _quick_store(settings, name, project)) is not None:
        return quick
    try:
        pipeline = load_named(settings, name)
    except ConfigurationError:
        if is_there:
            return default
        raise
    except UsageError as error:
        if is_there and error.code == "usage.unknown_pipeline":
            return default
        raise
    journal = pipeline.journal.directory if pipeline.journal is not None else None
    return StoreRef(pipeline.name, pipeline.state, pipeline.source.kind, pipeline.state_server, journal)


def _quick_store(settings: Settings, name: str, project: Path) -> StoreRef | None:
    """Where state is by default, or as the file says in so many words; None where a variable or `penstock.yaml` could put it
    elsewhere, or the file is missing or has mistakes: loading it says what there is to say."""
    if "PENSTOCK_STATE" in settings.environment():
        return None
    try:
        file = find_pipeline(name, project)
        text = file.read_text("utf-8-sig")
        defaults = (project / PROJECT_FILE).read_text("utf-8-sig") if (project / PROJECT_FILE).is_file() else ""
    except (UsageError, OSError, UnicodeDecodeError):
        return None
    declared = pipeline_name(file)
    if declared is None or "state" in defaults:
        return None
    default = StoreRef(declared, project / DEFAULT_STATE, journal=project / DEFAULT_STATE / "journal" / declared)
    return _said_store(settings, default, text, project) if "state" in text else default


def _said_store(settings: Settings, default: StoreRef, text: str, project: Path) -> StoreRef | None:
    from penstock.config.interpolate import Interpolator
    from penstock.config.yaml import parse_yaml

    try:
        root = parse_yaml(text, "").value
        said = root["state"].value if isinstance(root, dict) and "state" in root else None
        if said is None:
            return default if isinstance(root, dict) and "state" not in root else None
        server = Interpolator(settings.environment(), project)(said).text if isinstance(said, str) else ""
    except (ConfigurationError, ConfigProblem):
        return None
    return replace(default, server=Secret(server)) if server.startswith(("postgresql://", "postgres://")) else None
