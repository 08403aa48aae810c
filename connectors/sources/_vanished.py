"""Notices files that went away with bytes that nobody had read, between two runs: said once, then forgotten (Invariant 13)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from connectors.sources._file_faults import stat_of
from connectors.sources._file_reader import Reader
from connectors.sources._marks import Known, to_position
from penstock.errors import EnvironmentFault
from penstock.spi import Batch, Position


class Vanished:
    """The files of one run that are gone unread. `look` once for each partition that is known when it begins.

    :ivar faults: by partition; raised after everything else was read.
    """

    def __init__(self) -> None:
        self.faults: dict[str, EnvironmentFault] = {}
        self._positions: dict[str, Position] = {}

    def look(self, name: str, known: Known | None, reader: Reader | None, home: Path) -> None:
        """:param reader: where the partition goes on; None where there is no file, or one too short to be told apart."""
        if known is None or known.mark is None or not known.mark.more or name in self.faults:
            return
        if reader is None:
            if stat_of(home) is not None:
                return
            mark = msgspec.structs.replace(known.mark, more=False)
            self._positions[name] = to_position(known.generation, known.offset, mark)
        elif reader.generation == known.generation:
            return
        self.faults[name] = _fault(name, known)

    def batches(self) -> list[Batch]:
        """Empty batches that leave the positions where they are, and say that nothing is behind them any more."""
        gone, self._positions = self._positions, {}
        return [Batch(name, [], position, position.order) for name, position in gone.items()]


def _fault(name: str, known: Known) -> EnvironmentFault:
    return EnvironmentFault(
        "source.vanished",
        f"{name} was removed or replaced before it was read to its end",
        where=f"partition {name}, position {known.generation}-{known.offset}",
        why="there were bytes behind this position when it was last read, and no file in its directory holds them now",
        help="bring what was not read back as a file of its own; this is said once",
    )
