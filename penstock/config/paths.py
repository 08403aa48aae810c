"""Where things are: the project's root, the files that arguments name, the pipeline that a name means."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path

from penstock.config.suggest import did_you_mean
from penstock.config.yaml import MAX_BYTES
from penstock.errors import UsageError

PROJECT_FILE = "penstock.yaml"
_NAME = re.compile(r"[a-z0-9-]{1,63}")
_PIPELINE = re.compile(r"^[\"']?pipeline[\"']?:[ \t]+[\"']?([^\s\"'#{\[|>&*!]+)", re.MULTILINE)


def find_project(start: Path) -> Path:
    """The nearest directory, from `start` upwards, that holds `penstock.yaml`; else `start`."""
    start = start.absolute()
    return next((place for place in (start, *start.parents) if (place / PROJECT_FILE).is_file()), start)


def expand(arguments: Sequence[str], project: Path | None = None) -> list[Path]:
    """The files that arguments name, each once: files, globs, directories, which mean the pipelines in them, and names.

    :param project: where names of pipelines are looked up; None: there are no names.
    :raises UsageError: `usage.no_files`, where one names nothing; what `find_pipeline` raises.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        if project is not None and _NAME.fullmatch(argument) and not Path(argument).exists():
            paths = [find_pipeline(argument, project)]
        else:
            paths = list(_expand_one(argument))
        if not paths:
            raise UsageError(
                "usage.no_files",
                f"{argument} names no pipeline file",
                help="a file, a directory or a glob of `*.yaml`, or the name of a pipeline",
            )
        for path in paths:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _expand_one(argument: str) -> Iterator[Path]:
    path = Path(argument)
    if path.is_dir():
        yield from pipelines_in(path)
    elif path.exists() or not any(sign in argument for sign in "*?["):
        if path.exists():
            yield path
    else:
        matches = sorted(glob(argument, recursive=True))  # noqa: PTH207  # a pattern may be absolute
        yield from (path for path in map(Path, matches) if path.is_file())


def pipelines_in(directory: Path) -> list[Path]:
    """The `*.yaml` and `*.yml` files of a directory that declare a pipeline, or cannot be read: who loads these says why."""
    files = sorted(path for suffix in ("yaml", "yml") for path in directory.glob(f"*.{suffix}") if path.is_file())
    return [file for file in files if file.name != PROJECT_FILE and _may_declare(file)]


def _may_declare(file: Path) -> bool:
    try:
        return _declared(file) is not None
    except OSError:  # Invariant 13: not left out in silence
        return True


def pipeline_name(file: Path) -> str | None:
    """What the file calls its pipeline, without checking anything else of it; None where it declares none, or cannot be read."""
    try:
        return _declared(file)
    except OSError:
        return None


def _declared(file: Path) -> str | None:
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        match = _PIPELINE.search(stream.read(MAX_BYTES))
    return match[1] if match else None


def find_pipeline(name: str, project: Path) -> Path:
    """The file of a pipeline, by its name (looked up in `pipelines/*.yaml`) or as a path.

    :raises UsageError: `usage.unknown_pipeline`, with the nearest name; `usage.same_pipeline`, where two files have that name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if path.is_file():
            return path
    known: dict[str, list[Path]] = {}
    for file in pipelines_in(project / "pipelines"):
        declared = pipeline_name(file)
        if declared is not None:
            known.setdefault(declared, []).append(file)
    files = known.get(name, [])
    if len(files) > 1:
        raise UsageError(
            "usage.same_pipeline",
            f"{' and '.join(map(str, files))} are both called '{name}'",
            why="its name is the namespace of a pipeline's state",
            help="name the file, or give one of them another name",
        )
    if files:
        return files[0]
    there = f"there are {', '.join(sorted(known))}" if known else "there is none in pipelines/"
    hint = f"{there}; of one elsewhere write its file"
    raise UsageError("usage.unknown_pipeline", f"there is no pipeline '{name}'", help=did_you_mean(name, known) or hint)
