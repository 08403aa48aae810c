"""A TCP proxy between a client and a server of 127.0.0.1 that can do what networks do: cut, stall, slow down, lose an answer.

It runs in a thread of its own, so that it works beside blocking clients and beside any event loop; its methods may be called from
everywhere, return as soon as what they say has been done, and can be called again at any time. What a reset is: RFC 9293, 3.5.2.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType

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
class _Line:
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


class Proxy:
    """Listens on a free port of 127.0.0.1 from `start` (or the begin of a `with` block) to `close`, and forwards to `target`.

    :param target: the server's port on 127.0.0.1.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._line = _Line()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._accepted = 0

    def start(self) -> None:
        """Begin to listen, and forward."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock-proxy", daemon=True)
        self._thread.start()
        self._call(self._begin)

    def close(self) -> None:
        """Reset what is connected and listen no more. May be called again."""
        if self._loop is None or self._thread is None or self._listener is None:
            return
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()
        self._listener.close()
        self._loop = self._thread = self._listener = None

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Where it listens; the same for all its life."""
        if self._listener is None:
            raise RuntimeError("the proxy has not been started")
        return int(self._listener.getsockname()[1])

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    @property
    def accepted(self) -> int:
        """Connections that clients have made so far, also those that were refused."""
        return self._accepted

    def forward(self) -> None:
        """Forward at full speed, as at the start; what `stall` held back goes on first. Ends `stall`, `refuse` and `drip`."""

        async def change() -> None:
            self._line.refusing = False
            self._line.bytes_per_second = None
            self._line.flowing.set()

        self._call(change)

    def stall(self) -> None:
        """Let no byte through in either direction, on present and new connections, and close none: half-open, until `forward`."""

        async def change() -> None:
            self._line.flowing.clear()

        self._call(change)

    def drip(self, bytes_per_second: int) -> None:
        """Let through so much a second, in each direction of each connection, until `forward`."""

        async def change() -> None:
            self._line.bytes_per_second = bytes_per_second

        self._call(change)

    def cut(self) -> None:
        """Reset (RST) all present connections, towards both sides; new ones are served."""
        self._call(self._cut)

    def refuse(self) -> None:
        """Reset all present connections, and every new one at once, until `forward`."""

        async def change() -> None:
            self._line.refusing = True
            await self._cut()

        self._call(change)

    def cut_after(self, pattern: bytes, answer: bytes = b"", *, nth: int = 1) -> Trap:
        """Lose an answer: forward what a client sends; once that contains `pattern`, give it nothing more, and reset it when the
        server has answered. So the server has done what was asked, and the client cannot know. Strikes once, at one connection.

        :param pattern: up to 256 bytes, such as `b"COMMIT"`; found also where it is spread over packets.
        :param answer: what the server's answer contains; empty: anything. Where the client sends several requests at once
            (pipelines), name the answer to the last: `b"COMMIT"` stands in PostgreSQL's answer to a COMMIT that was done.
        :param nth: at which message that holds the pattern, from 1.
        """
        return self._set_trap(Trap(pattern, answer, nth))

    def cut_before(self, pattern: bytes, *, nth: int = 1) -> Trap:
        """Lose a request: reset both sides instead of forwarding bytes that complete `pattern`. Strikes once."""
        return self._set_trap(Trap(pattern, None, nth))

    def _set_trap(self, trap: Trap) -> Trap:
        async def change() -> None:
            self._line.trap = trap

        self._call(change)
        return trap

    def _call(self, function: Callable[[], Coroutine[None, None, None]]) -> None:
        if self._loop is None:
            raise RuntimeError("the proxy has not been started")
        asyncio.run_coroutine_threadsafe(function(), self._loop).result(SECONDS)

    async def _begin(self) -> None:
        self._line.flowing.set()
        self._accepting = asyncio.create_task(self._accept())

    async def _end(self) -> None:
        assert self._accepting is not None
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        await self._cut()

    async def _cut(self) -> None:
        if links := list(self._links):
            for link in links:
                link.cancel()
            await asyncio.wait(links)

    async def _accept(self) -> None:
        assert self._listener is not None
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            self._accepted += 1
            if self._line.refusing:
                _reset(client)
                continue
            link = asyncio.create_task(_Link(self._line, client).run(self._target))
            self._links.add(link)
            link.add_done_callback(self._links.discard)


class _Link:
    """One client's connection, and the one to the server for it."""

    def __init__(self, line: _Line, client: socket.socket) -> None:
        self._line = line
        self._client = client
        self._server = socket.socket()
        self._sent = b""
        self._trap: Trap | None = None
        self._answered = b""

    async def run(self, target: int) -> None:
        """Forward until both sides have ended, or one was reset; then the other one is reset too."""
        close: Callable[[socket.socket], None] = _reset
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


def _reset(end: socket.socket) -> None:
    """Close at once: nothing waits to be sent, nothing that arrived counts, and the other end gets RST."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
