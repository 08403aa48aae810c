"""`journal.json`: which journal this is, and the format of the files beside it. Blocking."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from penstock.errors import EnvironmentFault
from penstock.files import make_directory_durably, write_durably

FORMAT = 1
HEAD = "journal.json"
"""The file that tells a journal from other directories."""


class Head(msgspec.Struct, frozen=True):
    """What it says."""

    format: int
    id: str


_decode_head = msgspec.json.Decoder(Head).decode


def identity(directory: Path) -> str:
    """The journal's id, made where there is none. Raises as `read_head`."""
    head = read_head(directory)
    if head is None:
        make_directory_durably(directory, 0o700)
        head = Head(FORMAT, secrets.token_hex(8))
        write_durably(directory / HEAD, msgspec.json.encode(head) + b"\n")
    return head.id


def read_head(directory: Path) -> Head | None:
    """What the journal says of itself; None where there is none.

    :raises EnvironmentFault: `journal.newer`, `journal.damaged`.
    :raises OSError: it cannot be read.
    """
    path = directory / HEAD
    try:
        head = _decode_head(path.read_bytes())
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise EnvironmentFault(
            "journal.damaged", f"{path} cannot be read", why=str(error), help=f"move {directory} away: a new one is made"
        ) from error
    if head.format > FORMAT:  # Invariant 11
        raise EnvironmentFault(
            "journal.newer",
            f"the journal in {directory} has format {head.format}; this program knows formats up to {FORMAT}",
            help="run the newer version of penstock that wrote it",
        )
    return head
