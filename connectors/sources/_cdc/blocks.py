"""Transactions that the server streams before they are committed: kept on disk, block by block, until it is known how they end.

    blocks = Blocks(spill, maximum)
    await blocks.open()
    blocks.start(stream_start)
    if blocks.add(payload): await blocks.flush()    # everything up to StreamStop
    await blocks.stop()
    await blocks.abort(stream_abort)
    replay = blocks.commit(stream_commit)
    while await replay.advance(): …                 # `replay.messages`
    await blocks.discard(xid)

Only one block is open at a time, so that one chunk at most is held in memory, however many transactions there are; of replays
there is one at a time, and one chunk of it. A rolled back subtransaction is left out on replay, but for what describes tables
and types: the server does not tell that again within the transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from struct import Struct
from typing import TypeVar

import msgspec

from connectors.sources._cdc.spill import SpillDirectory
from connectors.sources._pg_replication import protocol_error
from connectors.sources._pgoutput import xid_of
from connectors.sources._pgoutput_messages import StreamAbort, StreamCommit, StreamStart
from penstock.config.units import format_size
from penstock.errors import EnvironmentFault

T = TypeVar("T")

STREAM_STOP = ord("E")

_CHUNK = 256 * 1024
"""Bytes of messages that are written at once."""
_DESCRIBING = frozenset(b"RY")
_length = Struct("!I")
_u4 = _length.unpack_from


class InProgress(msgspec.Struct):
    """A transaction that has been streamed so far.

    :ivar size: bytes on disk.
    :ivar aborted: subtransactions that were rolled back.
    """

    xid: int
    size: int
    aborted: set[int]


class Blocks:
    """The transactions in progress of one connection.

    :ivar receiving: between the start of a block and its stop.
    """

    def __init__(self, spill: SpillDirectory, maximum: int) -> None:
        self._spill = spill
        self._maximum = maximum
        self._transactions: dict[int, InProgress] = {}
        self._current: InProgress | None = None
        self._buffer = bytearray()
        self._thread: ThreadPoolExecutor | None = None

    @property
    def receiving(self) -> bool:
        return self._current is not None

    @property
    def size(self) -> int:
        """Bytes of all transactions on disk."""
        return sum(transaction.size for transaction in self._transactions.values())

    async def open(self) -> None:
        """Harmless when open.

        :raises ComponentError: as `SpillDirectory.open`.
        """
        self._thread = self._thread or ThreadPoolExecutor(1, "penstock-cdc-spill")
        await self._call(self._spill.open)

    async def close(self) -> None:
        """Leave nothing behind; harmless when not open."""
        if self._thread is None:
            return
        self._forget()
        try:
            await self._call(self._spill.close)
        finally:
            thread, self._thread = self._thread, None
            thread.shutdown(wait=False)

    async def clear(self) -> None:
        """The connection is gone: the next one sends all of it again."""
        self._forget()
        if self._thread is not None:
            await self._call(self._spill.clear)

    def start(self, found: StreamStart) -> None:
        """:raises ProtocolError: the transaction goes on, and has not begun, or the other way round."""
        if found.first is (found.xid in self._transactions):
            raise protocol_error(f"a block of transaction {found.xid} that is {'not ' if not found.first else ''}its first")
        self._current = self._transactions.setdefault(found.xid, InProgress(found.xid, 0, set()))

    def add(self, message: bytes | memoryview) -> bool:
        """A message of the open block; whether it is time for `flush`."""
        buffer = self._buffer
        buffer += _length.pack(len(message))
        buffer += message
        return len(buffer) >= _CHUNK

    async def flush(self) -> None:
        """Write what was added.

        :raises EnvironmentFault: `source.spill_full`.
        :raises ComponentError: as `SpillDirectory.append`; the transactions are then to be cleared.
        """
        transaction, chunk = self._current, self._buffer
        if transaction is None or not chunk:
            return
        self._buffer = bytearray()
        if self.size + len(chunk) > self._maximum:  # Invariant 8
            raise self._full(transaction, transaction.size + len(chunk))
        transaction.size += await self._call(lambda: self._spill.append(transaction.xid, chunk))

    async def stop(self) -> None:
        """The block ends. Raises as `flush`."""
        await self.flush()
        self._current = None

    async def abort(self, found: StreamAbort) -> None:
        """A subtransaction is rolled back, or all of it, of which nothing stays then.

        :raises ComponentError: as `SpillDirectory.remove`.
        """
        if found.subxid == found.xid:
            await self.discard(found.xid)
        elif (transaction := self._transactions.get(found.xid)) is not None:
            transaction.aborted.add(found.subxid)

    def commit(self, found: StreamCommit) -> Replay:
        """:raises ProtocolError: nothing of the transaction was streamed."""
        transaction = self._transactions.get(found.xid)
        if transaction is None:
            raise protocol_error(f"the commit of transaction {found.xid}, which was not streamed")
        return Replay(found, transaction, self._read)

    async def discard(self, xid: int) -> None:
        """Remove what was kept of a transaction, which has ended.

        :raises ComponentError: as `SpillDirectory.remove`.
        """
        if self._transactions.pop(xid, None) is not None:
            await self._call(lambda: self._spill.remove(xid))

    async def _read(self, xid: int, at: int) -> tuple[bytes, int]:
        return await self._call(lambda: self._spill.read(xid, at))

    async def _call(self, work: Callable[[], T]) -> T:
        """In the one thread, so that files are removed only behind what is still being written."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _forget(self) -> None:
        self._transactions.clear()
        self._current = None
        self._buffer = bytearray()

    def _full(self, transaction: InProgress, size: int) -> EnvironmentFault:
        others = self.size - transaction.size
        beside = f", beside {others:,} of others" if others else ""
        return EnvironmentFault(
            "source.spill_full",
            f"transaction {transaction.xid} has {size:,} bytes up to now{beside}: more than `spill.max` "
            f"({format_size(self._maximum)})",
            why="it is kept on disk until it is known whether it is committed",
            help="raise `spill.max` where its disk has room, or leave it to the server with `streaming: off`; then run again",
        )


class Replay:
    """The messages of a transaction that was committed.

    :ivar commit: how it ended.
    :ivar messages: those of the chunk at hand that are still to come.
    """

    def __init__(
        self, commit: StreamCommit, transaction: InProgress, read: Callable[[int, int], Awaitable[tuple[bytes, int]]]
    ) -> None:
        self.commit = commit
        self.messages: Iterator[bytes] = iter(())
        self._transaction = transaction
        self._read = read
        self._at = 0

    async def advance(self) -> bool:
        """Take the next chunk; False where there is none.

        :raises Transient: `source.spill_damaged`.
        """
        transaction = self._transaction
        if self._at >= transaction.size:
            return False
        chunk, self._at = await self._read(transaction.xid, self._at)
        self.messages = _messages(chunk, transaction.aborted)
        return True


def _messages(chunk: bytes, aborted: Set[int]) -> Iterator[bytes]:
    at, end = 0, len(chunk)
    while at < end:
        start = at + 4
        at = start + _u4(chunk, at)[0]
        message = chunk[start:at]
        if not aborted or message[0] in _DESCRIBING or xid_of(message) not in aborted:
            yield message
