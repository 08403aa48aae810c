"""`/healthz`, `/readyz` and `/metrics` of the runs in this process, for `pipe run --http`.

A server of a few lines: GET and HEAD, one request a connection, loopback only. A request's head is bounded in size and time, and
so is the number of connections. The Host header must name this machine, so that a web page whose name was made to point at
127.0.0.1 (DNS rebinding) reads nothing.

Source: RFC 9112, HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from penstock.clock import Clock
from penstock.errors import EnvironmentFault, UsageError
from penstock.observe.log import Incident, Log
from penstock.observe.status import RunStatus
from penstock.observe.text import printable

MAX_HEAD = 8192
MAX_CONNECTIONS = 64
HEAD_SECONDS = 5.0
WRITE_SECONDS = 10.0
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[::1]:PORT` or `localhost:PORT`.

    :raises UsageError: `http.bad_address`, or `http.not_loopback` for an address that other machines could reach.
    """
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError("http.bad_address", f"{text!r} is no address to listen on", help="HOST:PORT, such as 127.0.0.1:4195")
    if not _is_loopback(host):
        raise UsageError(
            "http.not_loopback",
            f"{host} can be reached from other machines, and what is served there asks nobody who they are",
            help=f"--http 127.0.0.1:{port}, behind a proxy that authenticates",
        )
    return Address(host, int(port))


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent back; the body is left out where HEAD asked."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, *, with_body: bool) -> bytes:
        head = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join([*head, "", ""]).encode("ascii") + (self.body if with_body else b"")


def _plain(status: HTTPStatus, *lines: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, "".join(f"{line}\n" for line in lines or (status.phrase,)).encode(), headers=headers)


@dataclass(slots=True)
class ObserveServer:
    """Serves the status of some runs: `start`, then `close`; or `async with`.

    :ivar runs: read at each request; the list may grow.
    """

    runs: Sequence[RunStatus]
    address: Address
    clock: Clock
    log: Log
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> Address:
        """Listen, and say where.

        :raises EnvironmentFault: `http.cannot_listen`.
        """
        try:
            self._server = await asyncio.start_server(self._accept, self.address.host, self.address.port, limit=MAX_HEAD)
        except OSError as error:
            raise EnvironmentFault(
                "http.cannot_listen", f"cannot listen on {self.address}", why=error.strerror, help="choose another port"
            ) from error
        return Address(self.address.host, self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End listening, and every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def __aenter__(self) -> Address:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="http")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with_body, response = await self._exchange(reader)
            writer.write(response.encode(with_body=with_body))
            async with asyncio.timeout(WRITE_SECONDS):
                await writer.drain()
        except (ConnectionError, TimeoutError):
            return  # the other side went away, or reads nothing: there is nobody to tell, and nothing of the run is amiss
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader) -> tuple[bool, Response]:
        """Whether a body is wanted, and the response."""
        if len(self._connections) > MAX_CONNECTIONS:
            return True, _plain(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections")
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return True, _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except TimeoutError:
            return True, _plain(HTTPStatus.REQUEST_TIMEOUT)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError from error
        try:
            return self.answer(head)
        except Exception as error:  # supervision point: what a run or a component says of itself fails one request, not the run
            self.log(Incident("error", "http.failed", f"a page cannot be made: {type(error).__name__}: {error}"))
            return True, _plain(HTTPStatus.INTERNAL_SERVER_ERROR)

    def answer(self, head: bytes) -> tuple[bool, Response]:
        """The response to a request's head, its empty line included."""
        request, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        parts = request.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return True, _plain(HTTPStatus.BAD_REQUEST)
        method, target, _ = parts
        hosts = [value.strip() for name, _, value in (line.partition(":") for line in fields) if name.lower() == "host"]
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return True, _plain(HTTPStatus.MISDIRECTED_REQUEST, "the Host header does not name this machine")
        if method not in ("GET", "HEAD"):
            return True, _plain(HTTPStatus.METHOD_NOT_ALLOWED, headers=(("Allow", "GET, HEAD"),))
        return method == "GET", self._page(target.partition("?")[0])

    def _is_ours(self, host: str) -> bool:
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return _is_loopback(name.removeprefix("[").removesuffix("]"))

    def _page(self, path: str) -> Response:
        if path == "/healthz":
            return _plain(HTTPStatus.OK, "ok")
        if path == "/readyz":
            reasons = not_ready(self.runs)
            return _plain(HTTPStatus.SERVICE_UNAVAILABLE, *reasons) if reasons else _plain(HTTPStatus.OK, "ready")
        if path == "/metrics":
            from penstock.observe.metrics import CONTENT_TYPE, render_metrics  # its library takes 40 ms to import

            return Response(HTTPStatus.OK, render_metrics(self.runs, self.clock), CONTENT_TYPE)
        return _plain(HTTPStatus.NOT_FOUND, "there are /healthz, /readyz and /metrics")


def not_ready(runs: Sequence[RunStatus]) -> list[str]:
    """Why the process is not ready, a line each; empty when it is. A run that ended well counts only where all have ended."""
    counting = [run for run in runs if run.phase != "stopped"] or list(runs)
    reasons = []
    for run in counting:
        if not run.ready:
            reasons.append(f"{run.pipeline}: {'; '.join(filter(None, (run.waiting, run.paused))) or run.phase}")
        reasons.extend(f"{run.pipeline}: {component}: {wrong}" for component, wrong in sorted(run.health().items()))
    return [printable(reason) for reason in reasons] or ([] if runs else ["no pipeline is running"])
