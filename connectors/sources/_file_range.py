"""The past of the `file` source: every file that its patterns and its checkpoint name, each from its beginning, under the ids
that a run gave its records, or would give them.

Everything here blocks, and belongs in the source's thread; `progress` alone may be asked from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping

from connectors.sources._file_discovery import Discovery
from connectors.sources._file_faults import located, raise_together, settled
from connectors.sources._file_open import Opener
from connectors.sources._file_partitions import first_file
from connectors.sources._file_reader import Reader
from connectors.sources._marks import Known
from penstock.errors import EnvironmentFault
from penstock.spi import Batch


class PastFiles:
    """Reads what files hold now.

    :param known: the checkpoint: which generation each file is.
    :param follow: files may grow: a last line without a line end is no record yet.
    """

    def __init__(self, opener: Opener, discovery: Discovery, known: Mapping[str, Known], *, follow: bool) -> None:
        self._opener = opener
        self._discovery = discovery
        self._known = known
        self._follow = follow
        self._faults: list[EnvironmentFault] = []
        self._read = self._total = 0
        self._reader: Reader | None = None
        for name, place in known.items():
            discovery.remember_known(name, place)

    def progress(self) -> tuple[int, int]:
        """As `Progress`; files that were renamed count once they are found."""
        reader = self._reader
        return self._read + (reader.stream.consumed if reader is not None else 0), self._total

    def batches(self) -> Generator[Batch, None, None]:
        """File by file, in the order of partitions and generations.

        :raises EnvironmentFault: `source.no_files`, where a pattern matches nothing and files are not followed; after all else
            was read, what is wrong with files that cannot be read.
        :raises Fatal: `source.rewritten`: a file is not the one that was read, so that its records have no ids.
        """
        names = self._discovery.scan(self._known, strict=not self._follow)
        sizes = {name: self._discovery.size(name) for name in names}
        self._total = sum(sizes.values())
        for name in names:
            self._total -= sizes[name]  # known better once it is open
            try:
                for begin in self._beginnings(name):
                    yield from self._from(name, begin)
            except EnvironmentFault as error:
                self._faults.append(error)
        raise_together(self._faults)

    def _beginnings(self, name: str) -> Iterator[Callable[[], Reader | None]]:
        """What opens the generations of a partition: earlier ones each on its own, then the one that leads to what follows it."""
        known = self._known.get(name)
        if known is None:
            yield lambda: first_file(self._opener, self._discovery, name, wait=self._follow)
            return
        for entry in known.mark.finished if known.mark is not None else ():
            if entry.generation != known.generation:
                yield lambda generation=entry.generation: self._whole(name, known, generation)  # type: ignore[misc]  # bound now
        yield lambda: self._current(name, known)

    def _current(self, name: str, known: Known) -> Reader | None:
        """The file of the checkpoint, from its beginning, or the one that took its place."""
        reader = self._opener.begin(name, known, wait=self._follow)
        if reader is None or reader.stream.offset == 0:
            return reader
        reader.close()
        return self._whole(name, known, known.generation)

    def _whole(self, name: str, known: Known, generation: int) -> Reader | None:
        """A generation from its beginning, wherever its file lies; None where it is gone."""

        def find() -> Reader | None:
            path = self._opener.locate(name, generation, known)
            return None if path is None else self._opener.fresh(name, generation, path=path)

        with located(name):
            return settled(find)

    def _from(self, name: str, begin: Callable[[], Reader | None]) -> Iterator[Batch]:
        """A file, and those that follow it at its path."""
        reader = begin()
        while reader is not None:
            self._reader, following = reader, None
            self._total += reader.size
            self._discovery.remember(reader)
            try:
                yield from self._drain(reader)
                following = self._after(name, reader)
            finally:
                self._reader = None
                self._read += reader.stream.consumed
                reader.close()
            reader = following

    def _drain(self, reader: Reader) -> Iterator[Batch]:
        with located(reader.partition):
            while block := reader.read():
                yield from reader.batches(block)
            if not self._follow or reader.moved():
                reader.stream.check_end()
                yield from reader.finish()

    def _after(self, name: str, reader: Reader) -> Reader | None:
        """The next generation, behind the checkpoint's own that was renamed."""
        known = self._known.get(name)
        if known is not None and reader.generation < known.generation:
            return None
        with located(name):
            if not reader.moved():
                return None
        following = self._opener.hand_over(reader)
        return None if following is reader else following
