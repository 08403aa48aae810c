"""The partitions of one run of the `file` source: which files are open, how far the others were read, what is wrong with some.

Everything here blocks, and belongs in the source's thread; `progress` alone may be asked from elsewhere.
"""

from __future__ import annotations

from connectors.sources._file_discovery import Discovery
from connectors.sources._file_faults import LOOKS, located, raise_together, unreadable
from connectors.sources._file_open import Opener
from connectors.sources._file_reader import Reader
from connectors.sources._marks import Known
from connectors.sources._reread import reread
from connectors.sources._vanished import Vanished
from penstock.errors import EnvironmentFault
from penstock.event import Event
from penstock.spi import Batch


class Partitions:
    """Begins partitions, and leads each from one file to the next.

    :param follow: files may grow: their end is none until they are moved away.
    :param once: what stands there now is all that is read.
    :ivar active: what is being read, by partition.
    """

    def __init__(self, opener: Opener, discovery: Discovery, known: dict[str, Known], *, follow: bool, once: bool) -> None:
        self.active: dict[str, Reader] = {}
        self._opener = opener
        self._discovery = discovery
        self._follow = follow
        self._once = once
        self._known: dict[str, Known] = {}
        self._sizes: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._faults: dict[str, EnvironmentFault] = {}
        self._vanished = Vanished()
        for name, place in known.items():
            self._know(name, place)

    def survey(self) -> None:
        """Find the files, and how large they are.

        :raises EnvironmentFault: `source.no_files`, where a pattern matches nothing and files are not followed.
        """
        names = self._discovery.scan(self._known, strict=not self._follow)
        self._sizes = {name: self._discovery.size(name) for name in names}

    def progress(self) -> tuple[int, int]:
        """Bytes read and bytes there are, compressed where the files are."""
        reading = {name: reader.stream.consumed for name, reader in self.active.copy().items()}
        return sum((self._done | reading).values()), sum(self._sizes.copy().values())

    def names(self) -> list[str]:
        """Partitions to begin, or to look at again. One that this run has retired comes back only with a file at its path."""
        return self._discovery.scan(self._known.keys() - self._done.keys(), strict=False)

    def begin_new(self) -> None:
        """Begin whatever has appeared."""
        for name in self.names():
            if name not in self.active and name not in self._faults:
                self.begin(name)

    def begin(self, name: str) -> Reader | None:
        """Start or go on with a partition; None, where there is nothing to read, or what is there cannot be read.

        :raises Fatal: `source.rewritten`.
        """
        known = self._known.get(name)
        try:
            wait = not self._once
            if known is None:
                reader = first_file(self._opener, self._discovery, name, wait=wait)
            else:
                reader = self._opener.begin(name, known, wait=wait)
            with located(name):
                self._vanished.look(name, known, reader, self._opener.home(name))
        except EnvironmentFault as error:
            self._faults[name] = error
            return None
        if reader is not None:
            self._adopt(reader)
        return reader

    def vanished(self) -> list[Batch]:
        """See `Vanished.batches`."""
        return self._vanished.batches()

    def read(self, reader: Reader) -> bytes:
        """The next block; empty where the file ends now.

        :raises EnvironmentFault: `source.unreadable`, `source.truncated_gzip`, `source.truncated_zstd`.
        :raises Fatal: `source.rewritten`.
        """
        with located(reader.partition):
            block = reader.read()
        if block:
            reader.quiet_since = None
        return block

    def is_over(self, reader: Reader) -> bool:
        """Whether the end of a file that was read to there is its end for good.

        :raises EnvironmentFault: `source.truncated_gzip`, `source.truncated_zstd`, `source.unreadable`.
        """
        with located(reader.partition):
            if self._follow and not reader.moved():
                return False
            reader.stream.check_end()
            return True

    def is_quiet(self, reader: Reader, now: float, seconds: float) -> bool:
        """Whether a followed file was moved away and has had nothing new for so long.

        :param now: of a monotonic clock.
        :raises EnvironmentFault: `source.unreadable`.
        """
        with located(reader.partition):
            if reader.quiet_since is None or not reader.moved():
                reader.quiet_since = now
        return now - reader.quiet_since >= seconds

    def succeed(self, reader: Reader) -> tuple[bool, Reader | None]:
        """Whether nothing more can come to a file that was moved away, and its successor.

        :raises EnvironmentFault: the successor cannot be read.
        :raises Fatal: `source.rewritten`.
        """
        following = self._opener.hand_over(reader)
        if following is reader:
            self._discovery.remember(reader)
            return False, None
        return following is not None or reader.deleted(), following

    def after(self, reader: Reader) -> Reader | None:
        """The next file of the partition, where the one that was read had been renamed."""
        following = None
        try:
            with located(reader.partition):
                if reader.partition not in self._faults and reader.moved():
                    following = self._opener.hand_over(reader)
        except EnvironmentFault as error:
            self.note(reader, error)
        if following is not reader:
            self.retire(reader, following)
        else:
            self._discovery.remember(reader)
        return following

    def note(self, reader: Reader, fault: EnvironmentFault) -> None:
        """Keep what is wrong with a file for the end of everything."""
        self._faults.setdefault(reader.partition, fault)

    def give_up(self, reader: Reader, fault: EnvironmentFault) -> None:
        self.note(reader, fault)
        self.retire(reader, None)

    def raise_faults(self) -> None:
        """:raises EnvironmentFault: the first thing that was wrong with a file; it names the others."""
        raise_together([*self._faults.values(), *self._vanished.faults.values()])

    def retire(self, reader: Reader, following: Reader | None) -> None:
        """Close a file, and go on with the one that follows it."""
        name = reader.partition
        self._know(name, reader.known())
        self._done[name], self._sizes[name] = reader.stream.consumed, reader.size
        del self.active[name]
        reader.close()
        if following is not None:
            self._adopt(following)

    def reread(self, partition: str, position: bytes) -> Event:
        """See `Rereadable`."""
        active = self.active.get(partition)
        known = active.known() if active else self._known.get(partition)
        return reread(self._opener, partition, position, known)

    def close(self) -> None:
        readers, self.active = list(self.active.values()), {}
        for reader in readers:
            reader.close()

    def _adopt(self, reader: Reader) -> None:
        self.active[reader.partition] = reader
        self._discovery.remember(reader)
        self._sizes[reader.partition] = reader.size

    def _know(self, name: str, known: Known) -> None:
        self._known[name] = known
        self._discovery.remember_known(name, known)


def first_file(opener: Opener, discovery: Discovery, name: str, *, wait: bool) -> Reader | None:
    """The file at a path that is seen for the first time, if it belongs to no other partition. Raises as `Opener.begin`."""
    for _ in range(LOOKS):
        seen = discovery.look(name)
        reader = None if seen.renamed else opener.begin(name, None, wait=wait)
        if reader is None or reader.inode == seen.inode:
            return reader
        reader.close()  # another file took its place in between, and may be a renamed one
    raise unreadable(name, "it cannot be told from a renamed file")
