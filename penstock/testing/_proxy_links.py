"""What a proxy carries: one link for each connection of a client, which the trap that is set may reset. All in its loop."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

SECONDS = 30.0
_CHUNK = 65_536
LONGEST_PATTERN = 256


class Trap:
    """Waits for bytes that a client sends, and strikes once. Made by `Proxy.cut_after` and `Proxy.cut_before`.

    :param answer: what the server's answer must contain before the connection is reset; None: the bytes do not even reach it.
    :param nth: at which message that holds the pattern, counted over all connections from 1.
    """

    def __init__(self, pattern: bytes, answer: bytes | None, nth: int = 1) -> None:
        if not 0 < len(pattern) <= LONGEST_PATTERN:
            raise ValueError(f"a pattern has 1 to {LONGEST_PATTERN} bytes, and this one {len(pattern)}")
        self.pattern = pattern
        self.answer = answer
        self._left = nth
        self._struck = threading.Event()

    @property
    def struck(self) -> bool:
        """Whether the connection has been reset."""
        return self._struck.is_set()

    def wait(self, seconds: float = SECONDS) -> None:
        """Block until the connection has been reset.

        :raises TimeoutError: where it has not been in that time.
        """
        if not self._struck.wait(seconds):
            raise TimeoutError(f"no connection was cut at {self.pattern!r} within {seconds:g} s")

    def is_due(self, sent: bytes) -> bool:
        """Asked once of all that is sent: whether it holds the pattern, for the time at which to strike."""
        self._left -= self.pattern in sent
        return self._left == 0

    def strike(self) -> None:
        """Note that the connection has been reset."""
        self._struck.set()


class _Sprung(Exception):
    """A link's trap strikes: both ends are to be reset."""


@dataclass(slots=True)
class Line:
    """What the proxy does at the moment, for all its links."""

    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    refusing: bool = False
    bytes_per_second: int | None = None
    trap: Trap | None = None

    async def give(self, data: bytes, target: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data:
            await self.flowing.wait()
            rate = self.bytes_per_second
            now = data if rate is None else data[: max(1, rate // 100)]
            await loop.sock_sendall(target, now)
            if rate is not None:
                await asyncio.sleep(len(now) / rate)
            data = data[len(now) :]


class Link:
    """One client's connection, and the one to the server for it."""

    def __init__(self, line: Line, client: socket.socket) -> None:
        self._line = line
        self._client = client
        self._server = socket.socket()
        self._sent = b""
        self._trap: Trap | None = None
        self._answered = b""

    async def run(self, target: int) -> None:
        """Forward until both sides have ended, or one was reset; then the other one is reset too."""
        close: Callable[[socket.socket], None] = reset
        struck = None
        try:
            await self._connect(target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(self._client, self._server, self._to_server))
                group.create_task(self._pump(self._server, self._client, self._to_client))
            close = socket.socket.close
        except* _Sprung:
            struck = self._trap
        except* OSError:
            pass  # each side learns of it by a reset, as it would without a proxy
        finally:
            close(self._client)
            close(self._server)
        if struck is not None:
            struck.strike()

    async def _connect(self, target: int) -> None:
        self._server.setblocking(False)
        for end in (self._client, self._server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self._line.flowing.wait()
        await asyncio.get_running_loop().sock_connect(self._server, ("127.0.0.1", target))

    async def _pump(self, source: socket.socket, target: socket.socket, give: Callable[[bytes], Awaitable[None]]) -> None:
        while data := await asyncio.get_running_loop().sock_recv(source, _CHUNK):
            await give(data)
        await self._line.flowing.wait()
        if self._trap is not None and source is self._server:
            raise _Sprung
        target.shutdown(socket.SHUT_WR)

    async def _to_server(self, data: bytes) -> None:
        trap = self._line.trap
        seen = self._sent + data
        self._sent = seen[1 - LONGEST_PATTERN :]
        if trap is not None and trap.is_due(seen[max(0, len(seen) - len(data) - len(trap.pattern) + 1) :]):
            self._line.trap = None
            self._trap = trap
            if trap.answer is None:
                raise _Sprung
        await self._line.give(data, self._server)

    async def _to_client(self, data: bytes) -> None:
        if self._trap is None:
            await self._line.give(data, self._client)
            return
        self._answered += data
        if (self._trap.answer or b"") in self._answered:
            raise _Sprung


def reset(end: socket.socket) -> None:
    """Close at once: nothing waits to be sent, nothing that arrived counts, and the other end gets RST."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
