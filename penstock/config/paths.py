"""Where things are: the project's root, the files that arguments name, the pipeline that a name means."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from glob import glob
from pathlib import Path

from penstock.errors import UsageError

PROJECT_FILE = "penstock.yaml"
_PIPELINE = re.compile(r"^pipeline:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


def find_project(start: Path) -> Path:
    """The nearest directory, from `start` upwards, that holds `penstock.yaml`; else `start`."""
    start = start.absolute()
    return next((place for place in (start, *start.parents) if (place / PROJECT_FILE).is_file()), start)


def expand(arguments: Sequence[str]) -> list[Path]:
    """The files that arguments name, each once: files, globs, and directories, which mean the pipelines in them.

    :raises UsageError: `usage.no_files`, where one names nothing.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        paths = list(_expand_one(argument))
        if not paths:
            raise UsageError(
                "usage.no_files", f"{argument} names no pipeline file", help="a file, a directory or a glob of `*.yaml`"
            )
        found.update(dict.fromkeys(paths))
    return list(found)


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
    """The `*.yaml` and `*.yml` files of a directory that declare a pipeline."""
    files = sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")])
    return [file for file in files if file.name != PROJECT_FILE and pipeline_name(file) is not None]


def pipeline_name(file: Path) -> str | None:
    """What the file calls its pipeline, without checking anything else of it."""
    match = _PIPELINE.search(file.read_text(encoding="utf-8", errors="replace"))
    return match[1] if match else None


def find_pipeline(name: str, project: Path) -> Path:
    """The file of a pipeline, by its name (looked up in `pipelines/*.yaml`) or as a path.

    :raises UsageError: `usage.unknown_pipeline`, with the nearest name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if path.is_file():
            return path
    known = {found: file for file in pipelines_in(project / "pipelines") if (found := pipeline_name(file))}
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    hint = (
        f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}" if known else "there is none in pipelines/"
    )
    raise UsageError("usage.unknown_pipeline", f"there is no pipeline '{name}'", help=hint)
