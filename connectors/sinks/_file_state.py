"""What the `file` sink stores in the ledger, and how recovery reads it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from penstock.errors import EnvironmentFault

MAX_UNFLUSHED = 64 << 20
"""Bytes appended between two commits at most, and the longest tail that recovery cuts off."""

_FRAMING = 1 << 20
"""What compression may add to data that cannot be compressed."""


class FileState(msgspec.Struct, frozen=True):
    """Stored: `v` tells a later shape.

    :ivar name: the path as configured.
    :ivar committed: length of the file in bytes.
    :ivar found: its length before this pipeline's first write.
    :ivar device, inode: recognise the file after it was renamed.
    :ivar ended: the run that wrote it ended by itself, so that whatever is behind `committed` is another's, and stays.
    """

    name: str
    committed: int
    found: int
    device: int
    inode: int
    v: int = 1
    ended: bool = False

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    def is_tail(self, length: int) -> bool:
        """Whether what a file of this length has behind the committed length can be a run's own."""
        return 0 <= length - self.committed <= MAX_UNFLUSHED + _FRAMING


def decode_state(recovered: bytes, path: Path) -> FileState:
    """:raises EnvironmentFault: `sink.unknown_state`."""
    try:
        state = msgspec.json.decode(recovered, type=FileState)
        if state.v != 1:  # Invariant 11
            raise msgspec.ValidationError(f"its version is {state.v}")
        return state
    except msgspec.DecodeError as error:
        raise EnvironmentFault(
            "sink.unknown_state",
            f"what the ledger holds about {path} cannot be read",
            why=str(error),
            help="run the version of Penstock that wrote it",
        ) from error


def shorter(path: Path, found: int, committed: int) -> EnvironmentFault:
    return EnvironmentFault(
        "sink.file_shorter",
        f"{path} has {found} bytes, and {committed} were committed",
        why="somebody cut, replaced or removed it",
        help="put the file back, or give the sink another path",
    )


def tail_too_large(path: Path, tail: int) -> EnvironmentFault:
    return EnvironmentFault(
        "sink.file_tail_too_large",
        f"{path} has {tail} bytes behind what was committed, more than a run can have left there",
        why="something else wrote to it",
        help="move those bytes away, or give the sink another path",
    )
