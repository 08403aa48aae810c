"""Decides in which file a partition goes on: the same, a renamed one, the next generation, or none. Never guesses.

Everything here blocks, and belongs in the source's thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.sources._file_faults import is_gone, located, rewritten, settled, stat_of, unreadable
from connectors.sources._file_reader import Reader, make_format, resume_format, suffix_of
from connectors.sources._marks import (
    Comparison,
    Finished,
    Known,
    Likeness,
    compare,
    compare_heads,
    find_inode,
    is_other_file,
    read_head,
)
from connectors.sources._records import Limits, Naming
from connectors.sources._streams import open_stream


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens files for partitions. `kind` is the record format."""

    project: Path
    kind: str
    limits: Limits

    def home(self, name: str) -> Path:
        """The path that a partition is named after."""
        return self.project / name

    def naming(self, name: str, generation: int) -> Naming:
        stem = Path(name).name.partition(".")[0] or "file"
        return Naming(generation, f"file:{name}", f"{stem}.record")

    def begin(self, name: str, known: Known | None, *, wait: bool) -> Reader | None:
        """Start or go on with a partition. None: there is nothing to read (now).

        :param wait: a file that is too short to be told apart may still grow.
        :raises EnvironmentFault: `source.unreadable`, `source.truncated_gzip`, `source.truncated_zstd`.
        :raises Fatal: `source.rewritten`, where the file is neither the one that was read nor provably another.
        """
        if not _is_text(name):
            raise unreadable(name, "its name is not UTF-8", "rename it")
        with located(name):
            try:
                return settled(lambda: self.fresh(name, 0) if known is None else self._resume(name, known, wait))
            except (FileNotFoundError, NotADirectoryError):
                if is_gone(self.home(name)):  # renamed or removed since it was listed
                    return None
                raise

    def fresh(self, name: str, generation: int, finished: Sequence[Finished] = (), path: Path | None = None) -> Reader:
        """The beginning of a file, which lies at `path` where it was renamed.

        :raises OSError: as `open` does.
        """
        home = self.home(name)
        self._check_regular(name, path or home)
        format = make_format(self.kind, self.naming(name, generation), self.limits)
        return Reader(name, home, generation, open_stream(path or home, suffix_of(name)), format, finished=finished)

    def _resume(self, name: str, known: Known, wait: bool) -> Reader | None:
        home = self.home(name)
        exists = stat_of(home) is not None
        likeness = Likeness.SHORTER
        if exists:
            self._check_regular(name, home)
            if known.mark is None:
                return self._unmarked(name, known)
            comparison = compare(home, suffix_of(name), known.mark, known.marked)
            likeness = comparison.likeness
            if likeness is Likeness.SAME:
                return self._go_on(name, known, home, comparison)
        if known.mark is None:
            return None
        renamed = self.find_renamed(name, known)
        if renamed is not None:
            return self._go_on(name, known, *renamed)
        return self._next(name, known, likeness, wait) if exists else None

    def _next(self, name: str, known: Known, likeness: Likeness, wait: bool) -> Reader | None:
        """The file that was read is gone, and another one, or a changed one, stands in its place."""
        assert known.mark is not None
        home, mark = self.home(name), known.mark
        if mark.again:
            return self.fresh(name, known.generation + 1, self._still_there(name, mark.finished))
        other = is_other_file(home, (mark.device, mark.inode), mark.incarnation)
        if other and likeness is Likeness.DIFFERENT:
            return self.fresh(name, known.generation + 1, self._still_there(name, mark.finished))
        if other and likeness is Likeness.SHORTER and (wait or home.stat().st_size == 0):
            return None
        # Invariant 13: what is neither the same nor provably another is never skipped nor read twice
        raise rewritten(name, known.generation, known.offset, likeness.value)

    def _unmarked(self, name: str, known: Known) -> Reader:
        """A position that came without a mark: taken at its word, as long as the file is long enough."""
        home, suffix = self.home(name), suffix_of(name)
        stream = open_stream(home, suffix)
        before = b""
        while stream.offset < known.offset and (block := stream.read(min(1 << 20, known.offset - stream.offset))):
            before = block
        if stream.offset < known.offset:
            stream.close()
            raise rewritten(name, known.generation, known.offset, Likeness.SHORTER.value)
        return self._go_on(name, known, home, Comparison(Likeness.SAME, read_head(home, suffix), before[-1:], stream))

    def _go_on(self, name: str, known: Known, path: Path, found: Comparison) -> Reader:
        assert found.stream is not None
        if known.mark is not None and known.mark.again:
            found.stream.close()
            return self.fresh(name, known.generation, known.mark.finished, path)
        naming = self.naming(name, known.generation)
        try:
            format = resume_format(self.kind, naming, self.limits, path, known.offset, found.head, found.before)
        except BaseException:
            found.stream.close()
            raise
        finished = known.mark.finished if known.mark else []
        return Reader(
            name,
            self.home(name),
            known.generation,
            found.stream,
            format,
            head=found.head,
            before=found.before,
            finished=finished,
        )

    def find_renamed(self, name: str, known: Known) -> tuple[Path, Comparison] | None:
        """The file of a checkpoint under another name in its directory, with a stream at the checkpoint."""
        home, mark = self.home(name), known.mark
        if mark is None or not home.parent.is_dir():
            return None
        for path in find_inode(home.parent, mark.device, mark.inode):
            comparison = compare(path, suffix_of(name), mark, known.marked)
            if path != home and comparison.likeness is Likeness.SAME:
                return path, comparison
            if comparison.stream is not None:
                comparison.stream.close()
        return None

    def hand_over(self, reader: Reader) -> Reader | None:
        """What follows a file that was read to its end and whose path leads elsewhere: the same reader, in a copy of its file;
        a new one, for the next generation; or None, while there is none or it cannot be told apart.

        :raises EnvironmentFault: as `begin` does.
        :raises Fatal: `source.rewritten`.
        """
        with located(reader.partition):
            return settled(lambda: self._hand_over(reader))

    def _hand_over(self, reader: Reader) -> Reader | None:
        name, home, known = reader.partition, reader.home, reader.known()
        if stat_of(home) is None:
            return None
        self._check_regular(name, home)
        assert known.mark is not None
        comparison = compare(home, suffix_of(name), known.mark, known.offset)
        if comparison.stream is not None:
            reader.replace(comparison.stream)
            return reader
        rotated = any(path != home for path in find_inode(home.parent, *reader.inode))
        if rotated or comparison.likeness is Likeness.DIFFERENT:
            done = Finished(reader.generation, *reader.inode, reader.heads, reader.incarnation)
            return self.fresh(name, reader.generation + 1, self._still_there(name, [*reader.finished, done]))
        if comparison.likeness is Likeness.SHORTER:
            return None
        raise rewritten(name, reader.generation, known.offset, comparison.likeness.value)

    def _still_there(self, name: str, finished: Sequence[Finished]) -> list[Finished]:
        directory = self.home(name).parent
        return [entry for entry in finished if find_inode(directory, entry.device, entry.inode)]

    def locate(self, name: str, generation: int, known: Known | None) -> Path | None:
        """Where a generation of a partition lies today."""
        home = self.home(name)
        if known is None or known.mark is None:
            return home if home.is_file() and generation == (known.generation if known else 0) else None
        if generation == known.generation:
            comparison = compare(home, suffix_of(name), known.mark, known.marked) if home.is_file() else None
            found = (home, comparison) if comparison and comparison.stream else self.find_renamed(name, known)
            if found and found[1].stream:
                found[1].stream.close()
            return found[0] if found else None
        for entry in known.mark.finished:
            for path in find_inode(home.parent, entry.device, entry.inode) if entry.generation == generation else ():
                if compare_heads(read_head(path, suffix_of(name)), entry.heads) is Likeness.SAME:
                    return path
        return None

    def _check_regular(self, name: str, path: Path) -> None:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise unreadable(name, "it is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
        if not os.access(path, os.R_OK):
            raise unreadable(name, "permission denied")


def _is_text(name: str) -> bool:
    """Whether a path has a form that stores and ids can hold: a name of any bytes is possible in a file system."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
