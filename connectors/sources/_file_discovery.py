"""Finds the files that globs name, and tells a renamed one from a new one. Blocking: belongs in the source's thread."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from connectors.sources._file_reader import suffix_of
from connectors.sources._marks import Known, Likeness, compare_heads, read_head
from penstock.errors import EnvironmentFault

Heads = list[tuple[int, bytes]]


class Discovery:
    """Which partitions there are. Remembers, by device and inode, which files belong to one already."""

    def __init__(self, project: Path, patterns: Sequence[str]) -> None:
        self._project = project
        self._patterns = patterns
        self._owners: dict[tuple[int, int], tuple[str, Heads]] = {}

    def remember(self, name: str, inode: tuple[int, int], heads: Heads) -> None:
        self._owners[inode] = name, heads

    def remember_known(self, name: str, known: Known) -> None:
        if known.mark is None:
            return
        self.remember(name, (known.mark.device, known.mark.inode), known.mark.heads)
        for entry in known.mark.finished:
            self.remember(name, (entry.device, entry.inode), entry.heads)

    def scan(self, known: Collection[str], *, strict: bool) -> list[str]:
        """Partitions that the patterns match now, and those of `known` whose file may have been renamed, in name order.

        :raises EnvironmentFault: `source.no_files`, where `strict` is set and a pattern matches nothing.
        """
        names: set[str] = set()
        for pattern in self._patterns:
            matched = list(self._match(pattern))
            if strict and not matched:
                raise EnvironmentFault(
                    "source.no_files",
                    f"no file matches {pattern!r}",
                    where=str(self._project),
                    help="check `paths`; with `follow: true` files may appear later",
                )
            names.update(matched)
        gone = (name for name in known if name not in names and not (self._project / name).exists())
        return sorted({*names, *gone})

    def _match(self, pattern: str) -> Iterator[str]:
        """Paths, relative to the project where they lie inside it. `**` as the last part means files alone."""
        for text in glob.iglob(pattern, root_dir=self._project, recursive=True):  # noqa: PTH207  # Path.glob takes no absolute one
            path = Path(os.path.normpath(self._project / text))
            if not (pattern.endswith("**") and path.is_dir()):
                yield str(path.relative_to(self._project)) if path.is_relative_to(self._project) else str(path)

    def is_renamed(self, name: str) -> bool:
        """Whether a path seen for the first time is a file that another partition has read or is reading: a rotated one."""
        path = self._project / name
        if not path.is_file():
            return False
        status = path.stat()
        owner, heads = self._owners.get((status.st_dev, status.st_ino), (name, []))
        home = self._project / owner
        if owner == name or (home.exists() and os.path.samestat(home.stat(), status)):
            return False
        return compare_heads(read_head(path, suffix_of(owner)), heads) is not Likeness.DIFFERENT

    def size(self, name: str) -> int:
        path = self._project / name
        return path.stat().st_size if path.is_file() else 0
