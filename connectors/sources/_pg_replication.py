"""The frames around the messages of a replication stream, and log sequence numbers as text. No I/O.

Source: PostgreSQL manual, "Streaming Replication Protocol".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from struct import Struct, error

import msgspec

from penstock.errors import Fatal

XLOG_DATA = ord("w")
KEEPALIVE = ord("k")
XLOG_HEADER = 25
"""Bytes before the message in an XLogData frame."""

_XLOG = Struct("!xQQq")
_KEEPALIVE = Struct("!xQqB")
_STANDBY_STATUS = Struct("!cQQQqB")
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class ProtocolError(Fatal):
    """The server sent something that the protocol does not allow, or that was not asked for. Code `source.protocol`."""


def protocol_error(message: str, *, why: str | None = None) -> ProtocolError:
    return ProtocolError("source.protocol", message, why=why, help="is it a PostgreSQL server of version 12 or newer?")


class XLogData(msgspec.Struct, frozen=True, gc=False):
    """One message, with where it stands in the WAL. Times are microseconds since 2000-01-01 UTC."""

    start: int
    """0 where the message stands for no record, such as a Relation."""
    end: int
    """End of the WAL on the server."""
    time: int
    message: bytes


class Keepalive(msgspec.Struct, frozen=True, gc=False):
    """The server has sent everything before `end`; `reply`: it wants a standby status at once."""

    end: int
    time: int
    reply: bool


def frame(data: bytes | memoryview) -> XLogData | Keepalive:
    """One CopyData payload of a replication stream.

    A loop over many rows that needs no more than the message may look for itself: `data[0] == XLOG_DATA`, then
    `bytes(data[XLOG_HEADER:])`.

    :raises ProtocolError: it is neither XLogData nor a keepalive, or too short.
    """
    kind = data[0] if data else None
    try:
        if kind == XLOG_DATA:
            start, end, time = _XLOG.unpack_from(data)
            return XLogData(start, end, time, bytes(data[XLOG_HEADER:]))
        if kind == KEEPALIVE:
            end, time, reply = _KEEPALIVE.unpack(data)
            return Keepalive(end, time, bool(reply))
    except error as cause:
        raise protocol_error(f"a frame of the replication stream has {len(data)} bytes", why=str(cause)) from cause
    raise protocol_error(f"a frame of the replication stream is of the unknown kind {kind}")


def standby_status(write: int, flush: int, apply: int, clock_microseconds: int, reply: bool = False) -> bytes:
    """The standby status update: everything before these LSNs has been received, is durable, and is applied.

    The server forgets what lies before `flush` (Invariant 1: it must be durable downstream).

    :param clock_microseconds: since 2000-01-01 UTC.
    :param reply: ask for a keepalive at once.
    """
    return _STANDBY_STATUS.pack(b"r", write, flush, apply, clock_microseconds, reply)


def lsn_text(lsn: int) -> str:
    """As PostgreSQL prints it: `0/16B3748`."""
    return "%X/%X" % (lsn >> 32, lsn & 0xFFFFFFFF)  # noqa: UP031 - for each transaction, and faster than format specifiers


def parse_lsn(text: str) -> int:
    """:raises ValueError: it is no LSN."""
    found = _LSN.fullmatch(text)
    if found is None:
        raise ValueError(f"not a log sequence number, such as 0/16B3748: {text!r}")
    return int(found[1], 16) << 32 | int(found[2], 16)


def time_text(microseconds: int) -> str:
    """A time of the stream (microseconds since 2000-01-01 UTC) as RFC 3339 text, always with six fractional digits.

    :raises ProtocolError: the year is not one of 1 to 9999.
    """
    try:
        moment = _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError as cause:
        raise protocol_error("a time of the replication stream lies beyond the year 9999, or before the year 1") from cause
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


class TimeTexts:
    """`time_text` of one time after the other, of which most are in the second of the one before."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second: int | None = None
        self._text = ""

    def __call__(self, microseconds: int) -> str:
        """:raises ProtocolError: as `time_text`."""
        second, fraction = divmod(microseconds, 1_000_000)
        if second != self._second:
            self._text = time_text(second * 1_000_000)[:-7]
            self._second = second
        return f"{self._text}{fraction:06}Z"


def microseconds_since_2000(moment: datetime) -> int:
    """The clock of the stream at a moment, which has a zone."""
    return (moment - _EPOCH) // _MICROSECOND
