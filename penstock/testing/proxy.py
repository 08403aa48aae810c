"""A TCP proxy between a client and a server of 127.0.0.1 that can do what networks do: cut, stall, slow down, lose an answer.

It runs in a thread of its own, so that it works beside blocking clients and beside any event loop; its methods may be called from
everywhere, return as soon as what they say has been done, and can be called again at any time. What a reset is: RFC 9293, 3.5.2.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType

from penstock.testing._proxy_links import SECONDS, Line, Link, Trap, reset

__all__ = ["Proxy", "Trap"]


class Proxy:
    """Listens on a free port of 127.0.0.1 from `start` (or the begin of a `with` block) to `close`, and forwards to `target`.

    :param target: the server's port on 127.0.0.1.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._line = Line()
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
                reset(client)
                continue
            link = asyncio.create_task(Link(self._line, client).run(self._target))
            self._links.add(link)
            link.add_done_callback(self._links.discard)
