"""Messages of pgoutput that no relation is needed for: transactions, streamed blocks, origins, logical messages, types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct

from connectors.sources._pg_replication import protocol_error
from connectors.sources._pgoutput_cursor import Cursor
from connectors.sources._pgoutput_messages import (
    Begin,
    Commit,
    LogicalMessage,
    Message,
    Origin,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    TypeMessage,
)

Reader = Callable[[bytes, bool], Message]
"""Makes a message of its bytes; the flag says that it stands in a streamed block."""

_begin = Struct("!xQqI").unpack
_commit = Struct("!xxQQq").unpack
_stream_start = Struct("!xIB").unpack
_stream_commit = Struct("!xIxQQq").unpack
_stream_abort = Struct("!xII").unpack
_stream_abort_parallel = Struct("!xIIQq").unpack
_u4 = Struct("!I").unpack_from


def header(data: bytes, streamed: bool) -> tuple[int, int]:
    """The transaction of a message that carries it in a streamed block, and where its fields begin."""
    return (_u4(data, 1)[0], 5) if streamed else (0, 1)


def _begin_message(data: bytes, streamed: bool) -> Begin:
    return Begin(*_begin(data))


def _commit_message(data: bytes, streamed: bool) -> Commit:
    return Commit(*_commit(data))


def _origin(data: bytes, streamed: bool) -> Origin:
    cursor = Cursor(data, 0, 1)
    origin = Origin(cursor.u8(), cursor.text())
    cursor.end()
    return origin


def _logical_message(data: bytes, streamed: bool) -> LogicalMessage:
    cursor = Cursor(data, *header(data, streamed))
    flags, lsn, prefix = cursor.u1(), cursor.u8(), cursor.text()
    content = cursor.content(cursor.u4())
    cursor.end()
    return LogicalMessage(cursor.xid, bool(flags & 1), lsn, prefix, content)


def _type(data: bytes, streamed: bool) -> TypeMessage:
    cursor = Cursor(data, *header(data, streamed))
    message = TypeMessage(cursor.xid, cursor.u4(), cursor.text() or "pg_catalog", cursor.text())
    cursor.end()
    return message


def _stream_start_message(data: bytes, streamed: bool) -> StreamStart:
    xid, first = _stream_start(data)
    return StreamStart(xid, first == 1)


def _stream_stop(data: bytes, streamed: bool) -> StreamStop:
    if len(data) != 1:
        raise protocol_error(f"a Stream Stop of {len(data)} bytes")
    return StreamStop()


def _stream_commit_message(data: bytes, streamed: bool) -> StreamCommit:
    return StreamCommit(*_stream_commit(data))


def _stream_abort_message(data: bytes, streamed: bool) -> StreamAbort:
    if len(data) == 9:
        xid, subxid = _stream_abort(data)
        return StreamAbort(xid, subxid, None, None)
    return StreamAbort(*_stream_abort_parallel(data))


PLAIN_READERS: Mapping[int, Reader] = {
    ord("B"): _begin_message,
    ord("C"): _commit_message,
    ord("O"): _origin,
    ord("M"): _logical_message,
    ord("Y"): _type,
    ord("S"): _stream_start_message,
    ord("E"): _stream_stop,
    ord("c"): _stream_commit_message,
    ord("A"): _stream_abort_message,
}
