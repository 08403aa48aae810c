"""`pipe lint`: everything that is wrong with some files, found without connecting to anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.config.loader import load_pipeline
from penstock.config.model import Pipeline
from penstock.errors import ConfigProblem, ConfigurationError, Location


@dataclass(frozen=True, slots=True)
class LintReport:
    """What was found in one file. `pipeline` is None where there are problems."""

    file: Path
    problems: Sequence[ConfigProblem]
    warnings: Sequence[str]
    pipeline: Pipeline | None = None


def lint(
    files: Sequence[Path], *, overrides: Sequence[str] = (), environment: Mapping[str, str], project: Path | None = None
) -> list[LintReport]:
    """A report for each file, in their order. Two files that declare the same pipeline are a problem of the second."""
    reports: list[LintReport] = []
    taken: dict[str, Path] = {}
    for file in files:
        try:
            pipeline = load_pipeline(file, overrides=overrides, environment=environment, project=project)
        except ConfigurationError as error:
            reports.append(LintReport(file, error.problems, ()))
            continue
        first = taken.setdefault(pipeline.name, file)
        problems = [_taken(pipeline, file, first)] if first.resolve() != file.resolve() else []
        reports.append(LintReport(file, problems, pipeline.warnings, None if problems else pipeline))
    return reports


def _taken(pipeline: Pipeline, file: Path, first: Path) -> ConfigProblem:
    return ConfigProblem(
        "config.duplicate_pipeline",
        f"pipeline '{pipeline.name}' is declared in {first} already",
        where=Location(str(file), 1, 1, "pipeline"),
        help="give it another name: it is the namespace of its state",
    )
