"""Positions of the change stream: which change of which transaction, as bytes that sort, and what is kept beside them.

A position is the LSN of the commit record and a place in the transaction: change n (counted from 1 before any filter) is at
2n + 1, and where it is a changed key, so that it makes two events, the delete is at 2n. The end of a transaction is the highest
place there is. Place 0 is an LSN of a keepalive: commits that follow do not lie before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct, error

import msgspec

from connectors.sources._pg_replication import lsn_text
from penstock.errors import EnvironmentFault
from penstock.spi import Position

END = (1 << 64) - 1
VERSION = 1
WITH_LOOKS = 2
"""Version of a detail that holds what tables looked like: a program that would not hold tables to it has to refuse it."""
_ORDER = Struct("!QQ")

order = _ORDER.pack
"""(commit LSN, place) as bytes."""


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where reading begins again: the end of the last transaction of which everything lies at or before the position.

    :ivar timeline: of the server's log that it is an LSN of; 0 where it is not known.
    """

    version: int
    end: int
    timeline: int = 0


class Looks(msgspec.Struct, frozen=True, omit_defaults=True):
    """A detail that also holds what tables looked like (`_cdc.drift`), by their names in SQL."""

    version: int
    end: int
    timeline: int = 0
    tables: msgspec.Raw = msgspec.Raw(b"{}")


class Start(msgspec.Struct, frozen=True):
    """What a stream goes on from: everything up to (commit, place) is known; the server sends on from `end`.

    :ivar timeline: of the server's log; 0 where it is not known.
    """

    commit: int
    place: int
    end: int
    timeline: int = 0


_decode = msgspec.json.Decoder(Looks).decode
_decode_tables = msgspec.json.Decoder(dict[str, dict[str, tuple[int, int]]]).decode
_encode = msgspec.json.Encoder().encode


def position(at: bytes, end: int, looks: msgspec.Raw | None = None, timeline: int = 0) -> Position:
    """:param looks: what tables looked like, as JSON; None where they are not held to it."""
    return Position(at, _encode(Detail(VERSION, end, timeline) if looks is None else Looks(WITH_LOOKS, end, timeline, looks)))


def stream_of(positions: Mapping[str, Position], slot: str) -> tuple[str, Position | None]:
    """The partition of the slot's stream, and where it stands: the last, where a server's log has gone back (`following`)."""
    numbered = [(_number(name, slot), name) for name, at in positions.items() if at.order and _number(name, slot)]
    if not numbered:
        return slot, None
    _, name = max(numbered)
    return name, positions[name]


def following(partition: str) -> str:
    """The partition of a stream whose log has gone back: LSNs rise from there, and not from where it stood."""
    return f"{partition.partition('#')[0]}#{number_of(partition) + 1}"


def number_of(partition: str) -> int:
    """Which stream of its slot it is."""
    return int(partition.partition("#")[2] or 1)


def _number(partition: str, slot: str) -> int:
    """Which stream of the slot it is; 0 where it is another partition."""
    return number_of(partition) if partition.partition("#")[0] == slot else 0


def looks_of(found: Position) -> dict[str, dict[str, tuple[int, int]]]:
    """What tables looked like, as far as the position tells. `start_of` has taken it before."""
    return _decode_tables(_decode(found.detail).tables)


def start_of(found: Position) -> Start:
    """:raises EnvironmentFault: `source.unknown_checkpoint`, of a newer program or of another source."""
    try:
        commit, place = _ORDER.unpack(found.order)
        detail = _decode(found.detail)
    except (error, msgspec.MsgspecError) as cause:
        raise _unknown("it cannot be read", str(cause)) from cause
    if detail.version not in (VERSION, WITH_LOOKS):  # Invariant 11
        raise _unknown(f"it has version {detail.version}, and this program knows {VERSION} and {WITH_LOOKS}", None)
    return Start(commit, place, detail.end, detail.timeline)


def order_text(at: bytes) -> str:
    """:raises ValueError: these bytes are no position of this source."""
    try:
        commit, place = _ORDER.unpack(at)
    except error as cause:
        raise ValueError(str(cause)) from cause
    if place >= END - 1:  # the event behind a transaction stands just before its end
        return f"transaction {lsn_text(commit)}, its end"
    return f"transaction {lsn_text(commit)}, change {place >> 1:,}" if place else f"LSN {lsn_text(commit)}"


def _unknown(what: str, why: str | None) -> EnvironmentFault:
    return EnvironmentFault(
        "source.unknown_checkpoint",
        f"the checkpoint of the change stream is unknown: {what}",
        why=why,
        help="run it with the version of Penstock that wrote it",
    )
