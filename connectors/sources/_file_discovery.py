"""Finds the files that globs name, and tells a renamed one from a new one. Blocking: belongs in the source's thread."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.sources._file_faults import stat_of
from connectors.sources._file_reader import Reader, suffix_of
from connectors.sources._marks import Known, Likeness, compare, compare_heads, is_other_file, read_head
from penstock.errors import EnvironmentFault

Heads = list[tuple[int, bytes]]
Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Owner:
    """The partition that a file belongs to, and how the file is recognised. `known` is its checkpoint, where it is not open."""

    name: str
    heads: Heads
    incarnation: int
    known: Known | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What stood at a path when it was looked at.

    :ivar inode: None where nothing did, or where it cannot be told.
    :ivar renamed: it is a file that another partition has read or is reading: a rotated one.
    """

    inode: Inode | None
    renamed: bool


class Discovery:
    """Which partitions there are. Remembers, by device and inode, which files belong to one already."""

    def __init__(self, project: Path, patterns: Sequence[str]) -> None:
        self._project = project
        self._patterns = patterns
        self._owners: dict[Inode, Owner] = {}

    def remember(self, reader: Reader) -> None:
        self._owners[reader.inode] = Owner(reader.partition, reader.heads, reader.incarnation)

    def remember_known(self, name: str, known: Known) -> None:
        mark = known.mark
        if mark is None:
            return
        self._owners[mark.device, mark.inode] = Owner(name, mark.heads, mark.incarnation, known)
        for entry in mark.finished:
            self._owners[entry.device, entry.inode] = Owner(name, entry.heads, entry.incarnation)

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
        gone = (name for name in known if name not in names and not os.path.exists(self._project / name))  # noqa: PTH110  # Path.exists raises
        return sorted({*names, *gone})

    def _match(self, pattern: str) -> Iterator[str]:
        """Paths, relative to the project where they lie inside it. `**` as the last part means files alone."""
        for text in glob.iglob(pattern, root_dir=self._project, recursive=True):  # noqa: PTH207  # Path.glob takes no absolute one
            path = Path(os.path.normpath(self._project / text))
            if not (pattern.endswith("**") and os.path.isdir(path)):  # noqa: PTH112  # Path.is_dir raises where it cannot be told
                yield str(path.relative_to(self._project)) if path.is_relative_to(self._project) else str(path)

    def look(self, name: str) -> Seen:
        """What stands at a path that is seen for the first time."""
        path = self._project / name
        try:
            status = path.stat()
            inode = (status.st_dev, status.st_ino)
            return Seen(inode, stat.S_ISREG(status.st_mode) and self._is_renamed(name, path, inode))
        except OSError:  # gone since it was listed, or not readable: whoever opens it says so
            return Seen(None, False)

    def _is_renamed(self, name: str, path: Path, inode: Inode) -> bool:
        owner = self._owners.get(inode)
        if owner is None or owner.name == name or is_other_file(path, inode, owner.incarnation):
            return False
        home = stat_of(self._project / owner.name)
        if home is not None and (home.st_dev, home.st_ino) == inode:
            return False
        return self._is_file_of(owner, path)

    def _is_file_of(self, owner: Owner, path: Path) -> bool:
        """A file that only has the inode of one that was removed differs from that in what was read of it."""
        suffix = suffix_of(owner.name)
        if owner.known is None or owner.known.mark is None:
            return compare_heads(read_head(path, suffix), owner.heads) is Likeness.SAME
        comparison = compare(path, suffix, owner.known.mark, owner.known.marked)
        if comparison.stream is not None:
            comparison.stream.close()
        return comparison.likeness is Likeness.SAME

    def size(self, name: str) -> int:
        """Bytes of a regular file; 0 of anything else, or where there is nothing any more."""
        try:
            status = (self._project / name).stat()
        except OSError:  # whoever opens it says so
            return 0
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
