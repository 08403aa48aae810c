"""The proxy between client and server: what it forwards, holds back, cuts, and which answers it loses."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import psycopg
import pytest
from server_parts import MakeProxy

from penstock.testing.proxy import Proxy
from penstock.testing.servers import Database

SECONDS = 10.0


@dataclass
class Echo:
    """A server that gives back what it gets, and notes it."""

    port: int = 0
    received: bytearray = field(default_factory=bytearray)
    resets: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await self.note(data)
            writer.close()
        except ConnectionResetError:
            self.resets += 1
            await self.note(b"")

    async def note(self, data: bytes) -> None:
        async with self.changed:
            self.received += data
            self.changed.notify_all()

    async def until_received(self, data: bytes, *, resets: int = 0) -> None:
        async with self.changed, asyncio.timeout(SECONDS):
            await self.changed.wait_for(lambda: (bytes(self.received), self.resets) == (data, resets))


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    async with await asyncio.start_server(echo.serve, "127.0.0.1", 0) as server:
        echo.port = server.sockets[0].getsockname()[1]
        yield echo


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, proxy: Proxy) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def get(self, size: int) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.readexactly(size)

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.get(len(data))

    async def assert_reset(self) -> None:
        with pytest.raises(ConnectionResetError):
            await self.get(1)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def test_it_forwards_both_ways_and_ends_when_both_have_ended(echo: Echo, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(echo.port)
    client = await Client.connect(proxy)
    big = bytes(range(256)) * 4096
    assert await client.ask(big) == big
    assert (proxy.connections, proxy.accepted) == (1, 1)
    client.writer.write_eof()
    async with asyncio.timeout(SECONDS):
        assert await client.reader.read() == b""
    await client.close()
    assert (bytes(echo.received), echo.resets) == (big, 0)


async def test_a_cut_resets_both_sides_and_new_connections_are_served(echo: Echo, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(echo.port)
    client = await Client.connect(proxy)
    assert await client.ask(b"one") == b"one"
    proxy.cut()
    await client.assert_reset()
    await echo.until_received(b"one", resets=1)
    again = await Client.connect(proxy)
    assert await again.ask(b"two") == b"two"
    assert (proxy.connections, proxy.accepted) == (1, 2)
    await again.close()


async def test_new_connections_are_reset_while_it_refuses(echo: Echo, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(echo.port)
    client = await Client.connect(proxy)
    assert await client.ask(b"one") == b"one"
    proxy.refuse()
    await client.assert_reset()
    with pytest.raises(ConnectionResetError):
        await (await Client.connect(proxy)).get(1)
    proxy.forward()
    again = await Client.connect(proxy)
    assert await again.ask(b"two") == b"two"
    await again.close()


async def test_what_was_stalled_arrives_in_order_when_it_forwards_again(echo: Echo, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(echo.port)
    present = await Client.connect(proxy)
    assert await present.ask(b"a") == b"a"
    proxy.stall()
    late = await Client.connect(proxy)
    late.writer.write(b"z")
    present.writer.write(b"b")
    present.writer.write(b"c")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(present.reader.read(1), 0.1)
    assert bytes(echo.received) == b"a"
    proxy.forward()
    assert await present.get(2) == b"bc"
    assert await late.get(1) == b"z"
    await present.close()
    await late.close()


async def test_a_stalled_connection_can_be_cut(echo: Echo, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(echo.port)
    client = await Client.connect(proxy)
    assert await client.ask(b"a") == b"a"
    proxy.stall()
    client.writer.write(b"b")
    proxy.cut()
    await client.assert_reset()
    await echo.until_received(b"a", resets=1)


async def test_bytes_drip_at_the_rate_that_was_set(echo: Echo, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(echo.port)
    client = await Client.connect(proxy)
    proxy.drip(1000)
    begin = time.monotonic()
    assert await client.ask(b"x" * 150) == b"x" * 150
    assert time.monotonic() - begin > 0.14
    proxy.forward()
    big = b"y" * 1_000_000
    assert await client.ask(big) == big
    await client.close()


async def test_an_answer_is_lost_after_a_pattern_that_was_spread_over_packets(echo: Echo, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(echo.port)
    client, other = await Client.connect(proxy), await Client.connect(proxy)
    trap = proxy.cut_after(b"COMMIT")
    assert await client.ask(b"first COM") == b"first COM"
    assert await other.ask(b"MIT") == b"MIT"
    assert not trap.struck
    client.writer.write(b"MIT; rest")
    await client.assert_reset()
    await asyncio.to_thread(trap.wait, SECONDS)
    await echo.until_received(b"first COMMITMIT; rest", resets=1)
    assert await other.ask(b"COMMIT") == b"COMMIT"
    await other.close()


async def test_a_lost_request_reaches_nobody(echo: Echo, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(echo.port)
    client = await Client.connect(proxy)
    assert await client.ask(b"first") == b"first"
    trap = proxy.cut_before(b"COMMIT")
    client.writer.write(b"the COMMIT")
    await client.assert_reset()
    await echo.until_received(b"first", resets=1)
    await asyncio.to_thread(trap.wait, SECONDS)
    assert trap.struck


async def test_a_trap_can_wait_for_a_later_request(echo: Echo, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(echo.port)
    client, other = await Client.connect(proxy), await Client.connect(proxy)
    trap = proxy.cut_before(b"COMMIT", nth=3)
    assert await client.ask(b"COMMIT") == b"COMMIT"
    assert await client.ask(b"between") == b"between"
    assert await other.ask(b"COMMIT") == b"COMMIT"
    client.writer.write(b"COMMIT")
    await client.assert_reset()
    await asyncio.to_thread(trap.wait, SECONDS)
    assert await other.ask(b"COMMIT") == b"COMMIT"
    await other.close()


async def test_a_trap_that_nothing_sprang_is_told_by_its_pattern(echo: Echo, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(echo.port)
    trap = proxy.cut_before(b"COMMIT")
    with pytest.raises(TimeoutError, match=r"no connection was cut at b'COMMIT' within 0\.01 s"):
        trap.wait(0.01)
    with pytest.raises(ValueError, match="1 to 256 bytes"):
        proxy.cut_after(b"")


async def test_a_server_that_is_away_is_a_reset_to_the_client(make_proxy: MakeProxy, echo: Echo) -> None:
    away = make_proxy(echo.port)
    proxy = make_proxy(away.port)
    away.close()
    with pytest.raises(ConnectionResetError):
        await (await Client.connect(proxy)).get(1)


async def test_a_closed_proxy_listens_no_more_and_leaves_no_thread(echo: Echo) -> None:
    threads = set(threading.enumerate())
    with Proxy(echo.port) as proxy:
        port = proxy.port
        client = await Client.connect(proxy)
        assert await client.ask(b"a") == b"a"
    proxy.close()
    await client.assert_reset()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    assert set(threading.enumerate()) == threads


@pytest.mark.parametrize(("reached", "rows"), [(True, [(1,)]), (False, [])])
def test_the_outcome_of_a_commit_is_as_the_trap_says(
    database: Database, make_proxy: MakeProxy, reached: bool, rows: list[tuple[int]]
) -> None:
    database.execute("CREATE TABLE orders (id int)")
    proxy = make_proxy(database.server.port)
    with psycopg.connect(database.dsn_through(proxy.port)) as connection:
        connection.execute("INSERT INTO orders VALUES (1)")
        trap = proxy.cut_after(b"COMMIT", b"COMMIT") if reached else proxy.cut_before(b"COMMIT")
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    trap.wait()
    assert database.execute("SELECT id FROM orders") == rows
